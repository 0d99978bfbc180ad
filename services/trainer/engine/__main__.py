"""The training child: imports torch, sends Ready, reads one task from stdin, replies on stdout, exits.

Its arguments are the device, `auto` (the default), `cpu` or `cuda`; how many processes compute a training together,
1 by default, 0 for one per GPU; whether it leaves the network, `auto`, `none` or `shared` (the default); how many bytes
it may allocate; and the folders that it keeps to, of which it writes to the first only. With several processes it
becomes torchrun; then only the first one reads and writes the pipe, and they share the network, by which they meet.

Nothing else may write to the pipe: what libraries print goes to stderr. The child never outlives its worker, which
keeps stdin open as long as it wants a result, and may be killed at any moment.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, BinaryIO

from services.trainer.engine.confine import Confined, confine
from services.trainer.engine.launch import become_torchrun, is_launched, processes_wanted, take_own_gpu
from services.trainer.framing import receive_signal, receive_task, send
from services.trainer.messages import Failed, Message, Ready, Unusable

if TYPE_CHECKING:
    from services.trainer.engine.group import Group, Processes
    from services.trainer.engine.session import Signals

PR_SET_PDEATHSIG = 1  # linux/prctl.h
STDIN = 0


def main() -> int:
    """Runs one task; returns 0 unless the pipe broke, the device cannot be used, or a group failed."""
    _die_with_parent()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a busy machine
    started = time.monotonic()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    device, processes, network, memory, *folders = [*sys.argv[1:], *("auto", "1", "shared", "0")[len(sys.argv) - 1 :]]
    confined = Confined()
    if is_launched():
        take_own_gpu()
    else:
        try:
            wanted = processes_wanted(device, int(processes))
        except ValueError as error:
            send(pipe, Unusable(problem=str(error)))
            return 1
        if wanted > 1:
            os.dup2(pipe.fileno(), 1)
            become_torchrun(device, wanted)
        confined = confine(device, network, int(memory), folders)
        _die_with_parent()  # again, lest new rights have ended it
    return _serve(pipe, device, started, confined)


def _serve(pipe: BinaryIO, device: str, started: float, confined: Confined) -> int:
    """Imports torch, then waits for a task and runs it: alone, as the leader of a group, or as a follower."""
    from services.trainer.engine.group import ALONE, Processes  # noqa: PLC0415 - stdout and OpenMP must be set up first
    from services.trainer.engine.warm_up import warm_up  # noqa: PLC0415 - likewise, not before
    from services.vision.device import DeviceUnusable, memory_bytes  # noqa: PLC0415 - likewise, not before

    group = Processes() if is_launched() else ALONE
    try:
        chosen = warm_up(device)
    except DeviceUnusable as error:
        if group.leads:
            send(pipe, Unusable(problem=str(error)))
        return 1
    group.meet()
    if isinstance(group, Processes) and not group.leads:
        return _follow_leader(group)
    devices = group.size if chosen.kind == "cuda" else 1
    seconds, memory = time.monotonic() - started, memory_bytes(chosen.kind)
    ready = Ready(
        device=chosen.kind,
        import_seconds=seconds,
        problem=chosen.problem,
        devices=devices,
        memory_bytes=memory,
        network=confined.network,
        files=confined.files,
        memory_limit_bytes=confined.memory_limit_bytes,
    )
    try:
        return _lead(pipe, ready, group)
    except BrokenPipeError:
        return 1  # the worker is gone


def _lead(pipe: BinaryIO, ready: Ready, group: "Group") -> int:
    """Sends Ready, runs the task that follows, and sends its messages; BrokenPipeError."""
    from services.trainer.engine import run  # noqa: PLC0415 - see _serve
    from services.trainer.engine.session import Signals  # noqa: PLC0415 - likewise, not before

    lock = threading.Lock()

    def send_message(message: Message) -> None:
        with lock:
            send(pipe, message)

    send_message(ready)
    stdin = os.fdopen(STDIN, "rb", closefd=False)
    task = receive_task(stdin)
    group.agree_on(task)
    if task is not None:
        signals = Signals()
        threading.Thread(target=_follow, args=(stdin, signals), name="stdin", daemon=True).start()
        last = run.run(task, send_message, signals, group)
        send_message(last)
        if group.size > 1 and isinstance(last, Failed):
            return 1  # perhaps amid an order, so the followers cannot be told that it has ended
        group.close()
    return 0


def _follow_leader(group: "Processes") -> int:
    """A follower's part."""
    from services.trainer.engine.follow import follow  # noqa: PLC0415 - imports torch

    task = group.agree_on(None)
    if task is not None:
        follow(task, group)
        group.close()
    return 0


def _die_with_parent() -> None:
    """Has the kernel kill this process with its parent, at once, whatever Python is doing; Linux only.

    The signal comes when the *thread* that started this process ends: the worker starts it from its main thread,
    which runs the asyncio loop.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _follow(stdin: BinaryIO, signals: "Signals") -> None:
    """Passes the worker's signals on, and ends the process when the pipe closes.

    That covers systems other than Linux, and a worker that died before `_die_with_parent`.
    """
    try:
        while (signal := receive_signal(stdin)) is not None:
            signals.put(signal)
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
