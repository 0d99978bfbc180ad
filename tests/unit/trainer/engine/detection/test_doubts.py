"""Regions that are missing, badly drawn or of the wrong category are found by what a detector sees there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from services.trainer.engine.detection.data import Scenes, open_scenes
from services.trainer.engine.detection.doubts import doubts
from services.trainer.insight import Doubt, DoubtKind
from services.vision.detection_matching import DetectionTable
from services.vision.snapshot import Box
from tests.unit.trainer.engine.scenes import write_scenes

REGION = Box(100, 100, 40, 40, 0)


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    return open_scenes(write_scenes(tmp_path / "scenes"), "datasets/scenes")


def found(
    scenes: Scenes, regions: tuple[Box, ...], *objects: tuple[tuple[float, float, float, float], int, float]
) -> tuple[Doubt, ...]:
    """The doubts about one image with these regions, in which (box, category, confidence) were found."""
    record = structs.replace(scenes.samples[3].record, boxes=regions)
    scenes = replace(scenes, samples=[*scenes.samples[:3], replace(scenes.samples[3], record=record)])
    boxes, categories, scores = zip(*objects, strict=True)
    answers = DetectionTable(
        np.zeros(len(boxes), np.int64), np.array(categories), np.array(boxes, np.float32), np.array(scores, np.float32)
    )
    return doubts(scenes, np.array([3]), answers, (0.6,) * len(scenes.categories))


@pytest.mark.parametrize(
    ("box", "category", "kind"),
    [
        ((100, 100, 40, 40), 0, None),
        ((105, 100, 40, 40), 0, None),
        ((125, 100, 40, 40), 0, DoubtKind.MISPLACED),
        ((100, 100, 70, 70), 0, DoubtKind.MISPLACED),
        ((102, 100, 40, 40), 1, DoubtKind.CATEGORY),
        ((125, 100, 40, 40), 1, None),
        ((300, 300, 40, 40), 0, DoubtKind.MISSING),
        ((139, 139, 40, 40), 1, DoubtKind.MISSING),
        ((110, 110, 8, 8), 1, None),  # a part of what is annotated
    ],
)
def test_what_is_in_doubt(
    scenes: Scenes, box: tuple[float, float, float, float], category: int, kind: DoubtKind | None
) -> None:
    listed = found(scenes, (REGION,), (box, category, 0.9))
    assert [one.kind for one in listed] == ([kind] if kind else [])
    for one in listed:
        assert (one.category, one.confidence) == (scenes.categories[category], pytest.approx(0.9))
        assert one.box == pytest.approx(box)
        missing = kind is DoubtKind.MISSING
        assert one.region == (None if missing else (100, 100, 40, 40))
        assert one.labelled == ("" if missing else scenes.categories[0])
        assert (one.image_id, one.file_name) == (scenes.samples[3].record.image_id, scenes.samples[3].record.file_name)


def test_what_is_found_without_confidence_is_no_evidence(scenes: Scenes) -> None:
    assert found(scenes, (), ((10, 10, 40, 40), 0, 0.59)) == ()
    assert [one.kind for one in found(scenes, (), ((10, 10, 40, 40), 0, 0.61))] == [DoubtKind.MISSING]


def test_a_second_box_around_what_was_found_casts_no_doubt_on_it(scenes: Scenes) -> None:
    assert found(scenes, (REGION,), ((100, 100, 40, 40), 0, 0.9), ((125, 100, 40, 40), 0, 0.8)) == ()


def test_nothing_is_missing_in_a_crowd(scenes: Scenes) -> None:
    crowd = Box(50, 50, 300, 300, 0, True)
    assert found(scenes, (crowd,), ((100, 100, 40, 40), 0, 0.9)) == ()
    assert [one.kind for one in found(scenes, (crowd,), ((10, 10, 20, 20), 0, 0.9))] == [DoubtKind.MISSING]


def test_the_surest_come_first(scenes: Scenes) -> None:
    listed = found(scenes, (), ((10, 10, 40, 40), 0, 0.7), ((200, 10, 40, 40), 1, 0.95), ((10, 200, 40, 40), 0, 0.8))
    assert [one.confidence for one in listed] == pytest.approx([0.95, 0.8, 0.7])
