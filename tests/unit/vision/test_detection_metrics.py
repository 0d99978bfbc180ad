"""The detection metrics equal pycocotools' on random and real boxes, and resampling equals copying the images."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from services.vision import detection_matching
from services.vision.detection_matching import IOU_THRESHOLDS, DetectionTable, GroundTruth, match
from services.vision.detection_metrics import detection_report, resampled
from services.vision.intervals import wilson_interval

OUT_OF_RANGE = 2e10  # an area from which pycocotools ignores a region that is not a crowd


def reference(truths: GroundTruth, detected: DetectionTable, images: int, categories: int) -> NDArray[Any]:
    """[thresholds, categories]: pycocotools' average precisions, nan without ground truth."""
    ignored = np.zeros(len(truths.images), bool) if truths.ignored is None else truths.ignored
    with contextlib.redirect_stdout(io.StringIO()):
        coco: Any = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(images)],
            "categories": [{"id": category} for category in range(categories)],
            "annotations": [
                {
                    "id": row + 1,
                    "image_id": int(truths.images[row]),
                    "category_id": int(truths.categories[row]),
                    "bbox": truths.boxes[row].tolist(),
                    "area": OUT_OF_RANGE if ignored[row] else float(truths.boxes[row, 2] * truths.boxes[row, 3]),
                    "iscrowd": int(truths.crowds[row]),
                }
                for row in range(len(truths.images))
            ],
        }
        coco.createIndex()
        rows = [
            {
                "image_id": int(detected.images[row]),
                "category_id": int(detected.categories[row]),
                "bbox": detected.boxes[row].tolist(),
                "score": float(detected.scores[row]),
            }
            for row in range(len(detected.images))
        ]
        found = coco.loadRes(rows) if rows else COCO()
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.params.iouThrs = np.array(IOU_THRESHOLDS)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0].mean(axis=1)
    return np.where(precision < 0, np.nan, precision)


def require_equal(truths: GroundTruth, detected: DetectionTable, images: int, categories: int) -> None:
    matched = match(truths, detected, images, categories)
    ours = np.stack([found.average_precisions() for found in matched])
    np.testing.assert_allclose(ours, reference(truths, detected, images, categories), atol=1e-9, rtol=0)


def scene(
    seed: int,
    *,
    images: int = 12,
    categories: int = 3,
    truths: int = 60,
    detections: int = 120,
    grid: float = 8.0,
    levels: int = 20,
    crowds: float = 0.1,
    ignored: float = 0.1,
) -> tuple[GroundTruth, DetectionTable]:
    """Boxes on a coarse grid, so that overlaps tie and sides are sometimes 0; `levels` different scores."""
    random = np.random.default_rng(seed)
    boxes = np.round(random.uniform(0, 60, (truths, 4)) / grid) * grid
    copied = random.integers(0, max(1, truths), detections)
    moved = boxes[copied] if truths else np.zeros((detections, 4))
    moved = np.maximum(moved + np.round(random.normal(0, 6, (detections, 4)) / grid) * grid, 0)
    truth_images, truth_categories = random.integers(0, images, truths), random.integers(0, categories, truths)
    at_random = random.random(detections) < 0.3 if truths else np.ones(detections, bool)
    found_images, found_categories = random.integers(0, images, detections), random.integers(0, categories, detections)
    if truths:
        found_images = np.where(at_random, found_images, truth_images[copied])
        found_categories = np.where(at_random, found_categories, truth_categories[copied])
    return (
        GroundTruth(
            truth_images, truth_categories, boxes, random.random(truths) < crowds, random.random(truths) < ignored
        ),
        DetectionTable(found_images, found_categories, moved, random.integers(0, levels, detections) / levels),
    )


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 12),
    categories=st.integers(1, 6),
    truths=st.integers(0, 60),
    detections=st.integers(0, 120),
    grid=st.sampled_from([0.01, 2.0, 8.0, 20.0]),
    levels=st.sampled_from([1, 3, 20, 10_000]),
    crowds=st.sampled_from([0.0, 0.2, 1.0]),
    ignored=st.sampled_from([0.0, 0.3]),
)
def test_random_scenes_equal_pycocotools(images: int, categories: int, **scenery: Any) -> None:
    require_equal(*scene(images=images, categories=categories, **scenery), images, categories)


@pytest.mark.parametrize("levels", [4, 1000])
def test_only_the_hundred_most_confident_of_an_image_and_category_count(levels: int) -> None:
    truths, detected = scene(1, images=3, categories=2, truths=400, detections=1500, levels=levels)
    require_equal(truths, detected, 3, 2)


def test_many_overlapping_boxes_equal_pycocotools() -> None:
    random = np.random.default_rng(2)
    boxes = 100 + random.normal(0, 4, (240, 4))
    nothing = np.zeros(100, np.int64)
    truths = GroundTruth(nothing, nothing, boxes[:100], random.random(100) < 0.02)
    detected = DetectionTable(np.zeros(140, np.int64), np.zeros(140, np.int64), boxes[100:], random.random(140))
    require_equal(truths, detected, 1, 1)


