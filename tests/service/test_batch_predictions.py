"""Batch predictions, from the request to the result files, over in-memory ports with workers driven step by step."""

import asyncio
import contextlib
import hashlib
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from services.kit.clock import ManualClock
from services.kit.errors import (
    AlreadyExists,
    BundleUnusable,
    DatasetNotFound,
    InvalidName,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    UnreadableUri,
    WrongState,
)
from services.predictor.batch import metrics
from services.predictor.batch.domain import Source
from services.predictor.batch.states import State
from services.predictor.settings import PredictorSettings
from tests.support.batches import MODEL_URI, PREFIX, Batches, Life, Stuck, live, photo, photos, running
from tests.support.waiting import eventually
from tests.unit.predictor.support import info


async def finished(batches: Batches, **fields: Any) -> dict[str, bytes]:
    """The result files of a batch prediction that succeeded."""
    await batches.create(**fields)
    await batches.work()
    record = await batches.get()
    assert record.state is State.SUCCEEDED, record.error
    return await batches.files()


async def test_the_files_of_a_classifier_have_every_image_in_the_order_of_the_keys() -> None:
    async with running(Batches()) as batches:
        await batches.put({**photos(7), "notes.txt": b"no image", "deeper/é ü.jpg": photo(50)})
        await finished(batches)
        record = await batches.get()
        assert (record.tally.done, record.tally.failed, record.images_total, record.fraction) == (8, 0, 8, 1.0)
        images = await batches.json("images.json")
        assert [one["file_name"] for one in images["images"]] == [*photos(7), "deeper/é ü.jpg"]
        assert [one["id"] for one in images["images"]] == list(range(1, 9))
        assert images["images"][0]["uri"] == f"{PREFIX}/001.png"
        assert (images["images"][2]["width"], images["images"][2]["height"]) == (63, 60)
        assert images["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "owl"}]
        results = await batches.json("results.json")
        assert len(results) == 8 * 3, "a classifier gives every category of each image"
        assert results[0] == {"image_id": 1, "category_id": 1, "score": round(0.75 * (1 - 61 / 256), 6)}
        assert await batches.json("failures.json") == []
        lines = [json.loads(line) for line in (await batches.file("results.jsonl")).splitlines()]
        assert [line["id"] for line in lines] == list(range(1, 9))
        assert lines[0]["results"][0] == {"category_id": 1, "score": results[0]["score"], "name": "dog"}


async def test_a_detectors_results_are_coco_results_with_fractions_of_pixels() -> None:
    async with running(Batches(detector=True)) as batches:
        await batches.put(photos(2))
        await finished(batches, score_threshold=0.0)
        assert (await batches.json("results.json"))[0] == {
            "image_id": 1,
            "category_id": 1,
            "bbox": [1.25, 2.0, 30.5, 20.0],
            "score": 0.9,
        }


async def test_thresholds_and_the_most_results_hold_for_every_image() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(4))
        await finished(batches, score_threshold=0.2, max_results=1)
        assert [one["image_id"] for one in await batches.json("results.json")] == [1, 2, 3, 4]


async def test_images_that_fail_are_listed_with_the_reason_and_end_nothing() -> None:
    settings = PredictorSettings(batch_chunk_images=3, batch_heartbeat_seconds=0.01, max_batch_image_bytes=30_000)
    async with running(Batches(settings=settings)) as batches:
        odd = {
            "a.jpg": b"not an image",
            "b.png": b"",
            "c.png": bytes(30_001),
            "d.png": photo(40),
            "e.png": photo(70)[:80],
        }
        await batches.put({**odd, **photos(4)})
        await batches.create()
        await batches.step()
        await batches.blobs.delete("uploads/u1/photos/002.png")
        batches.runner.faults[63] = RuntimeError("the network cannot do this width")
        await batches.work()
        record = await batches.get()
        assert (record.state, record.tally.done, record.tally.failed) == (State.SUCCEEDED, 2, 7)
        failures = {one["file_name"]: one for one in await batches.json("failures.json")}
        assert {name: one["reason"] for name, one in failures.items()} == {
            "002.png": "BlobNotFound",
            "003.png": "internalServerError",
            "a.jpg": "InvalidImageFormat",
            "b.png": "InvalidImageSize",
            "c.png": "InvalidImageSize",
            "d.png": "InvalidImageSize",
            "e.png": "InvalidImageFormat",
        }
        assert failures["003.png"]["message"] == "003.png: the model fails on it (RuntimeError)."
        assert failures["c.png"]["message"].startswith("c.png: is 30001 bytes; 1 to 30000 are accepted")
        assert [one["file_name"] for one in (await batches.json("images.json"))["images"]] == ["001.png", "004.png"]
        lines = [json.loads(line) for line in (await batches.file("results.jsonl")).splitlines()]
        assert [line["id"] for line in lines] == list(range(1, 10))
        assert lines[4]["error"]["reason"] == "InvalidImageFormat"


