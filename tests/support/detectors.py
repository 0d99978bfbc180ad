"""Small detectors for tests."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

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


def published_transformer(name: str, folder: Path) -> dict[str, Tensor]:
    """Random weights of D-FINE or RF-DETR as their publishers store them: written by transformers itself."""
    model: Any = build_detector(name, 80).get_submodule("model")
    torch.manual_seed(0)
    type(model)(model.config).save_pretrained(folder)
    return safetensors.torch.load_file(folder / "model.safetensors")
