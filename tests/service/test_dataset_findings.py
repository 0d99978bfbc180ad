"""Every error that a caller's files may have: what is reported, where, and the dataset's resulting state."""

import json
from collections.abc import AsyncIterator
from io import BytesIO

import numpy as np
import pytest
from grpc import StatusCode
from PIL import Image

from services.dataset.settings import DatasetSettings
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import finding_pb2
from tests.support.datasets import World, coco, make_image, refused, rotated, running, tagged
from tests.support.hostile_images import encoded
from tests.support.odd_images import GREY, chunk, photo, png_of, png_with

ERROR, WARNING, INFO = finding_pb2.Finding.ERROR, finding_pb2.Finding.WARNING, finding_pb2.Finding.INFO


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World()) as world:
        yield world


def box(*numbers: float, image: int = 1, mark: int = 1, category: int = 1) -> dict[str, object]:
    return {"id": mark, "image_id": image, "category_id": category, "bbox": numbers}


def one_image(width: int | None = None, height: int | None = None) -> list[dict[str, object]]:
    sides = {"width": width, "height": height} if width else {}
    return [{"id": 1, "file_name": "a.png", **sides}]


# Whole files.


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b'{"images": [],\n  oops', "annotationFileNotJson", "line 2, column 3"),
        (b'{"images": [', "annotationFileNotJson", "truncated"),
        (b'{"images":\n [{"id": 1, "width": NaN}]}', "annotationFileNotFinite", "NaN at line 2, column 22"),
        (b'{"images": [{"id": 1, "width": -Infinity}]}', "annotationFileNotFinite", "-Infinity at line 1, column 32"),
        (b'{"images": [{"id": 1}, "x"]}', "annotationFileNotCoco", "$.images[1]"),
        (b'{"images": [{"id": 1}], "annotations": {}}', "annotationFileNotCoco", "$.annotations"),
        (b"[]", "annotationFileNotCoco", "Expected `object`"),
        (b"{}", "annotationFileNotCoco", "`images`"),
        (b'{"images": ' + b"[" * 100_000, "annotationFileNot", ""),
        (b'{"images": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "annotationFileNotCoco", "too deeply"),
        (b'{"images": [{"id": 1, "file_name": "\xff"}]}', "annotationFileNotJson", "UTF-8"),
        (coco([], [], []), "categoriesMissing", "no categories"),
    ],
)
async def test_an_unreadable_coco_file_fails_and_says_where(world: World, data: bytes, code: str, says: str) -> None:
    dataset = await world.register(data)
    assert dataset.state == pb.Dataset.FAILED
    finding = (await world.findings())[0]
    assert finding.severity == ERROR
    assert finding.code.startswith(code)
    assert says in finding.message
    assert finding.file == "s3://sightline/uploads/u1/train.json"
    assert finding.remedy
    assert finding.message in dataset.error.message
    assert dataset.finding_counts.error == 1


@pytest.mark.parametrize(
    ("images", "annotations", "code", "says"),
    [
        ([(1, "a.png"), (1, "b.png")], [], "imageDuplicateId", "Image id 1 is used by both 'a.png' and 'b.png'"),
        ([(1, "a.png")], [(1, 1, 99)], "categoryUndeclared", "category 99 is not declared"),
    ],
)
async def test_ids_that_contradict_each_other_fail_the_dataset(
    world: World, images: list[tuple[int, str]], annotations: list[tuple[int, int, int]], code: str, says: str
) -> None:
    listed = [{"id": number, "file_name": name} for number, name in images]
    marks = [{"id": a, "image_id": b, "category_id": c} for a, b, c in annotations]
    dataset = await world.register(coco(listed, marks))
    assert dataset.state == pb.Dataset.FAILED
    assert says in dataset.error.message
    assert says in (await world.found(code)).message


async def test_annotations_that_share_an_id_are_kept(world: World) -> None:
    marks = [{"id": 0, "image_id": 1, "category_id": 1} for _ in range(3)]
    dataset = await world.register(coco([{"id": 1, "file_name": "a.png"}], marks), {"a.png": make_image(60, 60)})
    assert dataset.state == pb.Dataset.READY
    assert "2 annotations have the id of another one" in (await world.found("annotationDuplicateId")).message