async def test_the_files_are_named_with_their_digests() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(2))
        files = await finished(batches)
        outputs = (await batches.get()).outputs
        assert [output.file_name for output in outputs] == [
            "results.json",
            "images.json",
            "failures.json",
            "results.jsonl",
        ]
        for output in outputs:
            data = files[output.file_name]
            assert (output.size_bytes, output.sha256) == (len(data), hashlib.sha256(data).hexdigest())


# Datasets.


async def test_pycocotools_evaluates_the_results_of_a_dataset_against_its_annotations() -> None:
    async with running(Batches(detector=True)) as batches:
        ids, categories = [3, 5, 8, 13, 21, 34, 55], {"owl": 7, "dog": 90}
        await batches.put_dataset(ids, categories)
        await finished(batches, dataset_name="datasets/d", score_threshold=0.0)
        record = await batches.get()
        assert (record.source.version, record.images_total) == (3, 7)
        annotations = [
            {"id": 10 * id_ + place, "image_id": id_, "category_id": category, "iscrowd": 0, "bbox": box, "area": 900}
            for id_ in ids
            for place, (category, box) in enumerate([(90, [1.25, 2, (60 + id_) / 2, 20]), (7, [10, 10, 30, 30.5])])
        ]
        truth = COCO()
        content: Any = {
            "info": {},
            "images": [{"id": id_, "file_name": f"{id_}.png", "width": 60 + id_, "height": 60} for id_ in ids],
            "annotations": annotations,
            "categories": [{"id": id_, "name": name} for name, id_ in categories.items()],
        }
        truth.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(await batches.json("results.json")), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)


async def test_a_category_that_the_dataset_lacks_has_an_id_of_its_own() -> None:
    async with running(Batches()) as batches:
        await batches.put_dataset([1, 2], {"owl": 1, "cat": 2})
        await finished(batches, dataset_name="datasets/d")
        categories = (await batches.json("images.json"))["categories"]
        assert categories == [{"id": 2, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 1, "name": "owl"}]


@pytest.mark.parametrize("change", ["gone", "changed"])
async def test_a_dataset_that_goes_or_changes_meanwhile_ends_it(change: str) -> None:
    async with running(Batches()) as batches:
        await batches.put_dataset(range(1, 9), {"cat": 1, "dog": 2, "owl": 3})
        await batches.create(dataset_name="datasets/d")
        await batches.step()
        key = "datasets/d/xyz/packs/1.tar"
        data = await batches.blobs.get(key)
        await (batches.blobs.delete(key) if change == "gone" else batches.blobs.put(key, bytes(len(data))))
        await batches.work()
        record = await batches.get()
        assert record.state is State.FAILED
        assert record.error is not None
        assert record.error.reason == "datasetChanged"
        assert [one["id"] for one in (await batches.json("images.json"))["images"]] == [1, 2, 3], "results so far"


# What cannot be created.


@pytest.mark.parametrize(
    ("fields", "error", "saying"),
    [
        ({"input_uri_prefix": ""}, InvalidRequest, "input_uri_prefix: set it or dataset_name"),
        ({"dataset_name": "datasets/d", "input_uri_prefix": PREFIX}, InvalidRequest, "not both"),
        ({"dataset_name": "datasets/gone"}, DatasetNotFound, "datasets/gone"),
        ({"dataset_name": "models/x"}, InvalidName, "dataset_name"),
        ({"model_name": "models/gone"}, ModelNotFound, "models/gone"),
        ({"model_name": "m"}, InvalidName, "model_name"),
        ({"score_threshold": 2.0}, InvalidRequest, "batch_prediction.score_threshold: "),
        ({"max_results": 0}, InvalidRequest, "batch_prediction.max_results: "),
        ({"id_": "a/b"}, InvalidName, "batch_prediction_id"),
        ({"display_name": "x" * 257}, InvalidRequest, "batch_prediction.display_name"),
        ({"input_uri_prefix": "s3://sightline/uploads/u1/empty"}, InvalidRequest, "there is no image below"),
        ({"input_uri_prefix": "s3://sightline/uploads/u1/phot"}, InvalidRequest, "there is no image below"),
        ({"input_uri_prefix": "s3://other/uploads/u1"}, UnreadableUri, "bucket 'other'"),
        ({"input_uri_prefix": "s3://sightline/models/m"}, UnreadableUri, "not in an upload"),
        ({"input_uri_prefix": "s3://sightline/batchPredictions/b"}, UnreadableUri, "not in an upload"),
        ({"input_uri_prefix": "s3://sightline/projects/acme/uploads/u"}, UnreadableUri, "not in an upload"),
        ({"input_uri_prefix": "s3://sightline/uploads/../models"}, UnreadableUri, "its key"),
        ({"input_uri_prefix": "file:///etc"}, UnreadableUri, "batch_prediction.input_uri_prefix: "),
        ({"output_uri_prefix": "s3://sightline/uploads/u1/out"}, UnreadableUri, "open for results"),
        ({"output_uri_prefix": "s3://sightline/elsewhere"}, UnreadableUri, "batch_prediction.output_uri_prefix: "),
        ({"output_uri_prefix": "s3://sightline/results/full"}, InvalidRequest, "results never replace files"),
    ],
)
async def test_a_request_that_cannot_succeed_is_refused(
    fields: dict[str, Any], error: type[Exception], saying: str
) -> None:
    settings = PredictorSettings(open_output_prefixes="results/")
    async with running(Batches(settings=settings)) as batches:
        await batches.put(photos(1))
        await batches.blobs.put("results/full/x", b"")
        with pytest.raises(error, match=saying):
            await batches.create(**fields)
        assert not batches.app.batches.view.all()


