"""`sightline calibrate`: how fast this machine's device is, as the setting that workers need."""

import subprocess
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from sightline.cli.console import notes
from sightline.cli.reporting import CommandError, report

NEEDED = ("services", "torch", "torchvision", "pydantic_settings")


def calibrate(
    runs: Annotated[int, typer.Option(min=1, max=100, help="How often to measure; the median counts.")] = 7,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Measure this machine's device and print the SIGHTLINE_DEVICE_FACTOR for its workers. Takes under a minute.

    It measures what a worker would use here, by SIGHTLINE_DEVICE and SIGHTLINE_THREADS: a GPU if there is one. Run it
    while the machine does nothing else.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        error = CommandError(
            f"the services are not installed here ({', '.join(missing)} missing)",
            fix="pip install 'sightline-services[all]'",
        )
        raise typer.Exit(report(error, notes()))
    command = [sys.executable, "-m", "services.trainer.engine.calibrate", "--runs", str(runs)]
    raise typer.Exit(subprocess.run([*command, *(["--json"] if json else [])], check=False).returncode)
