"""Static keys: made for a caller, kept by the services as digests only."""

import hashlib
import os
import re
import secrets
from pathlib import Path

PREFIX = "slk_"
ROLES = ("viewer", "predictor", "trainer", "admin")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")


def make(name: str, role: str) -> tuple[str, str]:
    """A new key, and the line by which the services know it; ValueError for a name that no line can hold."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name: letters, digits and . _ @ - after a letter or digit, at most 63")
    if role not in ROLES:
        raise ValueError(f"{role!r} is not a role; choose among {', '.join(ROLES)}")
    key = PREFIX + secrets.token_urlsafe(32)
    return key, f"{name} {role} sha256:{digest(key)}"


def digest(key: str) -> str:
    """What is kept of a key. It has 256 random bits, so that no salt and no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def append(file: Path, line: str) -> None:
    """Adds the line to the file, which only its owner and group may read if it is new."""
    with open(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640), "a+") as target:  # noqa: PTH123 - a new file's mode
        target.seek(0)
        text = target.read()
        target.write(("" if not text or text.endswith("\n") else "\n") + line + "\n")
