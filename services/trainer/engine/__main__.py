"""The training child: imports torch, says Ready, takes one task from stdin, answers on stdout, exits.

Its one argument is the device to use: `auto` (as without one), `cpu` or `cuda`.

Nothing else may write to the pipe: what libraries print goes to stderr. Law: the child does not outlive its worker,
which keeps stdin open for as long as it wants an answer, and which may be killed at any moment.
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
    """One task; 0 unless the pipe broke, or the device that the argument asks for cannot be used."""
    _die_with_parent()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a busy machine
    started = time.monotonic()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from services.trainer.engine import run  # noqa: PLC0415 - after the descriptors are safe, and OpenMP's settings
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

    def say(message: Message) -> None:
        with lock:
            send(pipe, message)

    try:
        say(ready)
        stdin = os.fdopen(STDIN, "rb", closefd=False)
        task = receive_task(stdin)
        if task is not None:
            signals = Signals()
            threading.Thread(target=_follow, args=(stdin, signals), name="stdin", daemon=True).start()
            say(run.run(task, say, signals))
    except BrokenPipeError:
        return 1  # the worker is gone; so is the reason for this process
    return 0


def _die_with_parent() -> None:
    """Asks the kernel, which is at once even while no Python runs; Linux only.

    It sends the signal when the *thread* that started this process ends: the worker starts it from its main thread,
    in which asyncio's loop runs.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _follow(stdin: BinaryIO, signals: "Signals") -> None:
    """Passes the worker's signals on, and ends the process with the pipe.

    The latter wherever the kernel does not do it, and for a worker that died before it was asked.
    """
    try:
        while (signal := receive_signal(stdin)) is not None:
            signals.put(signal)
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
