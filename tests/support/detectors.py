"""Small detectors for tests."""

from dataclasses import replace
from datetime import UTC, datetime

from services.vision.card import CardBackbone, CardCategory, ModelCard, ModelKind, Suppression, WeightsSource
from services.vision.catalogue import DETECTORS
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector
from services.vision.detector_network import DetectorNetwork


def detector_card(
    name: str = "yolox_nano", categories: int = 3, size: int = 96, suppression: Suppression | None = None
) -> ModelCard:
    spec = DETECTORS[name]
    return ModelCard(
        kind=ModelKind.GENERIC_DETECTOR,
        categories=tuple(CardCategory(10 * i, f"c{i}") for i in range(categories)),
        backbones=(CardBackbone(name, spec.rule.resized(size), WeightsSource.RANDOM),),
        suppression=suppression or replace(spec.suppression, least_score=0),
        created=datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
    )


def detector(
    name: str = "yolox_nano", categories: int = 3, size: int = 96, network: DetectorNetwork | None = None
) -> Detector:
    """A detector with random weights unless a network is given; every candidate counts."""
    return Detector(detector_card(name, categories, size), network or build_detector(name, categories, seed=0))
