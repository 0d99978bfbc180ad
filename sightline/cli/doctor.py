"""`sightline doctor`: what is wrong with a suite or with what it depends on, and what to do about it."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.console import notes
from sightline.cli.reporting import CommandError, report
from sightline.cli.up import DATA

NEEDED = ("services", "nats", "minio", "pydantic_settings")
OF_THE_STORE = ("SIGHTLINE_NATS_URL", "SIGHTLINE_STORE_DIRECTORY", "SIGHTLINE_S3_ENDPOINT")


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of a suite started by `sightline up`; .sightline if it exists."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Check only nats, store, services, devices, memory, folders or weights; repeatable."),
    ] = None,
    nats_monitor: Annotated[
        str, typer.Option(metavar="URL", help="nats-server's monitoring endpoint, such as http://nats:8222.")
    ] = "",
) -> None:
    """Check NATS, the store, the services and this machine, and say what to do. Exits with 1 if anything is wrong.

    It uses this machine's network and environment: run it where the services run, with their variables.
    """
    try:
        environment = _environment(data)
    except CommandError as error:
        raise typer.Exit(report(error, notes())) from None
    command = [sys.executable, "-m", "services.infra.doctor", *(["--json"] if json else [])]
    command += [word for area in only or () for word in ("--only", area)]
    command += ["--nats-monitor", nats_monitor] if nats_monitor else []
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)


def _environment(data: Path | None) -> dict[str, str]:
    """This process's environment, with the places of a local suite; CommandError if nothing can be checked."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise CommandError(
            f"the services are not installed here ({', '.join(missing)} missing)",
            fix="pip install 'sightline-services[all]'",
        )
    environment = dict(os.environ)
    if data is None and (any(os.environ.get(name) for name in OF_THE_STORE) or not DATA.is_dir()):
        return environment
    folder = (data or DATA).resolve()
    try:
        port = int((folder / "nats" / "port").read_text())
    except (OSError, ValueError):
        raise CommandError(
            f"{folder} is not the folder of a suite", fix="pass the folder that `sightline up` uses with --data"
        ) from None
    environment |= {
        "SIGHTLINE_NATS_URL": f"nats://127.0.0.1:{port}",
        "SIGHTLINE_STORE_DIRECTORY": str(folder / "store"),
    }
    return environment
