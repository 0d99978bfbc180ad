"""Batches that do not fit into memory are halved, wherever a network computes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain

import numpy as np
import pytest
import torch

from services.vision import classifier as classifiers
from services.vision.backbones import Network, build
from services.vision.card import CardBackbone, CardCategory, ModelCard, ModelKind, WeightsSource
from services.vision.catalogue import DETECTORS
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector
from services.vision.memory import BatchLimit, is_out_of_memory
from tests.support.classifiers import classifier_of, predict

FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    MemoryError(),
)


class Memory:
    """Room for so many images at once; notes how many were tried."""

    def __init__(self, room: int, fault: Exception = FULL[0]) -> None:
        self.room, self.fault, self.tried = room, fault, list[int]()

    def use(self, images: Sequence[int]) -> list[int]:
        self.tried.append(len(images))
        if len(images) > self.room:
            raise self.fault
        return list(images)


@pytest.mark.parametrize("fault", FULL)
def test_a_batch_is_halved_until_it_fits_in_order_and_for_good(fault: Exception) -> None:
    limit, memory = BatchLimit(8), Memory(3, fault)
    assert list(chain(*limit.pieces(list(range(10)), memory.use))) == list(range(10))
    assert memory.tried == [8, 4, 2, 2, 2, 2, 2]
    limit.pieces(list(range(4)), memory.use)
    assert memory.tried[7:] == [2, 2]


def test_a_single_image_that_does_not_fit_is_out_of_memory() -> None:
    memory = Memory(0)
    with pytest.raises(MemoryError, match="a single image"):
        BatchLimit(4).pieces([1, 2, 3], memory.use)
    assert memory.tried == [3, 1]


def test_other_errors_are_no_reason_to_halve() -> None:
    memory = Memory(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(memory.fault)
    with pytest.raises(RuntimeError, match="shapes"):
        BatchLimit(4).pieces([1, 2, 3], memory.use)
    assert memory.tried == [3]


def test_a_classifier_predicts_in_the_batches_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build("mobilenet_v3_small", 2, seed=0)
    backbone = CardBackbone("mobilenet_v3_small", network.backbone.rule.resized(32), WeightsSource.RANDOM, "", False)
    card = _card(ModelKind.GENERIC_CLASSIFIER, backbone)
    made = classifier_of(card, network)
    pixels = [np.full((40, 40, 3), value, np.uint8) for value in range(0, 50, 10)]
    expected = predict(made, pixels)
    real, tried = Network.embed, list[int]()

    def small_only(self: Network, images: torch.Tensor) -> torch.Tensor:
        tried.append(len(images))
        if len(images) > 2:
            raise FULL[0]
        return real(self, images)

    monkeypatch.setattr(Network, "embed", small_only)
    assert isinstance(made, Classifier)
    np.testing.assert_allclose(predict(made, pixels), expected, atol=1e-5)
    assert tried == [5, 2, 2, 1]
    assert classifiers.BATCH_SIZE >= 5


def test_a_detector_predicts_in_the_batches_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DETECTORS["yolox_nano"]
    network = build_detector("yolox_nano", 2, seed=0)
    backbone = CardBackbone(spec.name, spec.rule.resized(64), WeightsSource.RANDOM, "")
    made = Detector(_card(ModelKind.GENERIC_DETECTOR, backbone), network)
    inputs = [made.prepare_pixels(np.full((64, 64, 3), value, np.uint8), 64, 64) for value in range(0, 50, 10)]
    expected = made.predict_prepared(inputs)
    real, tried = network.candidates, list[int]()

    def small_only(images: torch.Tensor):
        tried.append(len(images))
        if len(images) > 2:
            raise FULL[0]
        return real(images)

    monkeypatch.setattr(network, "candidates", small_only)
    for _ in range(2):
        found = made.predict_prepared(inputs)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    assert tried == [5, 2, 2, 1, 2, 2, 1]


def _card(kind: ModelKind, backbone: CardBackbone) -> ModelCard:
    return ModelCard(
        kind=kind,
        categories=(CardCategory(1, "a"), CardCategory(2, "b")),
        backbones=(backbone,),
        data_digest="",
        created=datetime.now(UTC),
    )