async def test_annotations_that_cannot_be_read_count_as_annotations(world: World) -> None:
    marks = [{"id": n, "image_id": "gone", "category_id": 1, "bbox": [1, 2, 30, 40]} for n in range(3)]
    file = coco([{"id": 1, "file_name": "a.png"}], marks)
    dataset = await world.register(file, {"a.png": make_image(60, 60)}, kind="OBJECT_DETECTION")
    assert "3 of 3 annotations cannot be used" in dataset.error.message


async def test_a_category_declared_twice_fails_the_dataset(world: World) -> None:
    data = json.loads(coco([], []))
    data["categories"].append({"id": 1, "name": "cow"})
    dataset = await world.register(json.dumps(data).encode())
    assert "Category id 1 is declared twice, as 'cat' and as 'cow'" in dataset.error.message


@pytest.mark.parametrize("name", ["\x1b[31mcat", "c\nat", "c\x9bat", "c\u202eat", "c\u200bat"])
async def test_a_category_whose_name_has_a_character_that_is_not_seen_fails_the_dataset(
    world: World, name: str
) -> None:
    dataset = await world.register(coco([], [], [name]))
    assert dataset.state == pb.Dataset.FAILED
    finding = await world.found("categoryNameInvalid")
    assert " character U+" in finding.message


async def test_too_many_categories_fail_the_dataset(world: World) -> None:
    dataset = await world.register(coco([], [], [f"c{n}" for n in range(2501)]))
    assert "2501 categories are more than the limit of 2500" in dataset.error.message


async def test_a_dataset_without_images_fails_as_empty(world: World) -> None:
    dataset = await world.register(coco([], []))
    assert dataset.state == pb.Dataset.FAILED
    assert "the annotation files list none" in dataset.error.message


@pytest.mark.parametrize("annotations", [None, []], ids=["no key", "an empty list"])
@pytest.mark.parametrize(
    ("kind", "state"), [("OBJECT_DETECTION", pb.Dataset.READY), ("IMAGE_CLASSIFICATION", pb.Dataset.FAILED)]
)
async def test_a_file_without_annotations_is_reported(
    world: World, kind: str, state: int, annotations: list[object] | None
) -> None:
    described = json.loads(coco(one_image(), []))
    described["annotations"] = annotations
    if annotations is None:
        del described["annotations"]
    dataset = await world.register(json.dumps(described).encode(), {"a.png": make_image()}, kind=kind)
    assert dataset.state == state
    finding = await world.found("annotationsMissing")
    assert (finding.severity, finding.file) == (WARNING, "s3://sightline/uploads/u1/train.json")
    assert "has no annotations" in finding.message
    assert "`annotations`" in finding.remedy
    assert ("the annotation files have no annotations" in dataset.error.message) == (state == pb.Dataset.FAILED)


async def test_background_images_among_others_do_not_count_as_missing_annotations(world: World) -> None:
    images = [*one_image(), {"id": 2, "file_name": "b.png"}]
    files = {"a.png": make_image(200, 100), "b.png": make_image(100, 100)}
    await world.register(coco(images, GOOD), files, kind="OBJECT_DETECTION")
    assert "annotationsMissing" not in {finding.code for finding in await world.findings()}


async def test_categories_that_differ_only_in_case_or_spaces_are_listed_together(world: World) -> None:
    described, files = tagged(8, 4)
    for name, alike in (("c1", "Glass"), ("c2", "glass"), ("c3", "glass ")):
        described = described.replace(f'"{name}"'.encode(), f'"{alike}"'.encode())
    assert (await world.register(described, files)).state == pb.Dataset.READY
    finding = await world.found("categoriesAlike")
    assert finding.severity == WARNING
    assert finding.message == "The categories 'Glass', 'glass' differ only in case, spaces, hyphens or Unicode form."
    merged = await world.found("categoriesMerged")
    assert (merged.severity, merged.message) == (
        WARNING,
        "The categories 2 and 3 share the name 'glass' and count as one.",
    )


async def test_a_file_with_a_byte_order_mark_is_read(world: World) -> None:
    data, files = tagged(4)
    assert (await world.register(b"\xef\xbb\xbf" + data, files)).state == pb.Dataset.READY


# Images.


