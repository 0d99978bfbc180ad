"""The training child: imports torch, sends Ready, reads one task from stdin, replies on stdout, exits.

Its one argument is the device: `auto` (the default), `cpu` or `cuda`.

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

from services.trainer.framing import receive_signal, receive_task, send
from services.trainer.messages import Message, Ready, Unusable

if TYPE_CHECKING:
    from services.trainer.engine.session import Signals

PR_SET_PDEATHSIG = 1  # linux/prctl.h
STDIN = 0


def main() -> int:
    """Runs one task; returns 0 unless the pipe broke or the device cannot be used."""
    _die_with_parent()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a busy machine
    started = time.monotonic()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from services.trainer.engine import run  # noqa: PLC0415 - stdout and OpenMP must be set up first
    from services.trainer.engine.session import Signals  # noqa: PLC0415 - likewise, not before
    from services.trainer.engine.warm_up import warm_up  # noqa: PLC0415 - likewise, not before
    from services.vision.device import DeviceUnusable  # noqa: PLC0415 - likewise, not before

    try:
        device = warm_up(*sys.argv[1:])
    except DeviceUnusable as error:
        send(pipe, Unusable(problem=str(error)))
        return 1
    ready = Ready(
        device=device.kind,
        import_seconds=time.monotonic() - started,
        problem=device.problem,
    )
    lock = threading.Lock()

    def send_message(message: Message) -> None:
        with lock:
            send(pipe, message)

    try:
        send_message(ready)
        stdin = os.fdopen(STDIN, "rb", closefd=False)
        task = receive_task(stdin)
        if task is not None:
            signals = Signals()
            threading.Thread(target=_follow, args=(stdin, signals), name="stdin", daemon=True).start()
            send_message(run.run(task, send_message, signals))
    except BrokenPipeError:
        return 1  # the worker is gone
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
