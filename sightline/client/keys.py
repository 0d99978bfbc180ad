"""Static keys for callers; the services store only their digests."""

import hashlib
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

PREFIX = "slk_"
ROLES = ("viewer", "predictor", "trainer", "admin")
PROJECT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
ALL_PROJECTS = "*"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")


def make(name: str, role: str, projects: Sequence[str] = ()) -> tuple[str, str]:
    """A new key, and the line by which the services recognise it; ValueError for an invalid name, role or project.

    Without projects the key is valid for `default`.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a valid name: use up to 63 letters, digits and . _ @ -, starting with a letter or digit"
        )
    if role not in ROLES:
        raise ValueError(f"{role!r} is not a role: use one of {', '.join(ROLES)}")
    for project in projects:
        if project != ALL_PROJECTS and not PROJECT.fullmatch(project):
            raise ValueError(
                f"{project!r} is not a valid project: use up to 63 lower-case letters, digits and -,"
                f" or {ALL_PROJECTS!r} for all"
            )
    key = PREFIX + secrets.token_urlsafe(32)
    return key, " ".join([name, role, f"sha256:{digest(key)}", *([",".join(projects)] if projects else [])])


def digest(key: str) -> str:
    """The digest that is stored of a key, whose 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def append(file: Path, line: str) -> None:
    """Adds the line to the file; only its owner and group may read a new file."""
    with open(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640), "a+") as target:  # noqa: PTH123 - a new file's mode
        target.seek(0)
        text = target.read()
        target.write(("" if not text or text.endswith("\n") else "\n") + line + "\n")