async def with_one_bad(world: World, path: str, data: bytes | None, code: str) -> finding_pb2.Finding:
    """Nine good images and one bad one: the set is READY without it."""
    described, files = tagged(9)
    file = json.loads(described)
    file["images"].append({"id": 10, "file_name": path})
    file["annotations"].append({"id": 10, "image_id": 10, "category_id": 1})
    if data is not None:
        files[path] = data
    dataset = await world.register(json.dumps(file).encode(), files)
    assert dataset.state == pb.Dataset.READY, dataset.error
    assert (dataset.stats.image_count, dataset.finding_counts.error) == (9, 1)
    finding = await world.found(code)
    assert (finding.severity, finding.image_id, finding.file) == (ERROR, 10, path)
    assert finding.remedy
    return finding


async def test_a_missing_image_is_reported(world: World) -> None:
    finding = await with_one_bad(world, "images/gone.png", None, "imageMissing")
    assert "s3://sightline/uploads/u1/images/gone.png" in finding.message


async def test_a_truncated_image_is_reported(world: World) -> None:
    noise = Image.effect_noise((200, 200), 80)
    out = BytesIO()
    noise.save(out, "JPEG")
    finding = await with_one_bad(
        world, "images/cut.jpg", out.getvalue()[: len(out.getvalue()) // 2], "imageUndecodable"
    )
    assert finding.message.startswith("The image is cut off: the end of the JPEG file is missing")


async def test_a_file_that_is_not_an_image_is_reported(world: World) -> None:
    finding = await with_one_bad(world, "images/x.txt", b"hello", "imageUndecodable")
    assert finding.message.startswith("The image is text, not an image; replace it with one of JPEG, PNG")


@pytest.mark.parametrize(
    ("name", "data", "code", "words"),
    [
        (
            "a.jpg",
            encoded(photo(), "JPEG")[:-2],
            "imageCutOff",
            "The end of the file is missing: all its pixels are there.",
        ),
        ("a.png", png_with(chunk(b"tEXt", b"a\0b", crc=1)), "imageMetadataIgnored", "(tEXt)"),
        (
            "a.png",
            png_of(np.arange(4_800, dtype=np.uint16).reshape(60, 80) % 4_096, GREY),
            "imageDepthJudged",
            "fit 12 of",
        ),
        ("a.png", encoded(Image.new("RGBA", (64, 64)), "PNG"), "imageAlphaIgnored", "transparent throughout"),
        ("a.png", encoded(Image.new("RGB", (64, 64), "red"), "PNG"), "imageBlank", "one colour only, #ff0000"),
        ("a.png", encoded(photo(160, 55), "PNG"), "imageLowResolution", "only 160 x 55"),
        ("a.png", encoded(photo(640, 100), "PNG"), "imageAspectExtreme", "640 x 100"),
        ("a.jpg", encoded(photo(), "PNG"), "imageExtensionWrong", "The file is a PNG"),
        ("a.heic", encoded(photo(), "JPEG"), "imageExtensionWrong", "The file is a JPEG"),
    ],
)
async def test_an_odd_image_is_kept_and_what_is_odd_is_said(
    world: World, name: str, data: bytes, code: str, words: str
) -> None:
    described, files = tagged(3)
    described = described.replace(b"images/1.png", f"images/{name}".encode())
    files[f"images/{name}"] = data
    dataset = await world.register(described, files)
    assert (dataset.state, dataset.stats.image_count) == (pb.Dataset.READY, 3)
    finding = await world.found(code)
    assert (finding.file, finding.image_id) == (f"images/{name}", 1)
    assert words in finding.message
    assert finding.remedy


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.JPG", "a", "a.png.jpg", "a.1", "a.dat"])
async def test_an_extension_that_says_nothing_else_gets_no_finding(world: World, name: str) -> None:
    described, files = tagged(2)
    described = described.replace(b"images/1.png", f"images/{name}".encode())
    files[f"images/{name}"] = encoded(photo(), "JPEG")
    await world.register(described, files)
    assert "imageExtensionWrong" not in [finding.code for finding in await world.findings()]


async def test_an_image_of_40_x_40_is_too_small(world: World) -> None:
    finding = await with_one_bad(world, "images/tiny.png", make_image(40, 40), "imageSidesInvalid")
    assert finding.message == "The image is 40 x 40 pixels; each side must be 50 to 16000 pixels."


async def test_an_image_of_too_many_bytes_is_refused() -> None:
    async with running(World(settings=DatasetSettings(max_image_bytes=5000))) as world:
        noise = make_image(60, 60, form="BMP")
        finding = await with_one_bad(world, "images/fat.bmp", noise, "imageTooLarge")
        assert "more than 5000 bytes" in finding.message


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("../../secret.png", "leaves the annotation file's folder with '..'"),
        ("/etc/passwd", "is absolute"),
        ("C:/a.png", "is absolute"),
        ("C:\\a.png", "is absolute"),
        ("http://example.com/a.png", "the scheme 'http' is not s3"),
        ("s3://other/a.png", "the bucket 'other' is not the store's"),
        ("a\u0000b.png", "control character"),
        ("s3://sightline/.sightline-tmp/x", "which the store keeps for itself"),
        ("s3://sightline/a\u0085b.png", "control character"),
        ("s3://sightline/" + "x" * 300, "more than 255 bytes"),
    ],
)
async def test_a_path_that_leaves_the_store_is_refused(world: World, path: str, says: str) -> None:
    finding = await with_one_bad(world, path, None, "imagePathInvalid")
    assert says in finding.message


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("images\\a.png", "images/a.png"),
        ("Images/A.PNG", "images/a.png"),
        ("M%C3%BCll.png", "Mu\u0308ll.png"),
        ("x:12_y:5.png", "x:12_y:5.png"),
    ],
)
async def test_a_name_that_is_written_otherwise_than_its_file_in_the_store_is_found(
    world: World, name: str, key: str
) -> None:
    described = coco([{"id": 1, "file_name": name}], GOOD)
    dataset = await world.register(described, {key: make_image(200, 100)}, kind="OBJECT_DETECTION")
    assert dataset.stats.image_count == 1


