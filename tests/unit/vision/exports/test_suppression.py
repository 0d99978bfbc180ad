"""Suppression as a graph of ONNX and as a program of torch: what the service keeps."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from services.vision.card import Suppression
from services.vision.detector_network import Candidates
from services.vision.exports.onnx_suppression import suppression_graph
from services.vision.exports.torch_program import DetectorProgram
from services.vision.letterbox import Letterbox, letterbox
from services.vision.suppression import Floats, suppressed
from tests.support.detectors import detector

Found = tuple[Floats, Floats, list[int]]
Suppress = Callable[[Floats, Floats, Letterbox, Suppression], Found]


def as_served(boxes: Floats, scores: Floats, frame: Letterbox, rule: Suppression) -> Found:
    kept = suppressed(boxes, scores, frame, rule)
    corners = np.concatenate((kept.boxes[:, :2], kept.boxes[:, :2] + kept.boxes[:, 2:]), axis=1)
    return corners, kept.scores, kept.labels.tolist()


def sizes_of(frame: Letterbox) -> tuple[Floats, Floats]:
    inner, whole = (frame.inner_width, frame.inner_height), (frame.width, frame.height)
    return np.array(inner, np.float32), np.array(whole, np.float32)


def in_onnx(boxes: Floats, scores: Floats, frame: Letterbox, rule: Suppression) -> Found:
    graph = suppression_graph(rule, scores.shape[1])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inner, whole = sizes_of(frame)
    feeds = {"all_boxes": boxes[None], "all_scores": scores[None], "inner_size": inner, "image_size": whole}
    found, kept, labels = map(np.asarray, session.run(["boxes", "scores", "labels"], feeds))
    return found, kept, labels.tolist()


def in_torch(boxes: Floats, scores: Floats, frame: Letterbox, rule: Suppression) -> Found:
    program = DetectorProgram(detector("yolox_nano", scores.shape[1]))
    program._suppression = rule
    candidates = Candidates(torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None])
    program.network.candidates = lambda images: candidates
    inner, whole = map(torch.from_numpy, sizes_of(frame))
    with torch.no_grad():
        found, kept, labels = program(torch.zeros((1, 32, 32, 3), dtype=torch.uint8), inner, whole)
    return found.numpy(), kept.numpy(), labels.tolist()


@pytest.mark.parametrize("suppress", [in_onnx, in_torch])
@pytest.mark.parametrize(
    ("candidates", "categories", "own_boxes", "rule"),
    [
        (0, 3, False, Suppression()),
        (5, 1, False, Suppression()),
        (300, 3, False, Suppression()),
        (300, 3, True, Suppression(iou=0.45)),
        (4000, 3, False, Suppression()),  # more than take part
        (4000, 20, False, Suppression(least_score=0.3)),
        (700, 2, True, Suppression(most=20)),
        (300, 3, False, Suppression(least_score=0)),
    ],
)
def test_the_same_boxes_are_kept(
    suppress: Suppress, candidates: int, categories: int, own_boxes: bool, rule: Suppression
) -> None:
    random = np.random.default_rng(candidates + categories)
    for _ in range(3):
        frame = letterbox(int(random.integers(20, 900)), int(random.integers(20, 900)), 416)
        shape = candidates, categories if own_boxes else 1, 2
        centres, halves = random.uniform(-30, 430, shape), random.uniform(1, 80, shape)
        boxes = np.concatenate((centres - halves, centres + halves), axis=-1).astype(np.float32)
        scores = (random.random((candidates, categories)) ** 3).astype(np.float32)
        expected = as_served(boxes, scores, frame, rule)
        found = suppress(boxes, scores, frame, rule)
        np.testing.assert_allclose(found[0], expected[0], atol=1e-3)
        np.testing.assert_array_equal(found[1], expected[1])
        assert found[2] == expected[2]


@pytest.mark.parametrize("suppress", [in_onnx, in_torch])
def test_a_score_at_the_threshold_is_kept(suppress: Suppress) -> None:
    rule, frame = Suppression(least_score=0.25), letterbox(100, 100, 416)
    boxes = np.array([[[0, 0, 50, 50]], [[100, 100, 150, 150]]], np.float32)
    scores = np.array([[0.25], [np.nextafter(np.float32(0.25), np.float32(0))]], np.float32)
    assert suppress(boxes, scores, frame, rule)[1].tolist() == [0.25]


@pytest.mark.parametrize("suppress", [in_onnx, in_torch])
def test_what_a_suppressed_box_overlaps_stays(suppress: Suppress) -> None:
    """A chain in which every box overlaps its neighbours: every second one stays."""
    lefts = np.arange(40, dtype=np.float32)
    boxes = np.stack((10 * lefts, 0 * lefts, 10 * lefts + 30, 0 * lefts + 30), axis=1)[:, None]
    scores = np.linspace(0.9, 0.5, 40, dtype=np.float32)[:, None]
    found = suppress(boxes, scores, letterbox(416, 416, 416), Suppression(iou=0.45))
    assert found[0][:, 0].tolist() == [20.0 * step for step in range(20)]
