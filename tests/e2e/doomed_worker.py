"""The trainer worker as it is, but whose training processes die with their tasks; its arguments are the worker's."""

import os
import sys

from services.trainer import __main__ as process
from services.trainer.framing import receive_task, send
from services.trainer.messages import Ready

CHILD = "child"


def main() -> None:
    """Runs the worker, or a training process that ends as soon as it has its task."""
    if sys.argv[1] != CHILD:
        process.COMMAND = (sys.executable, "-m", "tests.e2e.doomed_worker", CHILD)
        process.main()
        return
    with os.fdopen(os.dup(1), "wb") as pipe, os.fdopen(0, "rb", closefd=False) as stdin:
        send(pipe, Ready(device="cpu", import_seconds=0.1))
        receive_task(stdin)
    os._exit(3)


if __name__ == "__main__":
    main()
