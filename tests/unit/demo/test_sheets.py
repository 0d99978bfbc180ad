"""Sheets that show which predictions are right and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sightline.cli.drawing import RIGHT
from sightline.cli.frames import Found
from sightline.demo.sheets import WRONG, Cell, ObjectsCell, contact_sheet, matches, objects_sheet

CAT = Found("cat", (40, 60, 80, 90), 0.75)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    Image.new("RGB", (640, 480), (0, 0, 255)).save(file)
    return file


def test_an_object_counts_as_found_once_by_its_name_and_position() -> None:
    truth = [Found("cat", (0, 0, 100, 100)), Found("dog", (200, 0, 100, 100))]
    near, twice = Found("cat", (10, 0, 100, 100), 0.9), Found("cat", (0, 10, 100, 100), 0.8)
    other_name, far = Found("cat", (200, 0, 100, 100), 0.7), Found("dog", (280, 0, 100, 100), 0.6)
    assert matches([near, twice, other_name, far], truth) == 1
    assert matches([near, Found("dog", (190, 0, 100, 100), 0.5)], truth) == 2
    assert matches([], truth) == 0


def test_a_sheet_says_for_each_image_what_was_found_and_what_is_wrong(photo: Path) -> None:
    true = Found("cat", CAT.box)
    cells = [ObjectsCell(photo, [CAT], [true]), ObjectsCell(photo, [], [true]), ObjectsCell(photo, [CAT], [])]
    sheet = objects_sheet([cells[0]] * 2, "Right", columns=2, side=200)
    colours = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert RIGHT in colours
    assert WRONG not in colours
    for cell in cells[1:]:
        assert WRONG in {colour for _, colour in objects_sheet([cell], "Wrong").getcolors(1 << 20) or []}


def test_a_contact_sheet_frames_right_and_wrong_differently(photo: Path) -> None:
    cells = [Cell(photo, "cat", 0.9, "cat"), Cell(photo, "dog", 0.6, "a very long name that does not fit at all")]
    colours = {colour for _, colour in contact_sheet(cells, "Title").getcolors(1 << 20) or []}
    assert {RIGHT, WRONG} <= colours
