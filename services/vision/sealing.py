"""The digests of a bundle's files: written when training ends, checked by whoever loads the bundle. No torch."""

import hashlib
from pathlib import Path

import msgspec

from services.kit import codec
from services.kit.digests import file_digest
from services.vision.card import CARD_FILE, DIGESTS_FILE, WEIGHTS_FILE, ModelCard, read_card
from sightline.blob_keys import fault_of_key

MOST_FILES = 32  # more than any bundle has


class BundleCorrupt(ValueError):
    """A bundle's files were changed or do not fit together; says which file and why."""


def seal(directory: Path) -> str:
    """Writes the digests of the folder's files, and returns the digest of those: `sha256:...`."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != DIGESTS_FILE)
    data = msgspec.json.encode({path.name: file_digest(path) for path in files}, order="deterministic")
    (directory / DIGESTS_FILE).write_bytes(data)
    return _digest(data)


def digest_of(directory: Path) -> str:
    """The bundle's digest, as `seal` returned it."""
    return _digest((directory / DIGESTS_FILE).read_bytes())


def names_of(digests: bytes) -> list[str]:
    """The other files of a bundle with this `digests.json`; BundleCorrupt."""
    return list(_named(digests))


def verify(directory: Path, digest: str = "") -> None:
    """BundleCorrupt unless every file that `digests.json` names is unchanged, and that file is the one of the digest.

    The digest is the one in the model's record. Without it, as in records of earlier versions, a bundle whose
    `digests.json` was replaced too cannot be told from an intact one.
    """
    try:
        for name, expected in _named((directory / DIGESTS_FILE).read_bytes(), digest).items():
            if file_digest(directory / name) != expected:
                raise BundleCorrupt(f"{name} differs from the file that was written; fetch the bundle again")
    except OSError as fault:
        raise BundleCorrupt(f"{DIGESTS_FILE}: {fault}") from fault


def verified_card(card: bytes, digests: bytes, digest: str) -> ModelCard:
    """The card, checked like a whole bundle; BundleCorrupt."""
    if _named(digests, digest)[CARD_FILE] != hashlib.sha256(card).hexdigest():
        raise BundleCorrupt(f"{CARD_FILE} differs from the file that was written")
    try:
        return read_card(card)
    except ValueError as fault:
        raise BundleCorrupt(f"{CARD_FILE}: {fault}") from fault


def weights_sha256(directory: Path) -> str:
    """The digest of the weights file, as `digests.json` has it."""
    return _named((directory / DIGESTS_FILE).read_bytes())[WEIGHTS_FILE]


def load_card(directory: Path) -> ModelCard:
    """The card alone, unverified; raises BundleCorrupt."""
    try:
        return read_card((directory / CARD_FILE).read_bytes())
    except (OSError, ValueError) as fault:
        raise BundleCorrupt(f"{CARD_FILE}: {fault}") from fault


def _named(data: bytes, digest: str = "") -> dict[str, str]:
    """The SHA-256 of each file that this `digests.json` names, which must have the digest unless that is empty."""
    if digest and digest != _digest(data):
        raise BundleCorrupt(f"{DIGESTS_FILE} is {_digest(data)}, and the model's record says {digest}")
    try:
        digests = codec.parse(data, dict[str, str])
    except ValueError as fault:
        raise BundleCorrupt(f"{DIGESTS_FILE}: {fault}") from fault
    for name in (WEIGHTS_FILE, CARD_FILE):
        if name not in digests:
            raise BundleCorrupt(f"{DIGESTS_FILE} does not name {name}")
    if len(digests) > MOST_FILES:
        raise BundleCorrupt(f"{DIGESTS_FILE} names {len(digests)} files; {MOST_FILES} are the most")
    for name in digests:
        if "/" in name or fault_of_key(name) or name == DIGESTS_FILE:
            raise BundleCorrupt(f"{DIGESTS_FILE} names {name!r}, which is not a file beside it")
    return digests


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
