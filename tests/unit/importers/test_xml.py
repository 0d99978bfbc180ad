"""XML files in the encodings that tools write, and annotations of CVAT that lack something."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.importers.model import Box, ImportFault
from sightline.importers.read import read
from tests.unit.importers.exports import pictures


def annotated(file: Path, encoding: str, data_encoding: str) -> Path:
    pictures(file.parent, ["1.jpg"])
    box = "<bndbox><xmin>8</xmin><ymin>6</ymin><xmax>48</xmax><ymax>36</ymax></bndbox>"
    text = f"<annotation><filename>1.jpg</filename><object><name>犬</name>{box}</object></annotation>"
    file.write_bytes(f"<?xml version='1.0' encoding='{encoding}'?>{text}".encode(data_encoding))
    return file


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16", "GBK", "Big5", "Shift_JIS", "EUC-KR", "gb18030"])
def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path: Path, encoding: str) -> None:
    annotated(tmp_path / "1.xml", encoding, encoding)
    assert read(tmp_path).categories == ("犬",)


@pytest.mark.parametrize(
    ("encoding", "says"),
    [
        ("utf8mb4", "1.xml declares the encoding utf8mb4, which is not known here"),
        ("hex", "1.xml declares the encoding hex, which is not known here"),
        ("EUC-KR", "1.xml is not in EUC-KR, as it declares (byte "),
    ],
)
def test_xml_in_an_unknown_or_another_encoding_is_named_with_what_to_do(
    tmp_path: Path, encoding: str, says: str
) -> None:
    file = annotated(tmp_path / "1.xml", encoding, "UTF-8")
    with pytest.raises(ImportFault) as caught:
        read(file)
    assert says in caught.value.message
    assert caught.value.fix == f"save {file} as UTF-8, and declare that"


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ("<tag/>", "a tag has no label"),
        ('<tag label=" "/>', "a tag has no label"),
        ('<box xtl="8" ytl="6" xbr="48" ybr="36"/>', "a box has no label"),
        ('<box label="cat" xtl="8" ytl="6" xbr="48"/>', "a box (cat) lacks a coordinate"),
    ],
)
def test_marks_of_cvat_that_lack_something_are_named_with_their_image(tmp_path: Path, mark: str, says: str) -> None:
    pictures(tmp_path, ["1.jpg"])
    (tmp_path / "a.xml").write_text(f'<annotations><image id="7" name="1.jpg">{mark}</image></annotations>')
    with pytest.raises(ImportFault) as caught:
        read(tmp_path)
    assert caught.value.faults == (f"image 7, 1.jpg: {says}",)


def test_a_mask_of_cvat_becomes_the_box_around_it(tmp_path: Path) -> None:
    mask = '<mask label="cat" rle="600, 30, 30, 30" left="8" top="6" width="40" height="30"/>'
    (tmp_path / "a.xml").write_text(f'<annotations><image id="7" name="1.jpg">{mask}</image></annotations>')
    imported = read(tmp_path)
    assert imported.images[0].boxes == (Box("cat", 8, 6, 40, 30),)
    assert imported.notes == ("turned into upright boxes: 1 outline",)


def test_the_corners_of_a_box_of_cvat_may_come_in_any_order(tmp_path: Path) -> None:
    boxes = (
        '<box label="cat" xtl="48" ytl="6" xbr="8" ybr="36"/>',
        '<box label="cat" xtl="48" ytl="36" xbr="8" ybr="6"/>',
        '<box label="cat" xtl="8" ytl="6" xbr="8" ybr="36"/>',
    )
    image = f'<image id="7" name="1.jpg">{"".join(boxes)}</image>'
    (tmp_path / "a.xml").write_text(f"<annotations>{image}</annotations>")
    (found,) = read(tmp_path).images
    assert found.boxes == (Box("cat", 8, 6, 40, 30), Box("cat", 8, 6, 40, 30), Box("cat", 8, 6, 0, 30))


@pytest.mark.parametrize(
    ("corners", "says"),
    [
        ({"xmin": "8,5"}, "xmin is '8,5', not a number"),
        ({"ymin": "nan", "xmax": "?"}, "ymin is 'nan', not a number; xmax is '?', not a number"),
        ({"xmax": " "}, "its bndbox lacks one of xmin, ymin, xmax, ymax"),
    ],
)
def test_corners_of_pascal_voc_that_are_no_numbers_are_named(
    tmp_path: Path, corners: dict[str, str], says: str
) -> None:
    pictures(tmp_path, ["1.jpg"])
    numbers = {"xmin": "8", "ymin": "6", "xmax": "48", "ymax": "36"} | corners
    box = "".join(f"<{corner}>{number}</{corner}>" for corner, number in numbers.items())
    text = f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    (tmp_path / "1.xml").write_text(text)
    with pytest.raises(ImportFault) as caught:
        read(tmp_path)
    assert caught.value.faults == (f"{tmp_path / '1.xml'}, object 1 (cat): {says}",)
