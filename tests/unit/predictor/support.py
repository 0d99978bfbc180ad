"""Doubles of the predictor's ports, and tiny real bundles."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from services.kit.errors import ModelNotFound, SightlineError
from services.kit.memory import MemoryBlobs
from services.predictor.domain import Bundle, ModelInfo, ModelState
from services.predictor.loaded import Loaded
from services.vision import bundle as bundles
from services.vision.backbones import build
from services.vision.card import (
    DIGESTS_FILE,
    CardBackbone,
    CardCategory,
    InputRule,
    ModelCard,
    ModelKind,
    WeightsSource,
)
from services.vision.catalogue import DETECTORS
from services.vision.classifier import Classifier
from services.vision.decode import Decoded, decode_sizes
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector
from services.vision.inputs import Pixels, Views
from services.vision.preprocess import channels_first, normalise
from services.vision.sealing import names_of
from tests.support.classifiers import classifier_of

NAMES = ("cat", "dog", "owl")


def card(thresholds: tuple[float, ...] = (), names: Sequence[str] = NAMES) -> ModelCard:
    return ModelCard(
        kind=ModelKind.GENERIC_CLASSIFIER,
        categories=tuple(CardCategory(index, name) for index, name in enumerate(names)),
        backbones=(CardBackbone("squeezenet1_1", InputRule(size=64, resize=72), WeightsSource.RANDOM),),
        thresholds=thresholds,
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


def info(model: str = "m", version: str = "v1", uri: str = "", **changes: object) -> ModelInfo:
    values: dict[str, object] = {
        "name": f"models/{model}",
        "state": ModelState.SUCCEEDED,
        "version": version,
        "bundle_uri": uri or f"s3://sightline/models/{model}/{version}/",
    }
    return ModelInfo(**{**values, **changes})  # type: ignore[arg-type]  # any of its fields


async def put_bundle(blobs: MemoryBlobs, folder: Path, model: ModelInfo, seed: int = 1) -> Classifier:
    """Writes a small network with random weights to the model's bundle uri.

    It has no normalisation: with it, a random network gives the same output for every image.
    """
    classifier = classifier_of(card(), build("squeezenet1_1", len(NAMES), seed=seed))
    await put_files(blobs, folder, model, classifier)
    return classifier


async def put_files(blobs: MemoryBlobs, folder: Path, model: ModelInfo, network: Classifier | Detector) -> None:
    """Writes the bundle to the folder and to the store."""
    bundles.write(folder, network)
    key = model.bundle_uri.removeprefix("s3://sightline/")
    for name in (DIGESTS_FILE, *names_of((folder / DIGESTS_FILE).read_bytes())):
        await blobs.put_file(key + name, folder / name)


def detector_card(thresholds: tuple[float, ...] = (), names: Sequence[str] = NAMES) -> ModelCard:
    rule = DETECTORS["yolox_nano"].rule.resized(160)
    return replace(
        card(thresholds, names),
        kind=ModelKind.GENERIC_DETECTOR,
        backbones=(CardBackbone("yolox_nano", rule, WeightsSource.RANDOM),),
    )


def detector() -> Detector:
    """A small network with random weights that detects objects in every image, and different ones in each.

    To this end its normalisation is calibrated on images, and its outputs are neither all alike nor all certain.
    """
    network = build_detector("yolox_nano", len(NAMES), seed=1)
    made = Detector(detector_card(), network)
    inputs = [
        normalise(channels_first(made.prepare(file_of(make_image(seed=seed))).pixels), made.rule) for seed in range(8)
    ]
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train().candidates(torch.stack(inputs))
        for name, values in network.named_parameters():
            if "_preds." in name and name.endswith("weight"):
                values.mul_(0.1 if "reg" in name else 0.5)
            elif "_preds." in name:
                values.copy_(torch.tensor([0, 0, 1.5, 1.5]) if "reg" in name else torch.zeros(()))
    network.eval()
    return made


def make_image(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    """Smooth colours that differ between corners, so that rotations matter."""
    corners = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


class FakeModels:
    """The trainer as a dictionary; raises `error` while it is set."""

    def __init__(self, *models: ModelInfo) -> None:
        self.models = {model.name: model for model in models}
        self.error: SightlineError | None = None
        self.calls = 0

    async def list(self) -> list[ModelInfo]:
        if self.error:
            raise self.error
        return sorted(self.models.values(), key=lambda model: model.name)

    async def get(self, name: str) -> ModelInfo:
        self.calls += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        if name not in self.models:
            raise ModelNotFound(name=name)
        return self.models[name]


def number_image(number: float, side: int = 1) -> Pixels:
    return np.full((side, side, 3), number, np.uint8)


class FakeClassifier:
    """Returns each image's number as a probability; forward passes wait while `gate` is clear."""

    def __init__(self) -> None:
        self.card = card(names=["only"])
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error: Exception | None = None

    sizes = (1,)

    def decode(self, data: bytes, name: str = "image") -> Decoded:
        return decode_sizes(data, self.sizes, name)

    def arrange(self, decoded: Decoded) -> Views:
        return (number_image(min(decoded.info.width, 255)),)

    def predict_prepared(self, images: Sequence[Views]) -> NDArray[np.float32]:
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append(len(images))
        if self.error:
            raise self.error
        return np.array([[image[0].flat[0]] for image in images], np.float32)


class FakeSource:
    """Models of given sizes; loads wait while `gate` is clear."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes
        self.loads: list[Bundle] = []
        self.discarded: list[Path] = []
        self.error: SightlineError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def size_bytes(self, bundle: Bundle) -> int:
        return self.sizes[bundle.model_name]

    async def load(self, bundle: Bundle) -> Loaded:
        self.loads.append(bundle)
        await self.gate.wait()
        if self.error:
            raise self.error
        return Loaded(FakeClassifier(), Path(f"{bundle.model_name}-{bundle.version}"))

    def discard(self, loaded: Loaded) -> None:
        self.discarded.append(loaded.directory)
