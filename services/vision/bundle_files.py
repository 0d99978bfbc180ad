"""The files of a trained model: `weights.safetensors`, `card.json`, graphs, and `digests.json` over every other file.

There are never pickles. No torch: `bundle` writes and loads models.
"""

import hashlib
from pathlib import Path

import msgspec

from services.vision.card import CARD_FILE, DIGESTS_FILE, WEIGHTS_FILE, ModelCard, read_card

MOST_FILES = 32


class BundleCorrupt(ValueError):
    """A bundle's files were changed or do not fit together; says which file and why."""


def seal(directory: Path) -> str:
    """Writes the digests of the folder's files, and returns the digest of those: `sha256:...`."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != DIGESTS_FILE)
    data = msgspec.json.encode({path.name: _sha256(path) for path in files}, order="deterministic")
    (directory / DIGESTS_FILE).write_bytes(data)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def names_of(digests: bytes) -> list[str]:
    """The other files of a bundle with this `digests.json`; BundleCorrupt."""
    return list(_digests(digests))


def verify(directory: Path) -> None:
    """Raises BundleCorrupt unless every file named in `digests.json` exists and is unchanged."""
    try:
        for name, digest in _digests((directory / DIGESTS_FILE).read_bytes()).items():
            if _sha256(directory / name) != digest:
                raise BundleCorrupt(f"{name} differs from the file that was written; fetch the bundle again")
    except OSError as fault:
        raise BundleCorrupt(f"{DIGESTS_FILE}: {fault}") from fault


def weights_sha256(directory: Path) -> str:
    """The digest of the weights file, as `digests.json` has it."""
    return _digests((directory / DIGESTS_FILE).read_bytes())[WEIGHTS_FILE]


def load_card(directory: Path) -> ModelCard:
    """The card alone, unverified; raises BundleCorrupt."""
    try:
        return read_card((directory / CARD_FILE).read_bytes())
    except (OSError, ValueError) as fault:
        raise BundleCorrupt(f"{CARD_FILE}: {fault}") from fault


def _digests(data: bytes) -> dict[str, str]:
    try:
        digests = msgspec.json.decode(data, type=dict[str, str])
    except msgspec.MsgspecError as fault:
        raise BundleCorrupt(f"{DIGESTS_FILE}: {fault}") from fault
    for name in (WEIGHTS_FILE, CARD_FILE):
        if name not in digests:
            raise BundleCorrupt(f"{DIGESTS_FILE} does not name {name}")
    if len(digests) > MOST_FILES:
        raise BundleCorrupt(f"{DIGESTS_FILE} names {len(digests)} files; {MOST_FILES} are the most")
    for name in digests:
        if Path(name).name != name or name == DIGESTS_FILE:
            raise BundleCorrupt(f"{DIGESTS_FILE} names {name!r}, which is not a file beside it")
    return digests


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