def test_many_categories_equal_pycocotools() -> None:
    truths, detected = scene(3, images=20, categories=80, truths=400, detections=1000)
    require_equal(truths, detected, 20, 80)


def test_the_number_of_pairs_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection_matching, "PAIRS_AT_ONCE", 7)
    truths, detected = scene(4)
    require_equal(truths, detected, 12, 3)


def test_jittered_boxes_of_real_images_equal_pycocotools(test_data: Path) -> None:
    content = json.loads((test_data / "bccd" / "test.json").read_text())
    image = {row["id"]: index for index, row in enumerate(content["images"])}
    category = {row["id"]: index for index, row in enumerate(content["categories"])}
    rows = content["annotations"]
    images = np.array([image[row["image_id"]] for row in rows])
    categories = np.array([category[row["category_id"]] for row in rows])
    boxes = np.array([row["bbox"] for row in rows], np.float64)
    truths = GroundTruth(images, categories, boxes, np.array([bool(row.get("iscrowd")) for row in rows]))
    random = np.random.default_rng(0)
    for jitter in (0.02, 0.08, 0.2):
        source = np.flatnonzero(random.random(2 * len(rows)) < 0.8) % len(rows)
        scale = np.tile(boxes[source, 2:], 2)
        moved = boxes[source] + random.normal(0, jitter, (len(source), 4)) * scale
        moved[:, 2:] = np.maximum(moved[:, 2:], 1)
        swapped = np.where(random.random(len(source)) < 0.1, 0, categories[source])
        detected = DetectionTable(images[source], swapped, moved.astype(np.float32), random.random(len(source)))
        require_equal(truths, detected, len(image), len(category))


def test_an_image_of_weight_2_counts_like_two_copies() -> None:
    truths, detected = scene(5, levels=10**9)
    weights = np.random.default_rng(0).integers(0, 4, 12)
    copies = np.repeat(np.arange(12), weights)
    own = [np.flatnonzero(truths.images == image) for image in copies]
    found = [np.flatnonzero(detected.images == image) for image in copies]
    t, d = np.concatenate(own), np.concatenate(found)
    assert truths.ignored is not None
    copied_truths = GroundTruth(
        np.repeat(np.arange(len(copies)), [len(rows) for rows in own]),
        truths.categories[t],
        truths.boxes[t],
        truths.crowds[t],
        truths.ignored[t],
    )
    copied = DetectionTable(
        np.repeat(np.arange(len(copies)), [len(rows) for rows in found]),
        detected.categories[d],
        detected.boxes[d],
        detected.scores[d],
    )
    for weighted, plain in zip(
        match(truths, detected, 12, 3), match(copied_truths, copied, len(copies), 3), strict=True
    ):
        np.testing.assert_allclose(weighted.average_precisions(weights), plain.average_precisions(), atol=1e-12)


def test_an_image_of_weight_0_does_not_count() -> None:
    truths, detected = scene(6, images=4, categories=2)
    weights = np.array([1, 0, 1, 0])
    kept, found = np.isin(truths.images, [0, 2]), np.isin(detected.images, [0, 2])
    assert truths.ignored is not None
    without = (
        GroundTruth(
            truths.images[kept],
            truths.categories[kept],
            truths.boxes[kept],
            truths.crowds[kept],
            truths.ignored[kept],
        ),
        DetectionTable(
            detected.images[found], detected.categories[found], detected.boxes[found], detected.scores[found]
        ),
    )
    for weighted, plain in zip(match(truths, detected, 4, 2), match(*without, 4, 2), strict=True):
        assert weighted.mean_average_precision(weights) == pytest.approx(plain.mean_average_precision(), abs=1e-12)


def zeros(count: int) -> NDArray[np.int64]:
    return np.zeros(count, np.int64)


def test_the_suggested_threshold_has_the_best_f1_and_the_curve_counts_equal_scores_together() -> None:
    box, elsewhere = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 10.0, 10.0]
    truths = GroundTruth(np.array([0, 1, 2]), zeros(3), np.array([box] * 3), np.zeros(3, bool))
    detected = DetectionTable(
        np.array([0, 1, 1, 2, 2]),
        zeros(5),
        np.array([box, box, elsewhere, elsewhere, box]),
        np.array([0.9, 0.8, 0.8, 0.4, 0.1]),
    )
    (category,) = detection_report(truths, detected, 3, 1).categories
    assert category.support == 3
    assert category.suggested_threshold == 0.05, "halfway to the next lower score, of which there is none"
    assert category.precision == pytest.approx(3 / 5)
    assert category.recall == 1.0
    assert category.f1 == pytest.approx(3 / 4)
    assert [(point.threshold, point.precision, point.recall) for point in category.curve] == [
        (0.1, pytest.approx(3 / 5), 1.0),
        (0.8, pytest.approx(2 / 3), pytest.approx(2 / 3)),
        (0.9, 1.0, pytest.approx(1 / 3)),
    ]


