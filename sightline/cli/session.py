"""One command's client, whose failures end the command."""

from collections.abc import Generator
from contextlib import contextmanager

import typer

from sightline.cli.console import notes, progress_bar
from sightline.cli.reporting import report, told_of_file
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
        raise typer.Exit(report(told_of_file(error), notes())) from None
    except KeyboardInterrupt:
        notes().print("[yellow]interrupted[/]; what the services have begun continues")
        raise typer.Exit(INTERRUPTED) from None
