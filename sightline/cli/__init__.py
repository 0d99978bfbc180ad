"""The command `sightline`."""

import io
import os
import sys
import warnings


def main() -> None:
    """Runs the command line of this process.

    What the terminal's encoding lacks is printed as a question mark.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC reads it when it is imported; the errors below say it all
    if not sys.warnoptions:  # libraries' warnings are for their programmers, not for whoever runs the command
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    from sightline.cli.commands import app  # noqa: PLC0415 - imports gRPC

    app()
