"""One command's client, whose failures end the command."""

from collections.abc import Generator
from contextlib import contextmanager

import typer

from sightline.cli.console import notes, progress_bar
from sightline.cli.reporting import CommandError, report
from sightline.client.client import Client
from sightline.client.errors import SightlineError

INTERRUPTED = 130


@contextmanager
def session(project: str = "") -> Generator[Client]:
    """A client for the block, in this project if one is given.

    Failures, also of local files, are reported on standard error and end the command with their exit code.
    """
    try:
        with Client(project=project, progress=progress_bar) as client:
            yield client
    except SightlineError as error:
        raise typer.Exit(report(error, notes())) from None
    except OSError as error:
        if error.filename is None:  # about no file: a broken pipe
            raise
        problem = f"{error.filename} cannot be read or written: {error.strerror}"
        raise typer.Exit(report(CommandError(problem, fix="correct the path, or its permissions"), notes())) from None
    except KeyboardInterrupt:
        notes().print("[yellow]interrupted[/]; what the services have begun continues")
        raise typer.Exit(INTERRUPTED) from None
