"""A detector's answers are in the pixels of the image as sent, and the same whatever it is asked beside."""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from services.kit.errors import InvalidImage
from services.vision.card import Suppression
from services.vision.catalogue import DETECTORS
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector, load_detector_weights
from services.vision.detector_network import Candidates, DetectorNetwork, Targets
from services.vision.image_detections import ImageDetections
from services.vision.inputs import Letterboxed
from services.vision.letterbox import Letterbox
from tests.support.detectors import detector, detector_card

SIZES = [(90, 120), (120, 90), (60, 130), (90, 120), (200, 50)]


class Scripted(DetectorNetwork):
    """Answers every image with the same candidates."""

    def __init__(self, boxes: list[list[float]], scores: list[list[float]]) -> None:
        super().__init__()
        self.boxes = torch.tensor(boxes, dtype=torch.float32)[:, None]
        self.scores = torch.tensor(scores)
        self.categories = len(scores[0])

    def candidates(self, images: Tensor) -> Candidates:
        count = len(images)
        return Candidates(self.boxes.expand(count, -1, -1, -1), self.scores.expand(count, -1, -1))

    def loss(self, images: Tensor, targets: Sequence[Targets]) -> Tensor:
        raise NotImplementedError

    def parts(self) -> tuple[nn.Module, ...]:
        return ()


def sample_images() -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in SIZES]


def prepared(model: Detector) -> list[Letterboxed]:
    return [model.prepare_pixels(rgb, rgb.shape[1], rgb.shape[0]) for rgb in sample_images()]


def scripted(boxes: list[list[float]], scores: list[list[float]], rule: Suppression) -> ImageDetections:
    """The answer for an image twice as large as its input, 96 x 64."""
    model = Detector(detector_card(categories=len(scores[0]), suppression=rule), Scripted(boxes, scores))
    return model.predict_prepared([Letterboxed(np.zeros((64, 96, 3), np.uint8), Letterbox(192, 128, 96, 64, 96, 64))])[
        0
    ]


@pytest.mark.parametrize("name", ["yolox_nano", "ssdlite320_mobilenet_v3_large", "dfine_nano"])
def test_an_image_s_boxes_do_not_depend_on_its_batch(name: str) -> None:
    model = detector(name)
    images = prepared(model)
    assert len({image.pixels.shape for image in images}) > 2
    for image, found in zip(images, model.predict_prepared(images), strict=True):
        (alone,) = model.predict_prepared([image])
        assert len(found) > 0
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-2, rtol=1e-5)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(found.labels, alone.labels)
    assert model.predict_prepared([]) == []


def test_boxes_are_inside_the_image_by_falling_score() -> None:
    model = detector()
    for answer, (width, height) in zip(model.predict_prepared(prepared(model)), SIZES, strict=True):
        assert 0 < len(answer) <= 300
        assert (answer.boxes.dtype, answer.scores.dtype, answer.labels.dtype) == (np.float32, np.float32, np.int64)
        assert (answer.boxes[:, :2] >= 0).all()
        assert (answer.boxes[:, 2:] > 0).all()
        assert (answer.boxes[:, :2] + answer.boxes[:, 2:] <= np.array([width, height]) + 1e-3).all()
        assert (np.diff(answer.scores) <= 0).all()
        assert set(answer.labels.tolist()) <= {0, 1, 2}


def test_candidates_become_left_top_width_height_in_image_pixels() -> None:
    answer = scripted([[10, 20, 30, 50], [-5, 40, 20, 80]], [[0.5, 0.1], [0.2, 0.9]], Suppression(least_score=0.3))
    assert answer.boxes.tolist() == [[0, 80, 40, 48], [20, 40, 40, 60]]
    assert answer.scores.tolist() == pytest.approx([0.9, 0.5])
    assert answer.labels.tolist() == [1, 0]


def test_only_overlapping_boxes_of_the_same_category_are_suppressed() -> None:
    boxes: list[list[float]] = [[10, 10, 50, 50], [11, 10, 51, 50], [12, 10, 52, 50]]
    scores = [[0.9, 0.0], [0.8, 0.0], [0.0, 0.7]]
    answer = scripted(boxes, scores, Suppression(iou=0.5, least_score=0.1))
    assert answer.labels.tolist() == [0, 1]
    assert answer.scores.tolist() == pytest.approx([0.9, 0.7])
    assert len(scripted(boxes, scores, Suppression(iou=0.99, least_score=0.1))) == 3


def test_a_network_that_proposes_each_object_once_suppresses_nothing() -> None:
    boxes: list[list[float]] = [[10, 10, 50, 50], [10, 10, 50, 50], [10, 10, 50, 51]]
    answer = scripted(boxes, [[0.9], [0.8], [0.7]], replace(DETECTORS["dfine_nano"].suppression, least_score=0.1))
    assert answer.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_at_most_as_many_boxes_as_the_card_allows_are_returned_best_first() -> None:
    boxes = [[4.0 * i, 0, 4.0 * i + 3, 10] for i in range(20)]
    answer = scripted(boxes, [[0.2 + 0.01 * i] for i in range(20)], Suppression(most=3, least_score=0.1))
    assert answer.scores.tolist() == pytest.approx([0.39, 0.38, 0.37])
    crowded = scripted(boxes, [[0.2 + 0.01 * i] for i in range(20)], Suppression(most=1, least_score=0.1))
    assert crowded.scores.tolist() == pytest.approx([0.39])


