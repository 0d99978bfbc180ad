"""The command `sightline`."""

import io
import os
import sys
import warnings
from pathlib import Path
from typing import TextIO


def main() -> None:
    """Runs the command with this process's arguments.

    Characters that the terminal's encoding lacks are printed as question marks. Files that cannot be read or written
    are reported without a traceback, as are arguments that are not UTF-8 and cannot be sent, and Ctrl-C, also during
    the imports.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC reads it on import; our errors say everything it would log
    os.environ["PYTHONSAFEPATH"] = "1"  # processes started here import nothing that lies in the working directory
    if not sys.warnoptions:  # warnings of libraries are for developers, not for users of the command
        warnings.simplefilter("ignore")
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        from sightline.cli.commands import app  # noqa: PLC0415 - imports gRPC

        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, UnicodeEncodeError) as error:
        from sightline.cli.console import notes  # noqa: PLC0415 - imports protobuf
        from sightline.cli.reporting import not_utf8, report, told_of_file  # noqa: PLC0415 - imports gRPC

        sys.exit(report(told_of_file(error) if isinstance(error, OSError) else not_utf8(error), notes()))


def _nowhere() -> TextIO:
    """In place of a stream that was closed before the command started."""
    return Path(os.devnull).open("w", encoding="utf-8")
