"""`sightline keys`: static keys for callers without a token issuer, and keys that sign models."""

import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sightline.cli.console import notes
from sightline.cli.installed import environment, require
from sightline.cli.reporting import CommandError, UsageError, report
from sightline.client import keys

app = typer.Typer(
    help="Make keys: static tokens that the services recognise by a line in a file, and keys that sign models.",
    no_args_is_help=True,
)


class Role(StrEnum):
    """The roles of the services."""

    VIEWER = "viewer"
    PREDICTOR = "predictor"
    TRAINER = "trainer"
    ADMIN = "admin"


@app.callback()
def _group() -> None: ...


@app.command("make")
def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The caller's name, which logs show.")],
    role: Annotated[Role, typer.Option(help="What the caller may do.")],
    project: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROJECT",
            help="A project for which the key is valid, or * for all. Can be repeated; by default `default`.",
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add the line to this file (SIGHTLINE_AUTH_KEYS).")
    ] = None,
) -> None:
    """Make a key for a caller, and the line by which the services recognise it.

    The key is printed once and stored nowhere. Standard output has only the key and, without --file, the line.
    """
    try:
        key, line = _made(name, role.value, project or [], file)
    except CommandError as error:
        raise typer.Exit(report(error, notes())) from None
    print(key)
    if file is None:
        print(line)
        notes().print(
            "The first line is the key: give it to the caller as SIGHTLINE_TOKEN. Add the second to the file that"
            " SIGHTLINE_AUTH_KEYS names where the services run.",
            soft_wrap=True,
        )
    else:
        notes().print(f"added {escape(name)} ({role.value}) to {escape(str(file))}", soft_wrap=True)


@app.command("signing")
def signing(
    private: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The new private key, for trainer workers: SIGHTLINE_SIGNING_KEY_FILE."),
    ] = Path("signing-key.pem"),
    public: Annotated[
        Path, typer.Option(metavar="FILE", help="New public key, for predictors and workers: SIGHTLINE_BUNDLE_KEY.")
    ] = Path("bundle-key.pem"),
) -> None:
    """Make a pair of keys: trainer workers sign models with one, they and predictors check them with the other.

    Whoever has the public key refuses models that are not signed, unless SIGHTLINE_BUNDLE_SIGNATURES is `accept`.
    To change keys, append the new public key to the file with the old one.
    """
    try:
        _write_pair(private, public)
    except CommandError as error:
        raise typer.Exit(report(error, notes())) from None
    notes().print(f"wrote {escape(str(private))} and {escape(str(public))}", soft_wrap=True)


@app.command("sign-models")
def sign_models(
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of a suite started by `sightline up`; .sightline if it exists."),
    ] = None,
) -> None:
    """Sign the models that were trained before there was a key, or with another one.

    It trusts the records and the store as they are now, and signs no bundle that differs from its record. Away from
    `sightline up` it needs the variables of the trainer's api, and SIGHTLINE_SIGNING_KEY_FILE.
    """
    try:
        require("services", "nats", "minio", "pydantic_settings")
        variables = environment(data)
    except CommandError as error:
        raise typer.Exit(report(error, notes())) from None
    command = [sys.executable, "-m", "services.trainer", "sign"]
    raise typer.Exit(subprocess.run(command, env=variables, check=False).returncode)


def _write_pair(private: Path, public: Path) -> None:
    try:
        from sightline.client import signing_keys  # noqa: PLC0415 - needs a package that callers lack

        signing_keys.write(private, public)
    except ImportError as error:
        fix = "pip install 'sightline-services'"
        raise CommandError(f"{error.name} is not installed here", fix=fix) from error
    except OSError as error:
        raise CommandError(f"the keys cannot be written: {error}") from None


def _made(name: str, role: str, projects: list[str], file: Path | None) -> tuple[str, str]:
    try:
        key, line = keys.make(name, role, projects)
        if file is not None:
            keys.append(file, line)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise CommandError(f"the line cannot be added to the file: {error}") from None
    return key, line
