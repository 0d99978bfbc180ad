"""`die_with_parent.py PARENT COMMAND...` runs a command that the kernel kills when its parent ends.

A parent killed with SIGKILL cannot stop its children. So the child, before it becomes the command, asks the kernel to
kill it when its parent ends. (Here, and not between fork and exec in the parent, where Python code is unsafe once
there are threads.) Linux only; elsewhere the command outlives its parent.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Becomes the command; exits immediately if the parent has already ended."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)
    os.umask(0o077)  # what the command writes is its user's own
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