def test_a_thousand_categories_on_the_widest_image_are_suppressed_to_a_fraction_of_a_pixel() -> None:
    boxes: list[list[float]] = [[10, 10, 13, 13], [10.7, 10, 13.7, 13], [15990, 10, 16000, 20]]
    scores = [[0.0] * 999 + [score] for score in (0.9, 0.8)] + [[0.7] + [0.0] * 999]
    rule = Suppression(iou=0.55, least_score=0.1)  # the first two overlap by 0.62, by 0.5 in whole pixels
    model = Detector(detector_card(categories=1000, suppression=rule), Scripted(boxes, scores))
    frame = Letterbox(16000, 64, 16000, 64, 16000, 64)
    (answer,) = model.predict_prepared([Letterboxed(np.zeros((64, 16, 3), np.uint8), frame)])
    assert answer.labels.tolist() == [999, 0]


def test_the_best_pairs_are_returned_though_every_box_has_a_score_in_every_category() -> None:
    boxes = [[4.0 * (i % 24), 10.0 * (i // 24), 4.0 * (i % 24) + 3, 10.0 * (i // 24) + 9] for i in range(120)]
    scores = torch.rand(120, 50, generator=torch.Generator().manual_seed(0))
    answer = scripted(boxes, scores.tolist(), Suppression(most=4, least_score=0))
    best = scores.flatten().topk(4)
    assert answer.scores.tolist() == pytest.approx(best.values.tolist())
    assert answer.labels.tolist() == (best.indices % 50).tolist()


@pytest.mark.parametrize(
    "name", ["yolox_nano", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn", "dfine_nano"]
)
def test_a_network_whose_outputs_are_all_nan_detects_nothing(name: str) -> None:
    network = build_detector(name, 3, seed=0).requires_grad_(False)
    for parameter in network.parameters():
        parameter.fill_(torch.nan)
    model = detector(name, network=network)
    assert [len(answer) for answer in model.predict_prepared(prepared(model)[:2])] == [0, 0]


@pytest.mark.parametrize(
    "name", ["yolox_nano", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn", "dfine_nano"]
)
def test_images_of_extreme_shape_have_detections(name: str) -> None:
    model = detector(name)
    rgb = np.zeros((1024, 4, 3), np.uint8)
    tall, wide = model.prepare_pixels(rgb, 50, 16000), model.prepare_pixels(rgb.transpose(1, 0, 2), 16000, 50)
    assert (tuple(tall.pixels.shape), tuple(wide.pixels.shape)) == ((96, 32, 3), (32, 96, 3))
    for answer, limit in zip(model.predict_prepared([tall, wide]), ([50, 16000], [16000, 50]), strict=True):
        assert len(answer) > 0
        assert (answer.boxes[:, :2] + answer.boxes[:, 2:] <= np.array(limit) + 1e-2).all()


def test_boxes_outside_the_image_or_with_low_scores_are_dropped() -> None:
    answer = scripted(
        [[100, 10, 120, 30], [10, 10, 10, 30], [5, 5, 9, 9]], [[0.9], [0.9], [0.05]], Suppression(least_score=0.1)
    )
    assert len(answer) == 0
    assert answer.boxes.shape == (0, 4)


def test_a_file_is_prepared_like_its_pixels_and_turned_upright() -> None:
    model = detector()
    rgb = sample_images()[0]
    out, turned = BytesIO(), BytesIO()
    Image.fromarray(rgb).save(out, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).rotate(90, expand=True).save(turned, "PNG", exif=exif)
    pixels = prepared(model)[0]
    for data in (out.getvalue(), turned.getvalue()):
        image = model.prepare(data)
        assert image.frame == pixels.frame
        np.testing.assert_array_equal(image.pixels, pixels.pixels)
    with pytest.raises(InvalidImage):
        model.prepare(b"nothing")


def test_a_large_jpeg_s_boxes_are_in_its_own_pixels_though_it_was_decoded_smaller() -> None:
    out = BytesIO()
    Image.fromarray(np.zeros((1200, 1600, 3), np.uint8)).save(out, "JPEG")
    model = Detector(detector_card(categories=1), Scripted([[0, 0, 48, 36]], [[0.9]]))
    image = model.prepare(out.getvalue())
    assert (image.frame.width, image.frame.height, tuple(image.pixels.shape)) == (1600, 1200, (96, 96, 3))
    assert model.predict_prepared([image])[0].boxes.tolist() == [[0, 0, 800, 600]]


def test_the_real_weights_find_the_animal_on_a_photo(weights_dir: Path, test_data: Path) -> None:
    network = build_detector("yolox_nano", 80)
    load_detector_weights(network, safetensors.torch.load_file(weights_dir / "yolox_nano.safetensors"), keep_head=True)
    model = detector("yolox_nano", 80, DETECTORS["yolox_nano"].rule.size, network)
    photo = test_data / "raccoon" / "images" / "0014.jpg"
    best = model.predict_prepared([model.prepare(photo.read_bytes())])[0]
    assert best.scores[0] > 0.5
    assert best.labels[0] == 15  # COCO has no raccoons: a cat
