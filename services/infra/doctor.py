"""Checks a running suite and what it depends on: `python -m services.infra.doctor`, which `sightline doctor` runs.

It checks from where it runs, with the services' settings: run it in a pod, or on a machine, that has them.
Exit status 1 if there is any fault.
"""

import argparse
import asyncio
import io
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from services.infra.doctor_keys import check_keys
from services.infra.doctor_machine import check_confinement, check_devices, check_folders, check_memory, check_weights
from services.infra.doctor_nats import check_nats
from services.infra.doctor_services import check_gateway, check_services
from services.infra.doctor_store import check_store
from services.infra.doctor_variables import check_variables
from services.infra.findings import Finding, Report, as_json, as_text, examine, has_faults
from services.kit.settings import Settings, load

OF_CALLERS = ("services", "gateway")  # a worker calls neither, and a network policy may forbid it


class DoctorSettings(Settings):
    """The settings of all services, and single services' folders and devices."""

    work_dir: Path | None = None
    scratch_directory: Path | None = None
    model_cache_directory: Path | None = None
    weights_dir: Path | None = None
    download_weights: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    child_network: Literal["auto", "none", "shared"] = "auto"
    child_files: Literal["auto", "all"] = "auto"
    signing_key: SecretStr = SecretStr("")
    bundle_key: Path | None = None
    bundle_signatures: Literal["require", "accept", "off"] = "require"
    gateway_url: str = ""  # empty: where `sightline up` has it


def main() -> None:
    """Prints what it finds."""
    settings = load(DoctorSettings)
    checks = _checks(settings, "")
    parser = argparse.ArgumentParser(prog="sightline doctor", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--only", action="append", choices=list(checks), help="check this alone; may be repeated")
    parser.add_argument("--inside", action="store_true", help="check what a trainer worker needs, in its pod")
    parser.add_argument("--nats-monitor", default="", metavar="URL", help="nats-server's monitoring endpoint")
    parser.add_argument("--settings", action="store_true", help="print the settings, secrets masked")
    arguments = parser.parse_args()
    if arguments.settings:
        sys.stdout.write(settings.masked() + "\n")
        return
    logging.disable(logging.CRITICAL)  # problems are in the report
    chosen = {
        area: check
        for area, check in _checks(settings, arguments.nats_monitor).items()
        if (not arguments.only or area in arguments.only) and not (arguments.inside and area in OF_CALLERS)
    }
    findings = asyncio.run(diagnose(chosen))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a path may contain what the terminal cannot encode
    sys.stdout.write((as_json(findings) if arguments.json else as_text(findings)) + "\n")
    if has_faults(findings):
        raise SystemExit(1)


def _checks(settings: DoctorSettings, nats_monitor: str) -> dict[str, Callable[[Report], Awaitable[None]]]:
    names = ("work_dir", "scratch_directory", "model_cache_directory")
    folders: dict[str, Path | None] = {f"SIGHTLINE_{name.upper()}": getattr(settings, name) for name in names}
    key_file = os.environ.get("SIGHTLINE_SIGNING_KEY_FILE")
    return {
        "settings": check_variables,
        "nats": partial(check_nats, settings=settings, monitor_url=nats_monitor),
        "store": partial(check_store, settings=settings),
        "services": partial(check_services, settings=settings),
        "gateway": partial(check_gateway, url=settings.gateway_url, authority=settings.tls_ca),
        "keys": partial(
            check_keys,
            signing_key=settings.signing_key.get_secret_value(),
            signing_file=Path(key_file) if key_file else None,
            bundle_key=settings.bundle_key,
            rule=settings.bundle_signatures,
        ),
        "devices": partial(check_devices, wanted=settings.device),
        "memory": check_memory,
        "confinement": partial(check_confinement, network=settings.child_network, files=settings.child_files),
        "folders": partial(check_folders, folders=folders),
        "weights": partial(check_weights, folder=settings.weights_dir, download=settings.download_weights),
    }


async def diagnose(checks: dict[str, Callable[[Report], Awaitable[None]]]) -> list[Finding]:
    """What all checks find, in order; they run concurrently."""
    found = await asyncio.gather(*(examine(area, check) for area, check in checks.items()))
    return [finding for findings in found for finding in findings]


if __name__ == "__main__":
    main()
