"""`sightline doctor`: what is wrong with a suite or with what it depends on, and what to do about it."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.console import notes, warn
from sightline.cli.installed import environment, is_configured, local_folder, require
from sightline.cli.reporting import CommandError, report

NEEDED = ("services", "nats", "minio", "pydantic_settings")


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of a suite started by `sightline up`; .sightline if it exists."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Check only settings, nats, store, services, gateway, keys, devices, memory, confinement, folders or "
            "weights; can be repeated."
        ),
    ] = None,
    inside: Annotated[
        bool, typer.Option("--inside", help="Check what a trainer worker needs: run it in the worker's pod.")
    ] = False,
    nats_monitor: Annotated[
        str, typer.Option(metavar="URL", help="nats-server's monitoring endpoint, such as http://nats:8222.")
    ] = "",
) -> None:
    """Check NATS, the store, the services and this machine, and say what to do. Exits with 1 if anything is wrong.

    It uses this machine's network and environment: run it where the services run, with their variables.
    """
    try:
        require(*NEEDED)
        variables = environment(data)
        if local_folder(data) is None and not is_configured():
            warn("there is no suite of `sightline up` in this folder; if it is elsewhere, name its folder: --data DIR")
    except CommandError as error:
        raise typer.Exit(report(error, notes())) from None
    command = [sys.executable, "-m", "services.infra.doctor", *(["--json"] if json else [])]
    command += [word for area in only or () for word in ("--only", area)]
    command += ["--inside"] if inside else []
    command += ["--nats-monitor", nats_monitor] if nats_monitor else []
    raise typer.Exit(subprocess.run(command, env=variables, check=False).returncode)