async def test_a_missing_image_is_named_with_the_file_that_was_probably_meant(world: World) -> None:
    described = coco([{"id": 1, "file_name": "cats/1.png"}, {"id": 2, "file_name": "a.png"}], GOOD)
    await world.register(described, {"dogs/1.png": make_image(200, 100)}, kind="OBJECT_DETECTION")
    messages = {one.image_id: one.message for one in await world.findings() if one.code == "imageMissing"}
    assert messages[1].endswith("in the store (did you mean dogs/1.png?).")
    assert messages[2].endswith("in the store.")


async def test_an_animated_gif_gives_its_first_frame(world: World) -> None:
    out = BytesIO()
    frames = [Image.new("RGB", (60, 60), color) for color in ("red", "blue", "green")]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    described, files = tagged(4)
    file = json.loads(described)
    file["images"][0]["file_name"] = "a.gif"
    files["a.gif"] = out.getvalue()
    dataset = await world.register(json.dumps(file).encode(), files)
    assert dataset.state == pb.Dataset.READY
    finding = await world.found("imageAnimated")
    assert (finding.severity, finding.file) == (WARNING, "a.gif")
    assert "several frames or pages; only the first is used" in finding.message


async def test_a_png_of_15000_x_15000_is_accepted_and_scaled(world: World) -> None:
    out = BytesIO()
    Image.new("1", (15_000, 15_000), 1).save(out, "PNG", compress_level=1)
    described, files = tagged(4)
    file = json.loads(described)
    file["images"][0] |= {"width": 15_000, "height": 15_000}
    files["images/1.png"] = out.getvalue()
    dataset = await world.register(json.dumps(file).encode(), files)
    assert dataset.state == pb.Dataset.READY
    finding = await world.found("imageScaled")
    assert "15000 x 15000 image was scaled down to fit 10240" in finding.message


async def test_equal_images_are_found_and_different_labels_are_reported(world: World) -> None:
    described, files = tagged(6)
    files["images/2.png"] = files["images/1.png"]
    await world.register(described, files)
    finding = await world.found("duplicateLabelsDiffer")
    assert (finding.severity, finding.file, finding.image_id) == (ERROR, "images/2.png", 2)
    assert "identical to 'images/1.png' (image 1), but is labelled 'c2' rather than 'c1'" in finding.message


async def test_one_image_per_category_is_reported_as_too_few(world: World) -> None:
    dataset = await world.register(*tagged(2))
    assert dataset.state == pb.Dataset.READY
    codes = [(f.code, f.message) for f in await world.findings()]
    assert len(codes) == 2
    assert codes[0] == (
        "categoryTooFewImages",
        "The category 'c1' has 1 usable image; training needs at least 2.",
    )


