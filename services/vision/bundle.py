"""A trained model as a folder: `weights.safetensors`, `card.json`, and `digests.json` over every other file.

There may be further files, such as exported graphs; `seal` covers them too. There are never pickles.
"""

import hashlib
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch

from services.vision.card import CARD_FILE, DIGESTS_FILE, WEIGHTS_FILE, ModelCard, ModelKind, read_card, write_card
from services.vision.classifier import Classifier
from services.vision.detector import Detector


class BundleCorrupt(ValueError):
    """A bundle's files were changed or do not fit together; says which file and why."""


def write(directory: Path, model: Classifier | Detector) -> str:
    """Writes the bundle, creating the folder if needed, and returns its digest; the same model gives the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(model.state(), directory / WEIGHTS_FILE)
    (directory / CARD_FILE).write_bytes(write_card(model.card))
    return seal(directory)


def seal(directory: Path) -> str:
    """Writes the digests of the folder's files, and returns the digest of those: `sha256:...`."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != DIGESTS_FILE)
    data = msgspec.json.encode({path.name: _sha256(path) for path in files}, order="deterministic")
    (directory / DIGESTS_FILE).write_bytes(data)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def verify(directory: Path) -> None:
    """Raises BundleCorrupt unless every file named in `digests.json` exists and is unchanged."""
    try:
        digests = msgspec.json.decode((directory / DIGESTS_FILE).read_bytes(), type=dict[str, str])
        for name in (WEIGHTS_FILE, CARD_FILE):
            if name not in digests:
                raise BundleCorrupt(f"{DIGESTS_FILE} does not name {name}")
        for name, digest in digests.items():
            if Path(name).name != name or _sha256(directory / name) != digest:
                raise BundleCorrupt(f"{name} differs from the file that was written; fetch the bundle again")
    except (OSError, msgspec.MsgspecError) as fault:
        raise BundleCorrupt(f"{DIGESTS_FILE}: {fault}") from fault


def weights_sha256(directory: Path) -> str:
    """The digest of the weights file, as `digests.json` has it."""
    return msgspec.json.decode((directory / DIGESTS_FILE).read_bytes(), type=dict[str, str])[WEIGHTS_FILE]


def load_card(directory: Path) -> ModelCard:
    """The card alone, unverified; raises BundleCorrupt."""
    try:
        return read_card((directory / CARD_FILE).read_bytes())
    except (OSError, ValueError) as fault:
        raise BundleCorrupt(f"{CARD_FILE}: {fault}") from fault


def load(directory: Path, device: torch.device | str = "cpu") -> Classifier | Detector:
    """The model of the card's kind, its files verified; on a CPU its weights are mapped, not copied.

    Raises BundleCorrupt.
    """
    verify(directory)
    card = load_card(directory)
    try:
        state = safetensors.torch.load_file(directory / WEIGHTS_FILE)
        return (Detector if card.kind is ModelKind.GENERIC_DETECTOR else Classifier).from_state(card, state, device)
    except (OSError, RuntimeError, LookupError, safetensors.SafetensorError) as fault:
        raise BundleCorrupt(f"{WEIGHTS_FILE} does not fit {CARD_FILE}: {fault}") from fault


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
