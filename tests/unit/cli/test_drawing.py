"""Drawings of objects on images: frames, labels and colours."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image

from sightline.cli.drawing import (
    MAX_SIDE,
    MIN_SIDE,
    draw,
    draw_objects,
    found_in,
)
from sightline.cli.frames import INKS, Found, fitting, frame, inks_of, overlap
from sightline.cli.lettering import font
from sightline.client.results.prediction import Prediction
from sightline.v1.prediction_pb2 import AnalyzeImageResponse
from tests.unit.cli.labels import Label, record_labels

ORIENTATION = 0x0112  # EXIF tag
BLUE = (0, 0, 255)
CAT = Found("cat", (40, 60, 80, 90), 0.75)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    Image.new("RGB", (640, 480), BLUE).save(file)
    return file


def answer_of(*objects: Found) -> Prediction:
    answer = AnalyzeImageResponse()
    answer.custom_model_result.objects_result.SetInParent()
    for number, one in enumerate(objects, 1):
        made = answer.custom_model_result.objects_result.values.add(id=str(number))
        made.bounding_box.x, made.bounding_box.y, made.bounding_box.w, made.bounding_box.h = map(int, one.box)
        made.tags.add(name=one.name, confidence=one.confidence)
    return Prediction.of(answer)


def test_the_frame_is_on_the_edges_of_the_box_and_leaves_its_inside_uncovered(photo: Path) -> None:
    drawn, ink = draw(photo, answer_of(CAT)).load(), inks_of(["cat"])["cat"]
    assert drawn is not None
    for x, y in ((40, 100), (119, 100), (80, 149)):
        assert drawn[x, y] == ink
    assert drawn[80, 105] == BLUE
    assert drawn[30, 105] == BLUE
    assert drawn[130, 105] == BLUE


def test_objects_are_read_from_a_response_in_order() -> None:
    dog = Found("dog", (1, 2, 3, 4), 0.5)
    assert found_in(answer_of(CAT, dog)) == [CAT, dog]


def test_an_image_turned_by_exif_is_drawn_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = tmp_path / "turned.png"
    Image.new("RGB", (400, 500), BLUE).save(file, exif=exif)
    drawn = draw_objects(file, [Found("cat", (450, 10, 40, 40), 0.9)])
    assert drawn.width == 500
    assert drawn.getpixel((489, 30)) == inks_of(["cat"])["cat"]


@pytest.mark.parametrize(("size", "longest"), [((50, 50), MIN_SIDE), ((9000, 60), MAX_SIDE), ((60, 9000), MAX_SIDE)])
def test_tiny_and_huge_images_are_drawn_at_a_legible_size(tmp_path: Path, size: tuple[int, int], longest: int) -> None:
    file = tmp_path / "p.png"
    Image.new("RGB", size, BLUE).save(file)
    drawn = draw_objects(file, [Found("a cat with a long name", (0, 0, *size), 0.9)])
    assert longest <= max(drawn.size) <= longest + 60
    assert drawn.width >= MIN_SIDE


def test_every_category_keeps_its_colour_and_no_two_in_an_image_share_one() -> None:
    names = ["RBC", "WBC", "Platelets", "raccoon", "fork", "scissors", "hemlock"]
    assert set(inks_of(names).values()) == set(INKS)
    assert inks_of(names) == inks_of(reversed(names))
    assert {tuple(inks_of([name]).items()) for name in ["fork"] * 3} == {(("fork", inks_of(["fork"])["fork"]),)}
    shared = inks_of([f"category {number}" for number in range(14)])
    assert all(list(shared.values()).count(ink) == 2 for ink in INKS)


def test_labels_stay_inside_and_hide_neither_one_another_nor_small_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = record_labels(monkeypatch)
    image, draws = Image.new("RGB", (640, 480), BLUE), random.Random(1)
    boxes = [(draws.uniform(0, 600), draws.uniform(0, 440), 40, 40) for _ in range(30)]
    found = [Found("cell", box, draws.uniform(0.3, 1)) for box in boxes]
    frame(image, found, inks_of(["cell"]))
    assert len(notes) >= 20, "most labels fit"
    for number, note in enumerate(notes):
        left, top, right, bottom = note.place
        assert min(left, top) >= 0
        assert right <= 640
        assert bottom <= 480
        for other in notes[:number]:
            assert overlap(note.place, other.place) < 0.1 * (right - left) * (bottom - top)
        for x, y, width, height in boxes:
            assert overlap(note.place, (x, y, x + width, y + height)) <= 0.35 * width * height


def test_a_label_without_room_for_the_name_shows_only_the_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = record_labels(monkeypatch)
    image = Image.new("RGB", (400, 400), BLUE)
    crowd = [
        Found("a long name", (x, y, 36, 36), 0.99 - 0.0001 * x) for x in range(0, 400, 40) for y in range(0, 400, 40)
    ]
    frame(image, crowd, inks_of(["a long name"]))
    assert all(len(note.text) <= len("99") for note in notes)


def test_the_ground_truth_is_dashed_in_black_and_white(photo: Path) -> None:
    drawn = draw_objects(photo, [], [Found("cat", (40, 60, 200, 150))]).crop((40, 60, 240, 62))
    assert {(16, 18, 22), (255, 255, 255)} == {colour for _, colour in drawn.getcolors() or []}


def test_an_image_without_objects_is_labelled_as_such(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[Label] = record_labels(monkeypatch)
    assert draw(photo, answer_of()).height > 480
    assert [note.text for note in notes] == ["nothing found"]


def test_text_too_long_for_its_space_ends_in_an_ellipsis() -> None:
    assert fitting("a very long name", 16, 60).endswith("…")
    assert font(16).getlength(fitting("a very long name", 16, 60)) <= 60