async def test_a_model_without_a_bundle_is_refused() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(1))
        batches.models.models["models/m"] = info(version="")
        with pytest.raises(ModelNotReady):
            await batches.create()


async def test_what_an_operator_has_opened_can_be_read_and_written() -> None:
    settings = PredictorSettings(open_prefixes="shared/", open_output_prefixes="results/")
    async with running(Batches(settings=settings)) as batches:
        await batches.put(photos(2), "shared/2026/")
        created = await batches.create(
            input_uri_prefix="s3://sightline/shared/2026/", output_uri_prefix="s3://sightline/results/run1/"
        )
        assert created.value.output == "results/run1/"
        with pytest.raises(InvalidRequest, match="results never replace files"):
            await batches.create(
                "other",
                input_uri_prefix="s3://sightline/shared/2026",
                output_uri_prefix="s3://sightline/results/run1",
            )
        await batches.work()
        assert json.loads(await batches.blobs.get("results/run1/failures.json")) == []
        assert (await batches.json("images.json"))["images"][0]["uri"] == "s3://sightline/shared/2026/001.png"


async def test_of_two_that_are_created_at_once_with_one_output_prefix_the_later_one_is_refused() -> None:
    settings = PredictorSettings(open_output_prefixes="results/")
    async with running(Batches(settings=settings)) as batches:
        await batches.put(photos(2))
        creations = (batches.create(id_, output_uri_prefix="s3://sightline/results/one") for id_ in "abc")
        made = await asyncio.gather(*creations, return_exceptions=True)
        refused = [one for one in made if isinstance(one, InvalidRequest)]
        assert len(refused) == 2
        assert all("results never replace files" in one.message for one in refused)
        (kept,) = batches.app.batches.view.all()
        await batches.work()
        assert (await batches.app.get(kept.value.name)).value.state is State.SUCCEEDED


async def test_the_same_request_id_returns_the_first_one_and_another_is_refused() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(1))
        first = await batches.create(request_id="r1")
        assert (await batches.create(request_id="r1")).value == first.value
        with pytest.raises(AlreadyExists) as refused:
            await batches.create(request_id="r2")
    assert (refused.value.reason, refused.value.resource_type) == ("AlreadyExists", "batchPrediction")


async def test_validate_only_creates_nothing() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(1))
        assert (await batches.create(validate_only=True)).revision == 0
        with pytest.raises(NotFound) as missing:
            await batches.get()
    assert (missing.value.reason, missing.value.resource_type) == ("NotFound", "batchPrediction")


async def test_a_result_file_that_is_not_there_is_named() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(1))
        await batches.create()
        with pytest.raises(NotFound, match=r"has no file 'results\.csv'; its result_files"):
            await batches.file("results.csv")


async def test_before_the_upload_everything_but_the_images_is_checked() -> None:
    async with running(Batches()) as batches:
        made = await batches.create(input_uri_prefix="", validate_only=True)
        assert (made.revision, made.value.source, made.value.bundle.uri) == (0, Source(), MODEL_URI)
        await batches.put(photos(1))
        await batches.create("taken")
        refused: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"id_": "taken"}, AlreadyExists),
            ({"id_": "my birds"}, InvalidName),
            ({"model_name": "models/gone"}, ModelNotFound),
            ({"score_threshold": 2.0}, InvalidRequest),
            ({"output_uri_prefix": "s3://sightline/elsewhere"}, UnreadableUri),
        ]
        for wrong, error in refused:
            with pytest.raises(error):
                await batches.create(input_uri_prefix="", validate_only=True, **wrong)


# Its life.


