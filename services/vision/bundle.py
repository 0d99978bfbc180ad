"""A trained model as a folder: `weights.safetensors`, `card.json`, and `digests.json` over every other file.

There may be further files, such as exported graphs; `seal` covers them too. There are never pickles.
"""

from pathlib import Path

import safetensors
import safetensors.torch
import torch

from services.vision.card import CARD_FILE, WEIGHTS_FILE, ModelKind, write_card
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.sealing import BundleCorrupt, load_card, seal, verify


def write(directory: Path, model: Classifier | Detector) -> str:
    """Writes the bundle, creating the folder if needed, and returns its digest; the same model gives the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(model.state(), directory / WEIGHTS_FILE)
    (directory / CARD_FILE).write_bytes(write_card(model.card))
    return seal(directory)


def load(directory: Path, device: torch.device | str = "cpu", *, digest: str = "") -> Classifier | Detector:
    """The model of the card's kind, its files verified; on a CPU its weights are mapped, not copied.

    Raises BundleCorrupt.
    """
    verify(directory, digest)
    card = load_card(directory)
    try:
        state = safetensors.torch.load_file(directory / WEIGHTS_FILE)
        return (Detector if card.kind is ModelKind.GENERIC_DETECTOR else Classifier).from_state(card, state, device)
    except (OSError, RuntimeError, LookupError, safetensors.SafetensorError) as fault:
        raise BundleCorrupt(f"{WEIGHTS_FILE} does not fit {CARD_FILE}: {fault}") from fault
