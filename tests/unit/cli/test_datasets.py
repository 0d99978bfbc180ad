"""`sightline datasets` against fake services."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import DeleteDatasetRequest, ImageSizes
from sightline.v1.finding_pb2 import Finding
from sightline.v1.prediction_pb2 import (
    AnalyzeImageResponse,
    BoundingBox,
    CustomModelResult,
    DetectedObject,
    ImageMetadata,
    ObjectsResult,
    Tag,
    TagsResult,
)
from sightline.v1.prediction_service_pb2 import SuggestImagesResponse
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes, status
from tests.unit.importers import exports


def test_create_uploads_the_coco_file_and_exactly_the_images_that_it_lists(
    sightline: Command, fakes: Fakes, coco: Path
) -> None:
    outcome = sightline("datasets", "create", "pets", "--kind", "classification", "--coco", coco)
    assert outcome.code == 0, outcome.err
    assert set(fakes.files) == {"coco.json", "images/a.png", "images/b.png"}
    assert fakes.files["images/a.png"] == (coco.parent / "images/a.png").read_bytes()
    assert fakes.datasets["datasets/pets"].annotation_kind == Dataset.IMAGE_CLASSIFICATION


def test_images_are_read_from_the_given_folder(sightline: Command, fakes: Fakes, coco: Path) -> None:
    elsewhere = coco.parent.parent / "labels.json"
    coco.rename(elsewhere)
    outcome = sightline(
        "datasets", "create", "pets", "--kind", "detection", "--coco", elsewhere, "--images", coco.parent
    )
    assert outcome.code == 0, outcome.err
    assert set(fakes.files) == {"labels.json", "images/a.png", "images/b.png"}


def test_all_missing_images_are_reported_with_their_ids_before_anything_is_uploaded(
    sightline: Command, fakes: Fakes, coco: Path
) -> None:
    content = json.loads(coco.read_text())
    content["images"] += [{"id": 7, "file_name": "images/gone.png"}, {"id": 8, "file_name": "../out.png"}]
    coco.write_text(json.dumps(content))
    outcome = sightline("datasets", "create", "pets", "--kind", "classification", "--coco", coco)
    assert outcome.code == 3
    assert "image id 7: images/gone.png" in outcome.err
    assert "image id 8: ../out.png: is outside the folder" in outcome.err
    assert not fakes.requests


def test_a_coco_file_that_is_not_json_is_refused_with_its_line(sightline: Command, fakes: Fakes, coco: Path) -> None:
    coco.write_text('{"images": [\n  oops')
    outcome = sightline("datasets", "create", "pets", "--kind", "classification", "--coco", coco)
    assert outcome.code == 3
    assert "line 2 column 3" in outcome.err
    assert not fakes.requests


@pytest.mark.usefixtures("quick_retries")
def test_an_upload_that_the_service_drops_is_retried(sightline: Command, fakes: Fakes, coco: Path) -> None:
    away = status(grpc.StatusCode.UNAVAILABLE, "Draining", "The dataset service is shutting down.")
    fakes.errors["UploadFiles"] = [away] * 5
    outcome = sightline("datasets", "create", "pets", "--kind", "classification", "--coco", coco)
    assert outcome.code == 0, outcome.err
    assert len(fakes.files) == 3


def test_a_call_that_timed_out_says_what_to_check(sightline: Command, fakes: Fakes) -> None:
    fakes.errors["GetDataset"] = [Status(code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0], message="Deadline Exceeded")]
    outcome = sightline("datasets", "show", "pets")
    assert outcome.code == 4
    assert "sightline doctor" in outcome.err


@pytest.mark.usefixtures("quick_retries")
def test_a_wait_survives_a_stream_that_breaks(sightline: Command, fakes: Fakes, coco: Path) -> None:
    fakes.errors["WatchDataset"] = [status(grpc.StatusCode.UNAVAILABLE, "StreamExpired", "Open it again.")]
    outcome = sightline("datasets", "create", "pets", "--kind", "classification", "--coco", coco, "--wait", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["state"] == "READY"


def test_waiting_for_a_dataset_that_fails_exits_with_the_code_of_its_error(
    sightline: Command, fakes: Fakes, coco: Path
) -> None:
    def fail(name: str) -> None:
        fakes.datasets[name].state = Dataset.FAILED
        fakes.datasets[name].error.CopyFrom(
            status(grpc.StatusCode.INVALID_ARGUMENT, "datasetAnnotationsInvalid", "coco.json: no categories.")
        )

    original = Fakes.check

    def check(context, rpc, request) -> None:
        original(fakes, context, rpc, request)
        if rpc == "WatchDataset":
            fail("datasets/pets")

    fakes.check = check
    outcome = sightline("datasets", "create", "pets", "--kind", "classification", "--coco", coco, "--wait")
    assert outcome.code == 3
    assert "datasets/pets failed" in outcome.err
    assert "datasetAnnotationsInvalid" in outcome.err
    assert "coco.json: no categories." in outcome.err


def test_a_list_is_one_message_however_many_pages_it_came_in(sightline: Command, fakes: Fakes) -> None:
    for number in range(5):
        fakes.datasets[f"datasets/d{number}"] = Dataset(name=f"datasets/d{number}", state=Dataset.READY)
    outcome = sightline("datasets", "list", "--json")
    assert outcome.code == 0
    datasets = outcome.json["datasets"]
    assert isinstance(datasets, list)
    assert [dataset["name"] for dataset in datasets] == [f"datasets/d{n}" for n in range(5)]
    assert outcome.json["nextPageToken"] == "", "all pages are here"


def test_bare_and_full_names_mean_the_same(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets", state=Dataset.READY)
    bare, full = (
        sightline("datasets", "show", "pets", "--json"),
        sightline("datasets", "show", "datasets/pets", "--json"),
    )
    assert bare.out == full.out
    assert bare.json["name"] == "datasets/pets"


def test_findings_show_the_problem_its_place_and_the_remedy(sightline: Command, fakes: Fakes) -> None:
    fakes.findings = [
        Finding(
            severity=Finding.ERROR,
            code="imageUndecodable",
            file="images/x.png",
            image_id=9,
            message="The PNG ends in the middle.",
            remedy="Export the image again.",
        )
    ]
    outcome = sightline("datasets", "findings", "pets")
    for part in ("ERROR", "imageUndecodable", "images/x.png", "9", "ends in the middle", "Export the image again."):
        assert part in outcome.out


def test_a_comparison_shows_shared_images_categories_sizes_and_what_to_do(sightline: Command, fakes: Fakes) -> None:
    answer = fakes.comparison
    answer.exact_count, answer.near_count = 2, 1
    for number in range(3):
        answer.pairs.add(
            training_file=f"a/{number}.png", test_file=f"t/{number}.png", exact=number < 2, distance=9 * (number > 1)
        )
    answer.categories.add(training_category="Cat", test_category="cat", training_image_count=30, test_image_count=7)
    answer.categories.add(training_category="[dog]", training_image_count=12)
    answer.training_sizes.MergeFrom(ImageSizes(median_width=640, median_height=480, smallest_side=50, largest_side=999))
    answer.findings.add(
        severity=Finding.WARNING, code="categoryOnlyInTraining", message="No [dog].", remedy="Add some."
    )
    outcome = sightline("datasets", "compare", "pets", "held-out")
    assert outcome.code == 0
    for part in (
        "2 images exactly, 1 nearly", "t/1.png", "a/1.png", "all but 9 bits of 256", "Cat / cat", "[dog]", "30",
        "640 x 480", "sides from 50 to 999", "categoryOnlyInTraining", "No [dog].", "Add some.",
    ):  # fmt: skip
        assert part in outcome.out
    printed = sightline("datasets", "compare", "pets", "held-out", "--json").json
    assert [pair["testFile"] for pair in printed["pairs"]] == ["t/0.png", "t/1.png", "t/2.png"]
    assert len(printed["categories"]) == 2
    assert len(printed["findings"]) == 1


def test_an_error_shows_reason_message_fields_and_fix_without_a_traceback(sightline: Command) -> None:
    outcome = sightline("datasets", "show", "nope")
    assert outcome.code == 5
    assert outcome.out == ""
    assert "datasetNotFound (NOT_FOUND)" in outcome.err
    assert "datasets/nope does not exist." in outcome.err
    assert "sightline datasets list" in outcome.err
    assert "Traceback" not in outcome.err


def test_every_field_at_fault_is_named(sightline: Command, fakes: Fakes) -> None:
    violation = BadRequest.FieldViolation(field="page_size", description="is negative")
    fakes.errors["ListDatasets"] = [
        status(grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequest", "Wrong.", BadRequest(field_violations=[violation]))
    ]
    outcome = sightline("datasets", "list")
    assert outcome.code == 3
    assert "page_size: is negative" in outcome.err


def test_delete_prints_an_empty_message_as_json(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets")
    assert sightline("datasets", "delete", "pets", "--json").json == {}
    assert not fakes.datasets


def test_a_dataset_in_use_is_deleted_by_force_only(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets")
    message = "datasets/pets is in use by models/m; wait until they have ended, or cancel or delete them first."
    fakes.errors["DeleteDataset"] = [
        status(grpc.StatusCode.FAILED_PRECONDITION, "datasetInUse", message, users="models/m", count="1")
    ]
    outcome = sightline("datasets", "delete", "pets")
    assert outcome.code == 9
    assert "datasetInUse (FAILED_PRECONDITION)" in outcome.err
    assert "datasets/pets is in use by models/m" in outcome.err
    assert "sightline models cancel m" in outcome.err
    sightline("datasets", "delete", "pets", "--force")
    assert not fakes.datasets
    assert fakes.requests[-2:] == [DeleteDatasetRequest(name="datasets/pets", force=force) for force in (False, True)]


def test_wrong_usage_exits_with_2(sightline: Command) -> None:
    assert sightline("datasets", "create", "pets", "--kind", "nonsense", "--coco", "x").code == 2


def test_an_id_reaches_the_service_as_it_was_typed(sightline: Command, fakes: Fakes, coco: Path) -> None:
    sightline("datasets", "create", "../pets", "--kind", "classification", "--coco", coco)
    assert list(fakes.datasets) == ["datasets/../pets"]  # the real service refuses it


def test_a_dry_run_says_what_was_understood_and_calls_no_service(
    sightline: Command, fakes: Fakes, tmp_path: Path
) -> None:
    exports.yolo(tmp_path)
    outcome = sightline("datasets", "create", "pets", tmp_path, "--dry-run")
    assert outcome.code == 0, outcome.err
    for part in (
        "YOLO, for detection",
        "6 images, 8 boxes, 2 categories",
        "train 3, val 3",
        "cat 4, dog 4",
        "to upload",
    ):
        assert part in outcome.out
    assert not fakes.requests


def test_images_that_the_annotations_do_not_name_are_told(sightline: Command, tmp_path: Path) -> None:
    exports.pictures(tmp_path, [f"{number}.jpg" for number in range(1, 9)])
    (tmp_path / "labels.csv").write_text("path,label\n1.jpg,cat\n2.jpg,dog\n")
    outcome = sightline("datasets", "create", "pets", tmp_path, "--dry-run")
    listed = "3.jpg, 4.jpg, 5.jpg, 6.jpg, 7.jpg, …"
    assert f"note: left out 6 images that the annotations do not name: {listed}\n" in outcome.out


def test_a_folder_in_another_form_becomes_a_coco_file(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    exports.folder_per_class(tmp_path, ("train", "test"))
    outcome = sightline("datasets", "create", "pets", tmp_path, "--split", "train")
    assert outcome.code == 0, outcome.err
    assert "a folder per class, for classification" in outcome.err
    coco = json.loads(fakes.files.pop("annotations.json"))
    assert [category["name"] for category in coco["categories"]] == ["cat", "dog"]
    assert {image["file_name"] for image in coco["images"]} == set(fakes.files)
    assert len(fakes.files) == 6
    assert fakes.datasets["datasets/pets"].annotation_kind == Dataset.IMAGE_CLASSIFICATION


def test_names_as_other_machines_write_them_are_uploaded_under_the_files_paths(
    sightline: Command, fakes: Fakes, tmp_path: Path
) -> None:
    names = ["images\\1.png", "C:\\set\\images\\2.png", "M%C3%BCll.png", "x:12_y:5.png"]
    file = exports.coco_file(tmp_path / "result.json", names)
    paths = ["images/1.png", "images/2.png", "Mu\u0308ll.png", "x:12_y:5.png"]
    exports.pictures(tmp_path, paths)
    outcome = sightline("datasets", "create", "pets", "--coco", file)
    assert outcome.code == 0, outcome.err
    coco = json.loads(fakes.files.pop("result.json"))
    assert [image["file_name"] for image in coco["images"]] == paths
    assert set(fakes.files) == set(paths)


def test_a_file_that_is_missing_is_named_with_what_was_probably_meant(
    sightline: Command, fakes: Fakes, tmp_path: Path
) -> None:
    exports.pictures(tmp_path, ["kitchen.png", "garden.png"])
    file = exports.coco_file(tmp_path / "set.json", ["kitchn.png", "garden.jpg", "gone.png"])
    outcome = sightline("datasets", "create", "pets", file)
    assert outcome.code == 3
    assert "image id 1: kitchn.png" in outcome.err
    assert "did you mean kitchen.png?" in outcome.err
    assert "did you mean garden.png?" in outcome.err
    assert "image id 3: gone.png" in outcome.err
    assert not fakes.requests


def test_a_name_that_is_taken_is_refused_before_the_upload(sightline: Command, fakes: Fakes, coco: Path) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets", state=Dataset.READY)
    outcome = sightline("datasets", "create", "pets", coco)
    assert outcome.code == 6
    assert "DatasetAlreadyExists" in outcome.err
    assert not fakes.files


def test_an_image_that_is_too_large_is_left_out_and_named(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    exports.pictures(tmp_path, ["1.png", "2.png", "3.png"])
    file = exports.coco_file(tmp_path / "set.json", ["1.png", "2.png", "3.png"])
    with (tmp_path / "2.png").open("ab") as large:
        large.write(bytes(5000))
    fakes.max_image_bytes = 4000
    outcome = sightline("datasets", "create", "pets", file)
    assert outcome.code == 0, outcome.err
    assert "left out 1 image that the service finds too large: 2.png (5." in outcome.err
    coco = json.loads(fakes.files.pop("set.json"))
    assert set(fakes.files) == {"1.png", "3.png"}
    assert [image["file_name"] for image in coco["images"]] == ["1.png", "3.png"]
    assert [mark["image_id"] for mark in coco["annotations"]] == [1, 3]


def test_every_fault_of_an_export_is_named_at_once(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("1.jpg,cat,8,x,48,36\n2.jpg,,8,6,48,36\n")
    outcome = sightline("datasets", "create", "pets", tmp_path / "labels.csv")
    assert outcome.code == 3
    assert "line 1, 1.jpg: y1 is 'x', not a number" in outcome.err
    assert "line 2, 2.jpg: its box has no label" in outcome.err
    assert not fakes.requests


def test_a_path_and_a_coco_file_exclude_each_other(sightline: Command, coco: Path) -> None:
    assert sightline("datasets", "create", "pets", coco, "--coco", coco).code == 2
    assert sightline("datasets", "create", "pets").code == 2


@pytest.mark.usefixtures("quick_retries")
def test_an_export_survives_a_stream_that_breaks_within_an_image(
    sightline: Command, fakes: Fakes, tmp_path: Path
) -> None:
    fakes.images = {f"{name}.jpg": name.encode() * 10 for name in "abc"}
    away = status(grpc.StatusCode.UNAVAILABLE, "StreamExpired", "Open it again.")
    fakes.errors["ReadImages"] = [away]
    outcome = sightline("datasets", "export", "pets", tmp_path / "out", "--format", "folders")
    assert (outcome.code, outcome.out) == (0, f"{tmp_path / 'out'}: 3 images\n"), outcome.err
    assert {file.name: file.read_bytes() for file in (tmp_path / "out" / "cat").iterdir()} == fakes.images
    (tmp_path / "out" / "cat" / "c.jpg").unlink()
    document = sightline("datasets", "export", "pets", tmp_path / "out", "--format", "folders", "--json").json
    assert (document["images"], document["written"]) == (3, 1)


def test_an_export_into_a_folder_with_other_files_is_refused(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    fakes.images = {"../../a.jpg": b"a"}
    (tmp_path / "mine.txt").write_text("mine")
    outcome = sightline("datasets", "export", "pets", tmp_path)
    assert outcome.code == 3
    assert "mine.txt" in outcome.err
    assert "--force" in outcome.err
    forced = sightline("datasets", "export", "pets", tmp_path, "--force")
    assert (forced.code, "'../../a.jpg' is 'a.jpg'" in forced.err) == (0, True)
    assert (tmp_path / "a.jpg").read_bytes() == b"a"


def suggested(number: int, image: bytes, **result: Any) -> SuggestImagesResponse:
    answer = AnalyzeImageResponse(
        metadata=ImageMetadata(width=64, height=48), custom_model_result=CustomModelResult(**result)
    )
    message = SuggestImagesResponse(image_id=f"id{number}", image=image, extension="png", prediction=answer)
    message.create_time.FromSeconds(1_767_225_600)
    return message


def test_suggested_images_are_drafted_as_a_dataset_that_can_be_registered(
    sightline: Command, fakes: Fakes, tmp_path: Path, coco: Path
) -> None:
    photo = coco.parent / "images/a.png"
    for number, names in enumerate([("cat", "dog"), ("dog", "cat")]):
        tags = TagsResult(values=[Tag(name=name, confidence=0.5) for name in names])
        fakes.suggested.append(suggested(number, photo.read_bytes(), tags_result=tags))
    draft = tmp_path / "draft"
    shown = sightline("datasets", "suggest", str(draft), "--model", "m")
    assert shown.code == 0, shown.err
    assert "2 images" in shown.out
    assert f"sightline datasets create NAME --kind classification --coco {draft}/annotations.json" in shown.out
    content = json.loads((draft / "annotations.json").read_text())
    assert [one["file_name"] for one in content["images"]] == [
        "images/0001-20260101T000000-id0.png",
        "images/0002-20260101T000000-id1.png",
    ]
    assert all((draft / one["file_name"]).read_bytes() == photo.read_bytes() for one in content["images"])
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert [one["category_id"] for one in content["annotations"]] == [1, 2]
    created = sightline("datasets", "create", "d", "--kind", "classification", "--coco", f"{draft}/annotations.json")
    assert created.code == 0, created.err
    again = sightline("datasets", "suggest", str(draft), "--model", "m")
    assert (again.code, "is not empty" in again.err) == (3, True)


def test_suggested_images_of_a_detector_have_its_boxes(
    sightline: Command, fakes: Fakes, tmp_path: Path, coco: Path
) -> None:
    photo = coco.parent / "images/a.png"
    found = DetectedObject(bounding_box=BoundingBox(x=1, y=2, w=30, h=40), tags=[Tag(name="cat", confidence=0.5)])
    fakes.suggested.append(suggested(0, photo.read_bytes(), objects_result=ObjectsResult(values=[found])))
    fakes.suggested.append(suggested(1, photo.read_bytes(), objects_result=ObjectsResult()))
    draft = tmp_path / "draft"
    answer = sightline("datasets", "suggest", str(draft), "--model", "m", "--json").json
    assert answer == {"folder": str(draft), "images": 2, "detection": True}
    content = json.loads((draft / "annotations.json").read_text())
    assert [one["bbox"] for one in content["annotations"]] == [[1, 2, 30, 40]]
    assert len(content["images"]) == 2, "the one without an object has none to draw"


def test_nothing_to_suggest_leaves_no_folder(sightline: Command, tmp_path: Path) -> None:
    shown = sightline("datasets", "suggest", str(tmp_path / "draft"), "--model", "m")
    assert (shown.code, "no image was kept" in shown.out) == (0, True)
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize(
    ("options", "fix"),
    [(("--split", "train"), "leave out --split"), (("--format", "coco"), "leave out --format, or name the file")],
)
def test_what_a_folder_per_class_does_not_have_is_no_reason_to_repair_a_file(
    sightline: Command, tmp_path: Path, options: tuple[str, ...], fix: str
) -> None:
    exports.folder_per_class(tmp_path / "pets")
    outcome = sightline("datasets", "create", "pets", tmp_path / "pets", "--dry-run", *options)
    assert (outcome.code, f"fix: {fix}" in outcome.err) == (3, True), outcome.err
