"""Writes a bundle that a predictor can load: `python -m tests.chaos.campaign.template FOLDER`. Imports torch."""

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from services.vision import bundle, graph_tracing
from services.vision.backbones import build
from services.vision.card import CardBackbone, CardCategory, InputRule, ModelCard, ModelKind, WeightsSource
from tests.support.classifiers import classifier_of

NETWORK = "squeezenet1_1"
NAMES = ("cat", "dog")


def write(folder: Path) -> None:
    """A small network with random weights, and its graph."""
    card = ModelCard(
        kind=ModelKind.GENERIC_CLASSIFIER,
        categories=tuple(CardCategory(index, name) for index, name in enumerate(NAMES)),
        backbones=(CardBackbone(NETWORK, InputRule(size=64, resize=72), WeightsSource.RANDOM),),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    with tempfile.TemporaryDirectory() as graphs:
        graph_tracing.add(NETWORK, Path(graphs))
        bundle.write(folder, classifier_of(card, build(NETWORK, len(NAMES), seed=1)), Path(graphs))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
