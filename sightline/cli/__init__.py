"""The command `sightline`."""

import io
import os
import sys
import warnings


def main() -> None:
    """Runs the command with this process's arguments.

    Characters that the terminal's encoding lacks are printed as question marks.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC reads it on import; our errors say everything it would log
    if not sys.warnoptions:  # warnings of libraries are for developers, not for users of the command
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    from sightline.cli.commands import app  # noqa: PLC0415 - imports gRPC

    app()