async def test_too_many_bad_images_fail_the_dataset_with_an_example(world: World) -> None:
    described, files = tagged(10)
    for number in (1, 2, 3):
        del files[f"images/{number}.png"]
    dataset = await world.register(described, files)
    assert dataset.state == pb.Dataset.FAILED
    assert "3 of 10 images cannot be used, more than the allowed 20%" in dataset.error.message
    assert "images/1.png" in dataset.error.message
    assert dataset.finding_counts.error == 3
    assert not dataset.snapshot_digest
    assert [blob async for blob in world.blobs.list("datasets/") if "/packs/" in blob.key] == []


async def test_a_classification_image_must_have_exactly_one_tag(world: World) -> None:
    described, files = tagged(12)
    file = json.loads(described)
    file["annotations"].append({"id": 100, "image_id": 1, "category_id": 2})
    file["annotations"].append({"id": 101, "image_id": 2, "category_id": 2})
    del file["annotations"][2]
    await world.register(json.dumps(file).encode(), files)
    assert "2 different tags: c1, c2" in (await world.found("imageSeveralTags")).message
    assert (await world.found("tagRepeated")).image_id == 2
    assert (await world.found("imageUntagged")).image_id == 3


async def test_an_annotation_of_an_unlisted_image_is_left_out(world: World) -> None:
    described, files = tagged(9)
    file = json.loads(described)
    file["annotations"].append({"id": 50, "image_id": 77, "category_id": 1})
    dataset = await world.register(json.dumps(file).encode(), files)
    assert dataset.state == pb.Dataset.READY
    finding = await world.found("annotationUnknownImage")
    assert (finding.image_id, finding.annotation_id) == (77, 50)


# Boxes.


async def detect(
    world: World, marks: list[dict[str, object]], image: bytes, sides: tuple[int, int] | None = None
) -> pb.Dataset:
    described = coco(one_image(*(sides or (None, None))), marks)
    return await world.register(described, {"a.png": image}, kind="OBJECT_DETECTION")


GOOD = [box(number, 2, 30, 40, mark=number) for number in range(10, 20)]


