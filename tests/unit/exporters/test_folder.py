"""What an export does to the folder that it is written into."""

import hashlib
from pathlib import Path

import pytest

from sightline.exporters.folder import Target
from sightline.exporters.forms import export
from sightline.exporters.model import Box, Export, ExportFault, ExportFormat, Image, Snapshot

CONTENT = {number: bytes([number]) * 10 for number in (1, 2, 3)}


def snapshot(*boxes: Box, category_id: int | None = None) -> Snapshot:
    images = [
        Image(
            number, f"i/{number}.jpg", 64, 48, 10, hashlib.sha256(content).hexdigest(), "jpg", category_id, tuple(boxes)
        )
        for number, content in CONTENT.items()
    ]
    return Snapshot("datasets/pets", "sha256:1", category_id is None, {7: "cat", 9: "a/b"}, images)


def target(folder: Path, *, force: bool = False) -> Target:
    found = snapshot(category_id=7)
    return Target(folder, export(found, ExportFormat.COCO), found.images, force=force)


def fill(made: Target) -> None:
    for number, content in CONTENT.items():
        made.write(number, content)
    made.finish()


def test_an_export_is_continued_where_it_broke_off(tmp_path: Path) -> None:
    first = target(tmp_path / "out")
    first.write(1, CONTENT[1])
    again = target(tmp_path / "out")
    assert (list(again.missing), again.after) == ([2, 3], 1)
    before = (tmp_path / "out/i/1.jpg").stat().st_mtime_ns
    fill(again)
    assert (tmp_path / "out/i/1.jpg").stat().st_mtime_ns == before
    assert not target(tmp_path / "out").missing
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        "1.jpg",
        "2.jpg",
        "3.jpg",
        "annotations.json",
    ]


def test_a_gap_is_filled(tmp_path: Path) -> None:
    fill(target(tmp_path))
    (tmp_path / "i/2.jpg").unlink()
    again = target(tmp_path)
    assert (list(again.missing), again.after) == ([2], 1)


def test_a_folder_with_other_files_is_refused_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExportFault, match=r"mine\.txt") as caught:
        target(tmp_path)
    assert "--force" in caught.value.fix
    fill(target(tmp_path, force=True))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_another_file_in_an_images_place_is_replaced_only_if_forced(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    (tmp_path / "i/2.jpg").write_bytes(b"other")
    with pytest.raises(ExportFault, match=r"i/2\.jpg"):
        target(tmp_path)
    fill(target(tmp_path, force=True))
    assert (tmp_path / "i/2.jpg").read_bytes() == CONTENT[2]


def test_a_link_in_the_folder_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/i").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportFault, match="leads out of"):
        fill(target(tmp_path / "out"))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ExportFault, match="is a file"):
        target(tmp_path / "out")


def test_an_image_with_other_bytes_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ExportFault, match="arrived with other bytes"):
        target(tmp_path).write(1, b"other")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "category_id", "says"),
    [
        (ExportFormat.YOLO, 7, "yolo is for boxes"),
        (ExportFormat.VOC, 7, "voc is for boxes"),
        (ExportFormat.FOLDERS, None, "folders have no boxes"),
    ],
)
def test_a_form_that_cannot_express_the_annotations_is_refused(
    form: ExportFormat, category_id: int | None, says: str
) -> None:
    with pytest.raises(ExportFault, match=says) as caught:
        export(snapshot(category_id=category_id), form)
    assert "coco" in caught.value.fix


@pytest.mark.parametrize("form", [ExportFormat.YOLO, ExportFormat.VOC])
def test_boxes_around_groups_are_left_out_of_forms_that_have_none(form: ExportFormat) -> None:
    made = export(snapshot(Box(7, 1, 2, 3, 4, is_crowd=True)), form)
    assert made.notes == ["boxes around groups (iscrowd) are left out: 3; COCO has them"]
    assert b"cat" not in b"".join(content for path, content in made.documents.items() if path.startswith("Anno"))
    assert not [path for path, content in made.documents.items() if path.startswith("labels") and content]


def test_a_category_that_is_no_folders_name_is_said() -> None:
    made: Export = export(snapshot(category_id=9), ExportFormat.FOLDERS)
    assert made.images[1] == "a_b/1.jpg"
    assert made.notes == ["the category 'a/b' is the folder 'a_b'"]