async def test_a_better_bundle_of_the_model_does_not_change_what_predicts() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(4))
        await batches.create()
        batches.models.models["models/m"] = info(version="v2", uri=MODEL_URI.replace("t1", "t2"))
        await batches.work()
        record = await batches.get()
        assert (record.state, record.bundle.version) == (State.SUCCEEDED, "v1")


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_model_that_is_deleted_meanwhile_ends_it_with_the_reason_and_keeps_the_results_so_far(
    how: str,
) -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(8))
        await batches.create()
        await batches.step()
        await batches.step()
        if how == "deleted":
            del batches.models.models["models/m"]
        else:
            batches.models.models["models/m"] = info(uri=MODEL_URI.replace("abc", "def"))
        await batches.work()
        record = await batches.get()
        assert (record.state, record.tally.done) == (State.FAILED, 3)
        assert record.error is not None
        assert record.error.reason == "ModelNotFound"
        assert len((await batches.json("images.json"))["images"]) == 3


async def test_a_damaged_bundle_ends_it() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(2))
        batches.source.error = BundleUnusable(name="models/m", version="v1", problem="damaged")
        await batches.create()
        await batches.work()
        record = await batches.get()
        assert record.state is State.FAILED
        assert record.error is not None
        assert "damaged" in record.error.message


async def test_cancelling_stops_a_chunk_at_its_next_heartbeat_and_keeps_finished_chunks() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(8))
        await batches.create()
        await batches.step()
        await batches.step()
        stuck = asyncio.create_task(batches.step(replace(batches.context(), blobs=Stuck(batches.blobs))))
        await eventually(lambda: batches.telemetry.value(metrics.IN_FLIGHT) > 0)
        assert (await batches.app.cancel("batchPredictions/b")).value.state is State.CANCELLING
        await asyncio.wait_for(stuck, 5)
        await batches.work()
        record = await batches.get()
        assert (record.state, record.tally.done) == (State.CANCELLED, 3)
        assert len((await batches.json("images.json"))["images"]) == 3
        assert (await batches.app.cancel("batchPredictions/b")).value == record, "again it changes nothing"


async def test_one_that_has_not_started_is_cancelled_without_results() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(2))
        await batches.create()
        await batches.app.cancel("batchPredictions/b")
        await batches.work()
        record = await batches.get()
        assert (record.state, record.outputs) == (State.CANCELLED, ())


async def test_one_that_has_succeeded_cannot_be_cancelled() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(2))
        await finished(batches)
        with pytest.raises(WrongState):
            await batches.app.cancel("batchPredictions/b")


async def test_a_chunk_whose_every_attempt_dies_ends_it_with_the_results_of_the_others() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(8))
        await batches.create()
        await batches.step()
        await batches.step()
        for _ in range(5):
            for _ in range(2):
                await live(batches, Life(3, after=False))
            batches.clock.advance(31)
        await batches.work()
        record = await batches.get()
        assert record.state is State.FAILED
        assert record.error is not None
        assert "was given up after 5 attempts" in record.error.message
        assert len((await batches.json("images.json"))["images"]) == 3


async def test_nothing_is_left_but_the_results() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(8))
        await finished(batches)
        keys = [blob.key async for blob in batches.blobs.list("batchPredictions/")]
        assert len(keys) == 4, keys


async def test_two_workers_at_once_write_what_one_writes() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(20))
        expected = await finished(batches)
        await batches.create("twice")
        await asyncio.gather(*(batches.work(batches.context(f"w{number}")) for number in range(2)))
        await batches.recover()
        assert await batches.files("twice") == expected
        assert (await batches.get("twice")).state is State.SUCCEEDED


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after it"])
async def test_a_worker_killed_at_any_call_of_a_port_loses_and_doubles_no_image(*, after: bool) -> None:
    async with running(Batches()) as batches:
        await batches.put({**photos(7), "x.png": b"no image"})
        expected = await finished(batches)
        for calls in range(1, 1000):
            id_ = f"b{calls}"
            await batches.create(id_)
            life = Life(calls, after=after)
            await live(batches, life)
            await batches.recover()
            record = await batches.get(id_)
            assert record.state is State.SUCCEEDED, (calls, record)
            assert await batches.files(id_) == expected, calls
            assert record.tally.total == 8
            if not life.ended:
                assert calls > 20
                return
        raise AssertionError("the worker never lived to the end")


async def test_the_cost_is_the_time_of_finished_chunks_on_the_reference_device() -> None:
    clock = ManualClock()
    settings = PredictorSettings(batch_chunk_images=3, batch_heartbeat_seconds=0.01, device_factor=2.0)
    async with running(Batches(clock=clock, settings=settings)) as batches:
        await batches.put(photos(4))
        await batches.create()
        await batches.step()
        predict = batches.runner.predict_prepared

        def slowly(images: Any) -> Any:
            clock.advance(len(images))
            return predict(images)

        batches.runner.predict_prepared = slowly
        await batches.work()
        record = await batches.get()
        assert record.charged == {"2026-01": record.cost}
        assert record.cost.total_seconds() == 8