@pytest.mark.parametrize(
    ("numbers", "code", "says"),
    [
        ((10, 10, 0, 5), "boxEmpty", "[10, 10, 0, 5] has a width or height that is not positive"),
        ((10, 10, 5, -5), "boxEmpty", "not positive"),
        ((500, 10, 20, 20), "boxOutOfFrame", "mostly outside the 200 x 100 image"),
        ((10, 120, 50, 60), "boxSidesSwapped", "does not fit the 200 x 100 image but fits 100 x 200"),
        ((150, 20, 190, 90), "boxAsCorners", "looks like corners [x1, y1, x2, y2]"),
        ((1e308, 1e308, 1e308, 1e308), "boxOutOfFrame", "[1e+308, 1e+308, 1e+308, 1e+308] lies mostly outside"),
        ((-1e308, 5, 1e308, 5), "boxOutOfFrame", "mostly outside"),
        ((-30, -20, 20, 10), "boxOutOfFrame", "mostly outside"),
        ((1, 2, 3), "boxMalformed", "bbox has 3 values"),
        ((1, 2, 3, 10**400), "boxMalformed", "bbox has a number that is too large"),
        ((1, 2, "30 px", 40), "boxMalformed", "bbox has a string among its values"),
        ((1, 2, None, 40), "boxMalformed", "bbox has null among its values"),
        (((1, 2), (3, 4), 5, 6), "boxMalformed", "bbox has an array among its values"),
        ("1,2,3,4", "boxMalformed", "bbox is a string"),
        ({"x": 1, "y": 2}, "boxMalformed", "bbox is an object"),
        (12, "boxMalformed", "bbox is a number"),
        (None, "boxMissing", "no bbox; the service makes none from a segmentation"),
    ],
)
async def test_a_wrong_box_is_left_out_and_reported(world: World, numbers: object, code: str, says: str) -> None:
    wrong = {"id": 3, "image_id": 1, "category_id": 1, "bbox": numbers, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    dataset = await detect(world, [*GOOD, wrong], make_image(200, 100))
    assert dataset.state == pb.Dataset.READY, dataset.error.message
    finding = await world.found(code)
    assert (finding.severity, finding.file, finding.image_id, finding.annotation_id) == (ERROR, "a.png", 1, 3)
    assert says in finding.message
    assert dataset.stats.annotation_count == 10


async def test_a_missing_bbox_is_reported(world: World) -> None:
    dataset = await detect(world, [*GOOD, {"id": 3, "image_id": 1, "category_id": 1}], make_image(200, 100))
    assert dataset.state == pb.Dataset.READY
    assert (await world.found("boxMissing")).annotation_id == 3


async def test_a_box_slightly_over_the_edge_is_clipped_and_reported(world: World) -> None:
    await detect(world, [*GOOD, box(180, 10, 25, 20, mark=3), box(150, 10, 50.1, 20, mark=4)], make_image(200, 100))
    finding = await world.found("boxClipped")
    assert (finding.severity, finding.annotation_id) == (WARNING, 3)
    assert finding.message == (
        "Box [180, 10, 25, 20] extends 5 px beyond the 200 x 100 image; it was clipped to [180, 10, 20, 20]."
    )


async def test_a_box_of_a_few_pixels_is_kept_and_reported(world: World) -> None:
    dataset = await detect(world, [*GOOD, box(50, 50, 3, 20, mark=3)], make_image(200, 100))
    finding = await world.found("boxTiny")
    assert (finding.severity, finding.file, finding.image_id, finding.annotation_id) == (WARNING, "a.png", 1, 3)
    assert "Box [50, 50, 3, 20] is only 3 px across once the image is scaled to 640 px" in finding.message
    assert dataset.stats.annotation_count == 11


async def test_a_box_that_scaling_makes_tiny_is_reported(world: World) -> None:
    large = [box(100 * number, 2, 200, 200, mark=number) for number in range(10, 20)]
    await detect(world, [*large, box(50, 50, 12, 90, mark=3)], make_image(2560, 1000))
    finding = await world.found("boxTiny")
    assert finding.annotation_id == 3
    assert "is only 3 px across" in finding.message


async def test_a_box_given_twice_is_kept_once(world: World) -> None:
    again, other = box(10, 2, 30, 40.01, mark=3), box(10, 2, 30, 40, mark=4, category=2)
    dataset = await detect(world, [*GOOD, again, other], make_image(200, 100))
    finding = await world.found("boxRepeated")
    assert (finding.severity, finding.file, finding.image_id, finding.annotation_id) == (WARNING, "a.png", 1, 3)
    assert "the 'cat' box [10, 2, 30, 40.01] more than once" in finding.message
    assert dataset.stats.annotation_count == 11


async def test_an_object_in_the_box_of_a_crowd_is_kept(world: World) -> None:
    crowd, one = box(100, 2, 50, 40, mark=3) | {"iscrowd": 1}, box(100, 2, 50, 40, mark=4)
    dataset = await detect(world, [*GOOD, crowd, one], make_image(200, 100))
    assert dataset.stats.annotation_count == 12


async def test_crowds_and_images_without_boxes_are_counted(world: World) -> None:
    crowd = box(100, 2, 50, 40, mark=3) | {"iscrowd": 1}
    images = [*one_image(), {"id": 2, "file_name": "b.png"}]
    files = {"a.png": make_image(200, 100), "b.png": make_image(100, 100)}
    dataset = await world.register(coco(images, [*GOOD, crowd]), files, kind="OBJECT_DETECTION")
    assert dataset.stats.image_count == 2
    for code, says in (("crowdBoxes", "1 box is marked iscrowd"), ("imagesWithoutBoxes", "1 image has no boxes")):
        finding = await world.found(code)
        assert finding.severity == INFO
        assert says in finding.message
    assert "'dog'" in (await world.found("categoriesUnused")).message


async def test_categories_that_are_rare_compared_to_the_most_frequent_are_listed_together(world: World) -> None:
    marks = [box(number, 2, 30, 40, mark=number) for number in range(1, 62)]
    marks += [box(1, 50, 30, 40, mark=90, category=2), box(1, 50, 30, 40, mark=91, category=3)]
    marks += [box(number, 50, 30, 40, mark=100 + number, category=4) for number in range(4)]
    described = coco(one_image(), marks, ["cell", "speck", "spot", "fair"])
    await world.register(described, {"a.png": make_image(200, 100)}, kind="OBJECT_DETECTION")
    finding = await world.found("categoriesImbalanced")
    assert finding.severity == WARNING
    assert finding.message == (
        "'cell' has 61 annotations; 2 categories have less than a twentieth of that: speck, spot."
    )


async def test_an_image_with_more_than_1000_boxes_is_left_out(world: World) -> None:
    marks = [box(number / 10, 2, 30, 40, mark=number) for number in range(1001)]
    dataset = await detect(world, marks, make_image(200, 100))
    assert dataset.state == pb.Dataset.FAILED
    assert "1001 boxes, more than 1000" in (await world.found("imageTooManyBoxes")).message


async def test_relative_and_absolute_boxes_are_never_mixed(world: World) -> None:
    dataset = await detect(world, [*GOOD, box(0.1, 0.1, 0.5, 0.5, mark=3)], make_image(200, 100))
    assert dataset.state == pb.Dataset.FAILED
    finding = await world.found("boxUnitsMixed")
    assert (finding.file, finding.annotation_id) == ("a.png", 3)
    assert "is in fractions of the image's sides, but most boxes of the file are in pixels" in finding.message


async def test_files_in_different_units_are_never_mixed(world: World) -> None:
    second = "uploads/u1/more.json"
    await world.put(coco(one_image(), GOOD), {"a.png": make_image(200, 100)})
    await world.put(coco(one_image(), [box(0.1, 0.1, 0.5, 0.5), box(0.2, 0.1, 0.5, 0.5, mark=2)]), key=second)
    uris = ["s3://sightline/uploads/u1/train.json", f"s3://sightline/{second}"]
    await world.stub.CreateDataset(world.request(kind="OBJECT_DETECTION", uris=uris))
    await world.work()
    dataset = await world.get()
    assert dataset.state == pb.Dataset.FAILED
    finding = await world.found("boxUnitsDiffer")
    assert finding.file == uris[1]
    assert "in fractions of the image's sides, those of earlier files in pixels" in finding.message


@pytest.mark.parametrize("sides", [(0, 0), (-200, -100), (200, 0)])
async def test_declared_sides_that_are_not_positive_are_ignored(world: World, sides: tuple[int, int]) -> None:
    described = coco([{"id": 1, "file_name": "a.png", "width": sides[0], "height": sides[1]}], GOOD)
    dataset = await world.register(described, {"a.png": make_image(200, 100)}, kind="OBJECT_DETECTION")
    assert (dataset.state, dataset.finding_counts.error) == (pb.Dataset.READY, 0)


async def test_an_image_whose_declared_sides_have_another_aspect_ratio_is_left_out(world: World) -> None:
    dataset = await detect(world, GOOD, make_image(200, 100), (300, 300))
    assert dataset.state == pb.Dataset.FAILED
    assert "The file says 300 x 300, the image is 200 x 100" in (await world.found("imageFrameUnknown")).message


async def test_swapped_declared_sides_are_detected_and_reported(world: World) -> None:
    dataset = await detect(world, GOOD, make_image(200, 100), (100, 200))
    assert dataset.state == pb.Dataset.READY
    finding = await world.found("imageSidesSwapped")
    assert (finding.severity, finding.image_id) == (WARNING, 1)
    assert "The file says 100 x 200, the image is 200 x 100: width and height are swapped" in finding.message


async def test_an_exif_rotated_image_is_reported(world: World) -> None:
    described = coco(one_image(), [{"id": 1, "image_id": 1, "category_id": 1}])
    await world.register(described, {"a.png": rotated(200, 100, 6)})
    assert "EXIF orientation 6 was applied" in (await world.found("imageOriented")).message


# Uris.


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://example.com/train.json", "the scheme 'http' is not s3"),
        ("s3://other/train.json", "the bucket 'other' is not the store's"),
        ("s3://sightline/a/../b.json", "'..'"),
        ("s3://sightline/uploads/none.json", "there is no such file in the store"),
        ("s3://sightline/uploads/a%2e/train.json", "there is no such file in the store"),
        ("s3://sightline/uploads/ü/train.json", "there is no such file in the store"),
        ("train.json", "it has no scheme"),
    ],
)
async def test_an_annotation_uri_outside_the_store_is_refused(world: World, uri: str, says: str) -> None:
    async with refused(StatusCode.INVALID_ARGUMENT, "DatasetInvalidAnnotationUri", says):
        await world.stub.CreateDataset(world.request(uris=[uri]))