def test_reliability_is_of_all_detections_but_those_that_count_neither_as_right_nor_as_wrong() -> None:
    box, elsewhere = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 10.0, 10.0]
    truths = GroundTruth(np.array([0, 1]), zeros(2), np.array([box] * 2), np.array([False, True]))
    detected = DetectionTable(
        np.array([0, 0, 1]), zeros(3), np.array([box, elsewhere, box]), np.array([0.91, 0.92, 0.1])
    )
    (found,) = detection_report(truths, detected, 2, 1).reliability  # the third is in a crowd
    assert (found.count, found.accuracy, found.mean_confidence) == (2, 0.5, pytest.approx(0.915))


def test_the_curve_is_thinned_to_a_hundred_points() -> None:
    truths, detected = scene(7, truths=1500, images=100, detections=3000, levels=10**9)
    report = detection_report(truths, detected, 100, 3)
    assert [len(category.curve) for category in report.categories] == [100] * 3
    for category in report.categories:
        recalls = [point.recall for point in category.curve]
        assert recalls == sorted(recalls, reverse=True)


def test_undefined_metrics_are_none() -> None:
    empty = np.empty((0, 4))
    nothing = GroundTruth(zeros(0), zeros(0), empty, np.zeros(0, bool))
    report = detection_report(nothing, DetectionTable(zeros(1), zeros(1), np.ones((1, 4)), np.ones(1)), 2, 1)
    assert report.mean_average_precision_50 is None
    assert report.intervals == {}
    assert (report.categories[0].average_precision_50, report.categories[0].recall) == (None, None)
    missed = GroundTruth(zeros(1), zeros(1), np.ones((1, 4)), np.zeros(1, bool))
    report = detection_report(missed, DetectionTable(zeros(0), zeros(0), empty, np.empty(0)), 2, 2)
    found, absent = report.categories
    assert report.mean_average_precision_30 == 0.0
    assert (found.recall, found.f1, found.precision, found.suggested_threshold) == (0.0, 0.0, None, None)
    assert (absent.support, absent.recall, absent.curve) == (0, None, ())
    assert detection_report(nothing, DetectionTable(zeros(0), zeros(0), empty, np.empty(0)), 0, 0).categories == ()


def test_the_interval_contains_the_mean_and_narrows_with_more_images() -> None:
    widths: list[float] = []
    for images in (20, 2000):
        truths, detected = scene(8, images=images, truths=3 * images, detections=5 * images, levels=10**9)
        report = detection_report(truths, detected, images, 3)
        interval = report.intervals["mean_average_precision_50"]
        assert report.mean_average_precision_50 is not None
        assert 0 <= interval.low < report.mean_average_precision_50 < interval.high <= 1
        widths.append(interval.high - interval.low)
    assert widths[1] < 0.25 * widths[0]


def test_regions_that_are_all_found_do_not_make_the_mean_certain() -> None:
    boxes, images = np.tile([0.0, 0.0, 9.0, 9.0], (3, 1)), np.arange(3)
    truths = GroundTruth(images, zeros(3), boxes, np.zeros(3, bool))
    report = detection_report(truths, DetectionTable(images, zeros(3), boxes, np.ones(3)), 50, 1)
    assert report.mean_average_precision_50 == 1.0
    assert report.intervals["mean_average_precision_50"] == wilson_interval(3, 3)


def test_two_detectors_are_compared_on_the_same_resamples() -> None:
    truths, detected = scene(9, images=40, truths=200, detections=400)
    same, again = match(truths, detected, 40, 3, (0.5, 0.5))
    values = resampled((same, again), seed=3)
    assert values.shape == (200, 2)
    assert (values[:, 0] == values[:, 1]).all()
    assert values[:, 0].std() > 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"images": np.array([2])}, "be in 0..1"),
        ({"categories": np.array([-1])}, "be in 0..0"),
        ({"scores": np.array([np.nan])}, "scores must be finite"),
        ({"boxes": np.full((1, 4), np.inf)}, "boxes must be finite"),
        ({"boxes": np.ones((1, 3))}, "differ in length"),
    ],
)
def test_inconsistent_input_is_refused(change: dict[str, Any], complaint: str) -> None:
    truths = GroundTruth(zeros(1), zeros(1), np.ones((1, 4)), np.zeros(1, bool))
    columns: dict[str, Any] = {
        "images": zeros(1),
        "categories": zeros(1),
        "boxes": np.ones((1, 4)),
        "scores": np.ones(1),
    }
    with pytest.raises(ValueError, match=complaint):
        match(truths, DetectionTable(**(columns | change)), 2, 1)
