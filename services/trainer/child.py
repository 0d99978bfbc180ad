"""The training child: imports torch, says Ready, takes one task from stdin, answers on stdout, exits.

Nothing else may write to the pipe: what libraries print goes to stderr.
"""

import os
import sys
import threading
import time

from services.trainer.protocol import Message, Ready, receive_task, send


def main() -> int:
    """One task; 0 unless the pipe broke."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a busy machine
    started = time.monotonic()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from services.trainer.engine import run  # noqa: PLC0415 - after the descriptors are safe, and OpenMP's settings

    device, name = run.warm_up()
    lock = threading.Lock()

    def say(message: Message) -> None:
        with lock:
            send(pipe, message)

    try:
        say(Ready(device=device, device_name=name, import_seconds=time.monotonic() - started))
        task = receive_task(sys.stdin.buffer)
        if task is not None:
            say(run.run(task, say))
    except BrokenPipeError:
        return 1  # the worker is gone; so is the reason for this process
    return 0


if __name__ == "__main__":
    sys.exit(main())
