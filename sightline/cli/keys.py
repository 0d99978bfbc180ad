"""`sightline keys`: static keys for callers that have no issuer of tokens."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sightline.cli.console import notes
from sightline.cli.failures import CommandError, UsageError, report
from sightline.client import keys

app = typer.Typer(help="Keys: tokens that the services know by a line in a file.", no_args_is_help=True)


class Role(StrEnum):
    """What the services know by these names."""

    VIEWER = "viewer"
    PREDICTOR = "predictor"
    TRAINER = "trainer"
    ADMIN = "admin"


@app.callback()
def _group() -> None: ...


@app.command("make")
def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is; logs show it.")],
    role: Annotated[Role, typer.Option(help="What its bearer may do.")],
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add the line to this file (SIGHTLINE_AUTH_KEYS) at once.")
    ] = None,
) -> None:
    """Make a key for a caller, and the line by which the services know it.

    The key is printed once and kept nowhere: standard output has nothing but the key, and with no --file the line
    after it.
    """
    try:
        key, line = _made(name, role.value, file)
    except CommandError as error:
        raise typer.Exit(report(error, notes())) from None
    print(key)
    if file is None:
        print(line)
        notes().print(
            "The first line is the key: give it to the caller, as SIGHTLINE_TOKEN. The second belongs into the file"
            " that SIGHTLINE_AUTH_KEYS of the services names.",
            soft_wrap=True,
        )
    else:
        notes().print(f"added {escape(name)} ({role.value}) to {escape(str(file))}", soft_wrap=True)


def _made(name: str, role: str, file: Path | None) -> tuple[str, str]:
    try:
        key, line = keys.make(name, role)
        if file is not None:
            keys.append(file, line)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise CommandError(f"the line cannot be added: {error}") from None
    return key, line
