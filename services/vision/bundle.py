"""A trained model as a folder of files, written and loaded with torch."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch

from services.kit.log import Log
from services.vision import graph_models, graphs
from services.vision.card import CARD_FILE, WEIGHTS_FILE, ModelKind, write_card
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.graph_models import GraphClassifier, GraphDetector
from services.vision.graph_tracing import GraphUnavailable
from services.vision.sealing import BundleCorrupt, load_card, seal, verify

_log = Log(__name__)


def write(directory: Path, model: Classifier | Detector, traced: Path | None = None) -> str:
    """Writes the bundle, creating the folder if needed, and returns its digest; the same model gives the same bytes.

    With graphs, if the folder of traced networks has those of this model; see `graphs`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(model.state(), directory / WEIGHTS_FILE)
    (directory / CARD_FILE).write_bytes(write_card(model.card))
    if traced:
        try:
            graphs.write(directory, model, traced)
        except GraphUnavailable as fault:
            _log.info("bundle_without_graphs", problem=str(fault))
    return seal(directory)


def served(
    directory: Path, device: torch.device | str = "cpu"
) -> Classifier | Detector | GraphClassifier | GraphDetector:
    """The model as the predictor runs it: on a CPU from its graphs, if the bundle has them; BundleCorrupt."""
    if str(device) == "cpu" and graph_models.has_graphs(directory):
        return graph_models.load(directory)
    return load(directory, device)


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
