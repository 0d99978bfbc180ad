"""The keys with which a suite on one machine signs its models."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

FOLDER = "keys"
OWN = ("SIGHTLINE_SIGNING_KEY", "SIGHTLINE_SIGNING_KEY_FILE", "SIGHTLINE_BUNDLE_KEY", "SIGHTLINE_BUNDLE_SIGNATURES")
_PRIVATE, _PUBLIC, _RULE = "signing-key.pem", "bundle-key.pem", "signatures"


def keep(data: Path, *, used_before: bool) -> None:
    """Makes the keys of a folder that has none; in one that may have unsigned models, those stay accepted."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    if (folder / _RULE).exists():
        return
    from sightline.client import signing_keys  # noqa: PLC0415 - needs cryptography, which callers lack

    for name in (_PRIVATE, _PUBLIC):  # of a start that was interrupted
        (folder / name).unlink(missing_ok=True)
    signing_keys.write(folder / _PRIVATE, folder / _PUBLIC)
    (folder / _PUBLIC).chmod(0o600)  # like all that is in the suite's folder
    rule = folder / "new"
    rule.touch(mode=0o600)
    rule.write_text("accept\n" if used_before else "require\n")
    rule.replace(folder / _RULE)


def copy(source: Path, target: Path) -> None:
    """Copies the keys of one folder into another that has none, readable for this user only."""
    if (source / FOLDER / _RULE).exists() and not (target / FOLDER / _RULE).exists():
        (target / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (_PRIVATE, _PUBLIC, _RULE):  # the rule last: without it, the others count for nothing
            shutil.copy(source / FOLDER / name, target / FOLDER / name)


def differ(one: Path, other: Path) -> bool:
    """Whether both folders have keys, and other ones."""
    keys = [folder / FOLDER / _PUBLIC for folder in (one, other) if (folder / FOLDER / _RULE).exists()]
    return len({key.read_bytes() for key in keys}) > 1


def variables(data: Path, *, signs: bool) -> dict[str, str]:
    """The settings of a process that reads bundles, or also writes them; none in a folder without keys."""
    folder = data / FOLDER
    try:
        rule = (folder / _RULE).read_text().strip()
    except OSError:
        return {}
    checks = {"SIGHTLINE_BUNDLE_KEY": str(folder / _PUBLIC), "SIGHTLINE_BUNDLE_SIGNATURES": rule}
    return checks | ({"SIGHTLINE_SIGNING_KEY_FILE": str(folder / _PRIVATE)} if signs else {})


def chosen(environment: Mapping[str, str]) -> bool:
    """Whether whoever starts the suite has chosen keys or a rule of their own."""
    return any({**os.environ, **environment}.get(name) for name in OWN)
