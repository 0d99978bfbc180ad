"""`sightline datasets` against fake services."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.finding_pb2 import Finding
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes, status


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


def test_wrong_usage_exits_with_2(sightline: Command) -> None:
    assert sightline("datasets", "create", "pets", "--kind", "nonsense", "--coco", "x").code == 2


def test_an_id_reaches_the_service_as_it_was_typed(sightline: Command, fakes: Fakes, coco: Path) -> None:
    sightline("datasets", "create", "../pets", "--kind", "classification", "--coco", coco)
    assert list(fakes.datasets) == ["datasets/../pets"]  # the real service refuses it
