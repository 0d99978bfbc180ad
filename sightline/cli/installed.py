"""What commands need that run the services' own programs on this machine."""

import os
from importlib.util import find_spec
from pathlib import Path

from sightline.cli.reporting import CommandError
from sightline.cli.up import DATA
from sightline.local import nats_users, signing

OF_THE_STORE = ("SIGHTLINE_NATS_URL", "SIGHTLINE_STORE_DIRECTORY", "SIGHTLINE_S3_ENDPOINT")


def require(*packages: str) -> None:
    """CommandError if one of these is not installed."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise CommandError(
            f"the services are not installed here ({', '.join(missing)} missing)",
            fix="pip install 'sightline-services[all]'",
        )


def local_folder(data: Path | None) -> Path | None:
    """The folder of the local suite that is meant; None if it is the suite of this environment."""
    if data is None and (is_configured() or not DATA.is_dir()):
        return None
    return (data or DATA).resolve()


def is_configured() -> bool:
    """Whether this environment names a suite's NATS or store."""
    return any(os.environ.get(name) for name in OF_THE_STORE)


def environment(data: Path | None) -> dict[str, str]:
    """This process's environment, with the places of a local suite; CommandError if `data` is not of one."""
    found = dict(os.environ)
    folder = local_folder(data)
    if folder is None:
        return found
    try:
        port = int((folder / "nats" / "port").read_text())
        passwords = nats_users.kept_passwords(folder / "nats" / nats_users.FILE)
    except (OSError, ValueError):
        raise CommandError(
            f"{folder} is not the folder of a suite", fix="pass the folder that `sightline up` uses with --data"
        ) from None
    keys = {} if signing.chosen({}) else signing.variables(folder, signs=True)
    return (
        found
        | keys
        | {
            "SIGHTLINE_NATS_URL": f"nats://127.0.0.1:{port}",
            "SIGHTLINE_NATS_USER": nats_users.ADMIN,
            "SIGHTLINE_NATS_PASSWORD": passwords[nats_users.ADMIN],
            "SIGHTLINE_STORE_DIRECTORY": str(folder / "store"),
        }
    )
