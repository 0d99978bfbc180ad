"""`sightline batch` against fake services."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from sightline import AsyncClient, BatchPrediction
from sightline.client import errors
from sightline.client.client import Client
from sightline.v1 import batch_prediction_pb2 as pb
from sightline.v1 import prediction_service_pb2 as ps
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes, status

RESULTS = {"results.json": b"[\n]\n", "results.jsonl": b'{"id": 1}\n{"id": 2}\n', "empty.json": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two images and a file that is none."""
    photos = tmp_path / "photos"
    (photos / "deeper").mkdir(parents=True)
    for name in ("a.jpg", "deeper/b.PNG", "notes.txt"):
        (photos / name).write_bytes(name.encode())
    return photos


def created(fakes: Fakes) -> pb.BatchPrediction:
    asked = [one for one in fakes.requests if isinstance(one, ps.CreateBatchPredictionRequest)]
    (request,) = [one for one in asked if not one.validate_only]
    assert request.request_id
    return request.batch_prediction


def test_a_local_folder_is_uploaded_and_predicted_and_its_results_downloaded(
    sightline: Command, fakes: Fakes, folder: Path, tmp_path: Path
) -> None:
    fakes.results = RESULTS
    outcome = sightline("batch", "create", "birds", "nightly", folder, "--top", 3, "--download", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert set(fakes.files) == {"a.jpg", "deeper/b.PNG"}
    assert created(fakes).input_uri_prefix.startswith("s3://sightline/uploads/")
    assert (created(fakes).model_name, created(fakes).max_results) == ("models/birds", 3)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == RESULTS
    for part in ("batchPredictions/nightly", "3 of 4", "failures.json", f"wrote {tmp_path / 'out' / 'results.json'}"):
        assert part in outcome.out


@pytest.mark.parametrize("reason", ["AlreadyExists", "ModelNotFound"])
def test_name_and_model_are_checked_before_the_upload(
    sightline: Command, fakes: Fakes, folder: Path, reason: str
) -> None:
    fakes.errors["CreateBatchPrediction"] = [status(grpc.StatusCode.NOT_FOUND, reason, "It cannot be created.")]
    outcome = sightline("batch", "create", "birds", "nightly", folder)
    assert (outcome.code, "It cannot be created" in outcome.err, fakes.files) == (5, True, {}), outcome.err


def test_images_that_the_service_finds_too_large_are_left_out_and_named(
    sightline: Command, fakes: Fakes, folder: Path
) -> None:
    fakes.max_image_bytes = 20
    (folder / "huge.jpg").write_bytes(bytes(21))
    outcome = sightline("batch", "create", "birds", "nightly", folder)
    assert (outcome.code, set(fakes.files)) == (0, {"a.jpg", "deeper/b.PNG"}), outcome.err
    assert "left out 1 image that the service finds too large: huge.jpg (21 B)" in outcome.err


def test_a_folder_of_which_nothing_can_be_sent_is_refused(sightline: Command, fakes: Fakes, folder: Path) -> None:
    fakes.max_image_bytes = 4
    outcome = sightline("batch", "create", "birds", "nightly", folder)
    assert (outcome.code, "all are larger than 4 B" in outcome.err, fakes.files) == (3, True, {}), outcome.err


def test_what_is_renamed_or_unreadable_is_said(sightline: Command, fakes: Fakes, folder: Path) -> None:
    for name in ("x\u200by.jpg", "deeper\\c.png", "phone.heic"):
        (folder / name).write_bytes(b"")
    outcome = sightline("batch", "create", "birds", "nightly", folder)
    assert (outcome.code, set(fakes.files)) == (0, {"a.jpg", "deeper/b.PNG", "deeper/c.png", "x_y.jpg"}), outcome.err
    assert r"other names, as the store does not accept their own: deeper\c.png as deeper/c.png" in outcome.err
    assert "cannot be read here: 1 .heic file; convert them" in outcome.err


def test_images_in_the_store_or_in_a_dataset_are_not_uploaded(sightline: Command, fakes: Fakes) -> None:
    outcome = sightline("batch", "create", "birds", "one", "s3://sightline/shared/2026", "--threshold", 0.5)
    assert (outcome.code, "`sightline batch watch one`" in outcome.out) == (0, True), outcome.err
    assert (created(fakes).input_uri_prefix, created(fakes).score_threshold) == ("s3://sightline/shared/2026", 0.5)
    fakes.requests.clear()
    uri = "s3://sightline/results/two"
    assert sightline("batch", "create", "birds", "two", "--dataset", "test", "--output-uri", uri).code == 0
    assert (created(fakes).dataset_name, created(fakes).output_uri_prefix) == ("datasets/test", uri)
    assert not fakes.files


@pytest.mark.parametrize(
    ("words", "code", "saying"),
    [
        (("b",), 2, "no images were given; add a folder, or --dataset"),
        (("b", "s3://x/y", "--dataset", "d"), 2, "it excludes --dataset"),
        (("b", "s3://x/y", "--threshold", 0.5, "--suggested-thresholds"), 2, "excludes --threshold"),
        (("b", "missing"), 2, "missing is not a folder"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_sent(
    sightline: Command, fakes: Fakes, words: tuple[object, ...], code: int, saying: str
) -> None:
    outcome = sightline("batch", "create", "birds", *words)
    assert (outcome.code, saying in outcome.err) == (code, True), outcome.err
    assert not fakes.requests


def test_a_folder_without_images_is_refused(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    outcome = sightline("batch", "create", "birds", "b", tmp_path)
    assert (outcome.code, f"{tmp_path} has no images" in outcome.err) == (3, True), outcome.err
    assert not fakes.requests


def test_list_show_watch_and_cancel(sightline: Command, fakes: Fakes) -> None:
    sightline("batch", "create", "birds", "one", "s3://sightline/shared/2026")
    listed = sightline("batch", "list").out
    assert ("one" in listed, "SUCCEEDED" in listed) == (True, True)
    assert sightline("batch", "list", "--json").json["batchPredictions"][0]["modelName"] == "models/birds"
    assert "s3://sightline/shared/2026" in sightline("batch", "show", "one").out
    assert sightline("batch", "watch", "one", "--json").json["progress"]["imagesDone"] == 3
    assert "CANCELLING" in sightline("batch", "cancel", "one").out


def test_delete_removes_one_and_force_is_passed_on(sightline: Command, fakes: Fakes) -> None:
    for name in ("one", "two"):
        sightline("batch", "create", "birds", name, "s3://sightline/shared/2026")
    assert sightline("batch", "delete", "one").out == "deleted batchPredictions/one\n"
    assert sightline("batch", "delete", "two", "--force", "--json").json == {}
    asked = [one for one in fakes.requests if isinstance(one, ps.DeleteBatchPredictionRequest)]
    assert [(one.name, one.force) for one in asked] == [("batchPredictions/one", False), ("batchPredictions/two", True)]
    assert not fakes.batches


def test_one_that_failed_ends_with_its_code_and_says_why(sightline: Command, fakes: Fakes) -> None:
    fakes.results = RESULTS
    gone = status(grpc.StatusCode.NOT_FOUND, "ModelNotFound", "models/birds does not exist.", name="models/birds")
    sightline("batch", "create", "birds", "one", "s3://sightline/shared/2026")
    batch = fakes.batches["batchPredictions/one"]
    batch.state = pb.BatchPrediction.FAILED
    batch.error.CopyFrom(gone)
    outcome = sightline("batch", "watch", "one")
    assert (outcome.code, "models/birds does not exist" in outcome.err) == (5, True), outcome.err


@pytest.mark.usefixtures("quick_retries")
def test_a_download_survives_a_stream_that_breaks_within_a_file(
    sightline: Command, fakes: Fakes, tmp_path: Path
) -> None:
    fakes.results = RESULTS
    sightline("batch", "create", "birds", "one", "s3://sightline/shared/2026")
    fakes.errors["ReadBatchPredictionFile"] = [status(grpc.StatusCode.UNAVAILABLE, "StreamExpired", "Open it again.")]
    assert sightline("batch", "download", "one", tmp_path / "out").code == 0
    assert not fakes.errors["ReadBatchPredictionFile"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == RESULTS


def test_a_file_that_was_changed_is_not_written(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    fakes.results = dict(RESULTS)
    sightline("batch", "create", "birds", "one", "s3://sightline/shared/2026")
    fakes.results["results.json"] = b"[ ]\n"
    outcome = sightline("batch", "download", "one", tmp_path / "out")
    assert outcome.code != 0
    assert "results.json was changed" in outcome.err
    assert list((tmp_path / "out").iterdir()) == []


def test_results_before_the_end_are_refused_with_what_to_do(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    fakes.batches["batchPredictions/one"] = pb.BatchPrediction(
        name="batchPredictions/one", state=pb.BatchPrediction.RUNNING
    )
    outcome = sightline("batch", "download", "one", tmp_path)
    assert ("is RUNNING and has no result files" in outcome.err, "wait until it has ended" in outcome.err) == (
        True,
        True,
    )


def test_the_client_returns_typed_batch_predictions(
    sightline: Command, fakes: Fakes, folder: Path, tmp_path: Path
) -> None:
    fakes.results = RESULTS
    with Client(progress=False) as client:
        batch = client.batch_predictions.create("birds", "one", "s3://sightline/shared/2026")
        assert isinstance(batch, BatchPrediction)
        assert (batch.state, batch.progress.images_failed, batch.progress.images_total) == ("SUCCEEDED", 1, 4)
        assert [file.file_name for file in batch.files] == list(RESULTS)
        assert [path.name for path in batch.download(tmp_path)] == list(RESULTS)
        with pytest.raises(ValueError, match="pass only one of them"):
            client.batch_predictions.create("m", "n", "s3://x/y", threshold=0.1, suggested_thresholds=True)
        with pytest.raises(ValueError, match="either `images` or `dataset`"):
            client.batch_predictions.create("m", "n", folder, dataset="d")


async def test_so_does_the_asyncio_client(sightline: Command, fakes: Fakes, folder: Path, tmp_path: Path) -> None:
    fakes.results = RESULTS
    off = status(grpc.StatusCode.FAILED_PRECONDITION, "BatchPredictionsOff", "This predictor does without.")
    (folder / "huge.jpg").write_bytes(bytes(fakes.max_image_bytes + 1))
    said: list[str] = []
    async with AsyncClient(progress=False) as client:
        batch = await client.batch_predictions.create("birds", "one", folder, note=said.append)
        assert (set(fakes.files), len(said)) == ({"a.jpg", "deeper/b.PNG"}, 1)
        fakes.files.clear()
        with pytest.raises(errors.AlreadyExists):
            await client.batch_predictions.create("birds", "one", folder, note=said.append)
        assert not fakes.files
        assert [path.name for path in await batch.download(tmp_path / "out")] == list(RESULTS)
        assert [one.name for one in await client.batch_predictions.list()] == ["batchPredictions/one"]
        assert (await client.batch_predictions.cancel(batch)).state == "CANCELLING"
        await client.batch_predictions.delete(batch, force=True)
        assert await client.batch_predictions.list() == ()
        fakes.errors["CreateBatchPrediction"] = [off]
        with pytest.raises(errors.BatchPredictionsOff, match="takes folders too"):
            await client.batch_predictions.create("birds", "two", "s3://sightline/shared/2026")
