"""The predictor over real gRPC: its answers and its errors."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status.rpc_status import from_call
from numpy.typing import NDArray
from PIL import Image

from services.infra.server_metrics import HANDLED, RECEIVED
from services.kit import errors
from services.predictor import metrics
from services.predictor.batch.service import Batches
from services.predictor.domain import ModelState
from services.vision import bundle as bundles
from services.vision.classifier import Classifier
from services.vision.decode import Decoded
from services.vision.inputs import Views
from services.vision.prediction_sets import Calibration
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.support.waiting import eventually
from tests.unit.predictor.serving import IMAGE, Fixed, Running, confidences, serving
from tests.unit.predictor.support import card, detector, file_of, info, make_image


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Running]:
    async with serving(tmp_path) as running:
        yield running


# Answers.


async def test_the_responses_json_is_what_azures_callers_parse(tmp_path: Path):
    async with serving(tmp_path, loader=lambda _, digest: Fixed(0.1, 0.75, 0.0)) as running:
        response = await running.analyze()
    assert json_format.MessageToJson(response, indent=None) == (
        '{"modelVersion": "v1", "metadata": {"width": 90, "height": 60}, "customModelResult": {"tagsResult": '
        '{"values": [{"name": "dog", "confidence": 0.75}, {"name": "cat", "confidence": 0.1}, '
        '{"name": "owl", "confidence": 0.0}]}}}'
    )


async def test_the_confidences_are_the_networks(running: Running, tmp_path: Path):
    classifier = bundles.load(tmp_path / "m")
    assert isinstance(classifier, Classifier)
    expected = classifier.predict_prepared([classifier.prepare(IMAGE)])[0]
    found = confidences(await running.analyze())
    assert [found[name] for name in ("cat", "dog", "owl")] == pytest.approx(expected, abs=1e-6)
    assert list(found.values()) == sorted(found.values(), reverse=True)


async def test_an_image_in_the_store_gets_the_same_result_as_its_bytes(running: Running):
    await running.blobs.put("uploads/a b.png", IMAGE)
    assert await running.analyze(uri="s3://sightline/uploads/a b.png") == await running.analyze()


async def test_threshold_and_max_results_limit_the_tags(tmp_path: Path):
    async with serving(tmp_path, loader=lambda _, digest: Fixed(0.25, 0.5, 0.25)) as running:
        assert list(confidences(await running.analyze(score_threshold=0.3))) == ["dog"]
        assert list(confidences(await running.analyze(max_results=2))) == ["dog", "cat"]
        assert list(confidences(await running.analyze(score_threshold=0.0))) == ["dog", "cat", "owl"]


async def test_the_suggested_thresholds_apply_only_on_request(tmp_path: Path):
    fixed = Fixed(0.25, 0.5, 0.25)
    fixed.card = card(thresholds=(0.2, 0.6, 0.3))
    async with serving(tmp_path, loader=lambda _, digest: fixed) as running:
        assert list(confidences(await running.analyze())) == ["dog", "cat", "owl"]
        assert list(confidences(await running.analyze(use_suggested_thresholds=True))) == ["cat"]


def calibrated(*true: float) -> Fixed:
    """A classifier that was calibrated on images in which the true category had these probabilities."""
    fixed = Fixed(0.25, 0.6, 0.15)
    fixed.card = replace(card(), calibration=Calibration(len(true), tuple(sorted(true, reverse=True))))
    return fixed


async def test_a_prediction_set_is_complete_whatever_limits_the_tags(tmp_path: Path):
    fixed = calibrated(0.9, 0.8, 0.7, 0.2, 0.1)
    async with serving(tmp_path, loader=lambda _, digest: fixed) as running:
        result = (await running.analyze(coverage=0.6, max_results=1)).custom_model_result.tags_result
        assert [tag.name for tag in result.values] == ["dog"]
        assert list(result.prediction_set.categories) == ["dog", "cat"]
        assert (result.prediction_set.coverage, result.prediction_set.calibration_image_count) == (0.6, 5)
        wider = (await running.analyze(coverage=0.8, score_threshold=0.5)).custom_model_result.tags_result
        assert list(wider.prediction_set.categories) == ["dog", "cat", "owl"]
        narrow = (await running.analyze(coverage=0.1)).custom_model_result.tags_result
        assert list(narrow.prediction_set.categories) == ["dog"], "never empty"
        assert not (await running.analyze()).custom_model_result.tags_result.HasField("prediction_set")


async def test_a_coverage_beyond_the_calibration_images_is_refused_with_the_highest_possible(tmp_path: Path):
    async with serving(tmp_path, loader=lambda _, digest: calibrated(0.9, 0.8)) as running:
        with pytest.raises(
            errors.CoverageUnavailable, match=r"calibrated on 2 images, which allow at most 0\.6666"
        ) as no:
            await running.analyze(coverage=0.9)
        highest = float(no.value.metadata["highest_coverage"])
        assert (no.value.metadata["image_count"], no.value.metadata["images_needed"]) == ("2", "9")
        assert (await running.analyze(coverage=highest)).custom_model_result.tags_result.HasField("prediction_set")


async def test_a_bundle_of_an_earlier_version_gives_no_sets_and_says_so(running: Running):
    with pytest.raises(errors.CoverageUnavailable, match="train the model again"):
        await running.analyze(coverage=0.5)


async def test_a_detector_gives_no_sets(tmp_path: Path):
    async with serving(tmp_path, network=detector()) as running:
        with pytest.raises(errors.InvalidRequest, match="coverage: models/m is a detector"):
            await running.analyze(coverage=0.5)


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 1e-7), ("JPEG", 0.002)])
async def test_an_image_rotated_by_exif_gets_the_tags_and_size_of_the_upright_one(
    running: Running, kind: str, tolerance: float
):
    upright = make_image(160, 96)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = file_of(upright.transpose(Image.Transpose.ROTATE_90), kind, exif=exif)
    expected, found = await running.analyze(file_of(upright, kind)), await running.analyze(turned)
    assert (found.metadata.width, found.metadata.height) == (160, 96)
    lying = await running.analyze(file_of(upright.transpose(Image.Transpose.ROTATE_90), kind))
    assert confidences(lying) != pytest.approx(confidences(expected), abs=0.005), (
        "this network is sensitive to rotation"
    )
    assert confidences(found) == pytest.approx(confidences(expected), abs=tolerance)


async def test_an_image_in_a_batch_of_seventeen_gets_the_same_result_as_alone(tmp_path: Path):
    async with serving(tmp_path, max_batch=17) as running:
        others = [file_of(make_image(seed=seed)) for seed in range(1, 17)]
        async with running.thread_held_up() as first:
            answers = [asyncio.create_task(running.analyze(image)) for image in [*others[:8], IMAGE, *others[8:]]]
            await running.waiting(17)
        alone, *among = [confidences(await answer) for answer in (first, *answers)]
        assert running.telemetry.observed["sightline_predictor_batch_images", ()] == [1, 17]
    assert among[8] == pytest.approx(alone, abs=1e-5)
    assert among[7] != pytest.approx(alone, abs=1e-5), "another image must have another result"


# Errors.


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"model_name": "m"}, errors.InvalidName, "models/{model}"),
        ({"model_name": "models/a/b"}, errors.InvalidName, "models/{model}"),
        ({"model_name": "models/.."}, errors.InvalidName, "letters"),
        ({"model_name": "models/none"}, errors.ModelNotFound, "models/none"),
        ({"image": None}, errors.InvalidRequest, "neither image nor uri"),
        ({"image": b""}, errors.InvalidImageSize, "is 0 bytes"),
        ({"image": bytes(6 * 1024**2 + 1)}, errors.InvalidImageSize, "is 6291457 bytes; 1 to 6291456"),
        ({"image": b"no image"}, errors.InvalidImageFormat, "JPEG"),
        ({"image": IMAGE[:-40]}, errors.InvalidImageFormat, "image: is cut off"),
        ({"image": file_of(make_image(40, 40))}, errors.InvalidImageSize, "40 x 40"),
        ({"score_threshold": 1.5}, errors.InvalidRequest, "score_threshold"),
        ({"max_results": 0}, errors.InvalidRequest, "max_results"),
        ({"coverage": 1.0}, errors.InvalidRequest, "coverage: 1 is not above 0 and below 1"),
        ({"coverage": 0.0}, errors.InvalidRequest, "coverage: 0 is not"),
        ({"coverage": float("nan")}, errors.InvalidRequest, "coverage: nan is not"),
        (
            {"score_threshold": 0.0, "use_suggested_thresholds": True},
            errors.InvalidRequest,
            "use_suggested_thresholds: score_threshold is set too",
        ),
        ({"uri": "https://example.org/a.png"}, errors.UnreadableUri, "https"),
        ({"uri": "s3://other/a.png"}, errors.UnreadableUri, "bucket"),
        ({"uri": "s3://sightline/a/../b.png"}, errors.UnreadableUri, ".."),
        ({"uri": "s3://sightline/uploads/none.png"}, errors.BlobNotFound, "none.png"),
    ],
)
async def test_each_kind_of_bad_request_has_its_own_error(
    running: Running, fields: dict[str, Any], error: type[errors.SightlineError], words: str
):
    with pytest.raises(errors.SightlineError) as refusal:
        await running.analyze(**fields)
    assert (type(refusal.value).reason, refusal.value.code) == (error.reason, error.code)
    assert words in refusal.value.message


async def test_an_image_in_the_store_that_is_too_large_is_refused_unread(running: Running):
    await running.blobs.put("uploads/big.png", bytes(6 * 1024**2 + 1))
    with pytest.raises(errors.InvalidImage, match=r"s3://sightline/uploads/big\.png: is 6291457 bytes"):
        await running.analyze(uri="s3://sightline/uploads/big.png")


async def test_a_model_without_a_bundle_is_not_ready_and_one_in_training_serves_its_best_so_far(running: Running):
    running.models.models["models/m"] = info(version="", state=ModelState.TRAINING)
    with pytest.raises(errors.ModelNotReady, match=r"models/m is TRAINING .* wait for its first trial"):
        await running.analyze()
    running.models.models["models/m"] = info(state=ModelState.TRAINING)
    assert (await running.analyze()).model_version == "v1"


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("CreateBatchPrediction", pb.CreateBatchPredictionRequest()),
        ("GetBatchPrediction", pb.GetBatchPredictionRequest()),
        ("ListBatchPredictions", pb.ListBatchPredictionsRequest()),
        ("CancelBatchPrediction", pb.CancelBatchPredictionRequest()),
        ("DeleteBatchPrediction", pb.DeleteBatchPredictionRequest()),
    ],
)
async def test_a_replica_without_nats_says_how_to_get_batch_predictions(running: Running, rpc: str, request_: Any):
    with pytest.raises(errors.BatchPredictionsOff, match="set SIGHTLINE_BATCH_PREDICTIONS to true"):
        await getattr(running.stub, rpc)(request_)


async def test_streams_of_batch_predictions_say_it_too(running: Running):
    async with grpc.aio.insecure_channel(running.address) as channel:
        stub: Any = PredictionServiceStub(channel)
        for stream in (
            stub.WatchBatchPrediction(pb.WatchBatchPredictionRequest()),
            stub.ReadBatchPredictionFile(pb.ReadBatchPredictionFileRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="SIGHTLINE_BATCH_PREDICTIONS") as refusal:
                await anext(aiter(stream))
            assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_while_nats_is_away_batch_predictions_are_unavailable_and_single_ones_are_not(tmp_path: Path):
    async with serving(tmp_path, batches=Batches()) as running:
        assert (await running.analyze()).model_version == "v1"
        async with grpc.aio.insecure_channel(running.address) as channel:
            stub: Any = PredictionServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match="nats-server does not answer") as refusal:
                await stub.ListBatchPredictions(pb.ListBatchPredictionsRequest())
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        failed: Any = refusal.value
        status = from_call(failed)
        assert status
        assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)


async def test_a_damaged_bundle_is_reported_and_leaves_no_files(running: Running):
    await running.blobs.put("models/m/v1/card.json", b"{}")
    with pytest.raises(errors.BundleUnusable, match=r"models/m: bundle v1 .* card\.json"):
        await running.analyze()
    assert list(running.folder.iterdir()) == []


@pytest.mark.usefixtures("quick_retries")
async def test_a_missing_bundle_is_retryable(running: Running):
    await running.blobs.delete("models/m/v1/digests.json")
    with pytest.raises(errors.Unavailable, match="s3://sightline/models/m/v1/ is no longer there"):
        await running.analyze()


async def test_a_full_replica_refuses_at_once_with_a_retry_delay(tmp_path: Path):
    async with serving(tmp_path, max_requests=2) as running:
        async with running.thread_held_up() as first:
            second = asyncio.create_task(running.analyze())
            await running.waiting(1)
            async with grpc.aio.insecure_channel(running.address) as channel:
                stub: Any = PredictionServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await stub.AnalyzeImage(pb.AnalyzeImageRequest(model_name="models/m", image=IMAGE))
        await asyncio.gather(first, second)
        assert received(running, "AnalyzeImage") == 2, "that of the refused call is not read"
        await running.analyze()
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = from_call(refusal.value)  # type: ignore[arg-type]  # it has the attributes of a call
    assert status is not None
    retry = RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() > 0


def received(running: Running, rpc: str) -> float:
    """How many requests the server has read."""
    counted = running.telemetry.values.items()
    return sum(n for (name, labels), n in counted if name == RECEIVED.name and ("grpc_method", rpc) in labels)


def failed_calls(running: Running) -> float:
    """How many calls the server has ended with a status other than OK."""
    counted = running.telemetry.values.items()
    return sum(n for (name, labels), n in counted if name == HANDLED.name and ("grpc_code", "OK") not in labels)


@pytest.mark.usefixtures("quick_retries")
async def test_a_prediction_that_cannot_make_its_deadline_is_refused_at_once_and_never_decoded(running: Running):
    await running.analyze()
    batcher = running.predictor._batcher
    for runner in batcher._paces:
        batcher._paces[runner] = 60.0  # as if passes took that long
    async with running.thread_held_up() as held:
        waiting = asyncio.create_task(running.analyze())
        await eventually(lambda: len(batcher._waiting) == 1)
        decoded = len(running.telemetry.observed["sightline_predictor_stage_seconds", (("stage", "decode"),)])
        with pytest.raises(errors.QuotaExceeded, match=r"already take about 60 s, and the call's deadline is in 20 s"):
            await running.analyze()
        assert len(running.telemetry.observed["sightline_predictor_stage_seconds", (("stage", "decode"),)]) == decoded
        assert received(running, "AnalyzeImage") == 3, "that of the refused call is not read"
    await asyncio.gather(held, waiting)


async def test_a_prediction_whose_deadline_passes_while_it_waits_costs_no_forward_pass(running: Running):
    async with running.thread_held_up() as first:
        request = pb.AnalyzeImageRequest(model_name="models/m", image=IMAGE)
        with pytest.raises(errors.SightlineError) as refusal:
            await running.stub.AnalyzeImage(request, timeout=2)
        assert running.telemetry.value(metrics.QUEUE_LENGTH) == 1, "it must have reached the queue"
        await eventually(lambda: failed_calls(running) == 1)  # the server's deadline may pass after the client's
    await first
    await running.analyze()
    assert refusal.value.code is errors.Code.DEADLINE_EXCEEDED
    assert running.telemetry.observed["sightline_predictor_batch_images", ()] == [1, 1]


# Streams of images.


async def streamed(running: Running, *requests: pb.AnalyzeImagesRequest) -> dict[str, pb.AnalyzeImagesResponse]:
    """The responses by id."""
    async with grpc.aio.insecure_channel(running.address) as channel:
        call: Any = PredictionServiceStub(channel).AnalyzeImages(iter(requests), timeout=20)
        return {response.id: response async for response in call}


def streamed_image(id_: str, **fields: Any) -> pb.AnalyzeImagesRequest:
    values: dict[str, Any] = {"model_name": "models/m", "image": IMAGE, **fields}
    return pb.AnalyzeImagesRequest(id=id_, request=pb.AnalyzeImageRequest(**values))


async def test_a_stream_gives_each_image_the_answer_of_analyze_image(running: Running):
    found = await streamed(running, *(streamed_image(str(number)) for number in range(40)))
    assert found.keys() == {str(number) for number in range(40)}
    expected = await running.analyze()
    assert all(confidences(one.response) == pytest.approx(confidences(expected), abs=1e-5) for one in found.values())


async def test_a_problem_with_one_image_leaves_the_stream_open(running: Running):
    found = await streamed(
        running,
        streamed_image("broken", image=b"no image"),
        streamed_image("gone", model_name="models/gone"),
        streamed_image("x" * 129),
        streamed_image(""),
        pb.AnalyzeImagesRequest(id="empty"),
        streamed_image("good"),
    )
    reasons = {id_: reason_of(one.error) for id_, one in found.items() if one.HasField("error")}
    assert reasons == {
        "broken": "InvalidImageFormat",
        "gone": "ModelNotFound",
        "x" * 128: "InvalidRequest",
        "": "InvalidRequest",
        "empty": "InvalidRequest",
    }
    assert list(confidences(found["good"].response)) == list(confidences(await running.analyze()))


async def test_a_stream_waits_where_single_calls_are_refused(tmp_path: Path):
    async with serving(tmp_path, max_requests=1, max_streamed_images=1) as running:
        found = await streamed(running, *(streamed_image(str(number)) for number in range(8)))
        assert not any(one.HasField("error") for one in found.values())
        assert len(found) == 8


async def test_a_caller_that_leaves_its_stream_frees_its_places(tmp_path: Path):
    async with serving(tmp_path, max_streamed_images=1) as running:
        async with running.thread_held_up(), grpc.aio.insecure_channel(running.address) as channel:
            call: Any = PredictionServiceStub(channel).AnalyzeImages()
            await call.write(streamed_image("1"))
            await eventually(running.predictor.streamed.locked)
            call.cancel()
            await eventually(lambda: not running.predictor.streamed.locked())
        assert (await streamed(running, streamed_image("2"))).keys() == {"2"}


def reason_of(status: Status) -> str:
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


# Explanations.


class Watching(Fixed):
    """Sure of `dog` only while it sees the red part of an image, at its upper left."""

    def arrange(self, decoded: Decoded) -> Views:
        rgb = decoded.pixels[1]
        return (rgb[: len(rgb) // 3, : rgb.shape[1] // 3].copy(),)

    def predict_prepared(self, images: Sequence[Views]) -> NDArray[np.float32]:
        red = [float((view[..., 0] > 200).mean() * (view[..., 1] < 50).mean()) for (view,) in images]
        return np.array([[0.1, 0.8 * share, 0.9 - 0.8 * share] for share in red], np.float32)


def red_corner() -> bytes:
    image = Image.new("RGB", (120, 60), "grey")
    image.paste((255, 0, 0), (0, 0, 40, 20))
    return file_of(image)


async def explain(running: Running, **fields: Any) -> pb.ExplainImageResponse:
    source: dict[str, Any] = {} if "uri" in fields else {"image": red_corner()}
    return await running.stub.ExplainImage(pb.ExplainImageRequest(model_name="models/m", **source | fields))


async def test_what_the_confidence_depends_on_has_the_highest_weights(tmp_path: Path):
    async with serving(tmp_path, loader=lambda _, digest: Watching(0.1, 0.8, 0.1)) as running:
        found = await explain(running)
        assert (found.tag.name, found.model_version) == ("dog", "v1")
        assert found.tag.confidence == pytest.approx(0.8, abs=0.01)
        assert (found.metadata.width, found.metadata.height) == (120, 60)
        assert found.columns == 2 * found.rows
        weights = np.array(found.weights).reshape(found.rows, found.columns)
        assert weights.max() == 1
        assert weights[: found.rows // 3 + 1, : found.columns // 3 + 1].min() > 0
        assert weights[found.rows // 3 + 2 :].max() == 0
        picture = Image.open(BytesIO(found.overlay_png))
        assert (picture.format, picture.size) == ("PNG", (120, 60))
        corner, other = (np.array(picture.getpixel(at)) for at in ((10, 8), (110, 50)))
        assert corner[0] > corner[1] + 40
        assert other[0] == other[1] == other[2]
        assert max((await explain(running, tag="owl")).weights) == 0, "no part supports another tag"


async def test_a_tag_that_the_model_does_not_have_is_refused_before_the_image_costs_anything(running: Running):
    with pytest.raises(errors.InvalidRequest, match=r"tag: the model has no 'horse', only cat, dog, owl"):
        await explain(running, tag="horse", image=b"never decoded")


async def test_an_explanation_of_a_detector_is_of_its_most_confident_object(tmp_path: Path):
    async with serving(tmp_path, network=detector()) as running:
        found = await explain(running)
        assert len(found.weights) == found.rows * found.columns
        assert found.tag.name in {"cat", "dog", "owl"}


async def test_an_explanation_is_a_use_of_its_model(running: Running):
    await explain(running)
    assert [model.use_count for model in await running.loaded()] == [1]


async def test_more_explanations_than_allowed_are_refused(tmp_path: Path):
    async with serving(tmp_path, max_explanations=1) as running, running.thread_held_up():
        first = asyncio.create_task(explain(running))
        await eventually(lambda: running.predictor._explanations.taken == 1)
        with pytest.raises(errors.QuotaExceeded, match="SIGHTLINE_MAX_EXPLANATIONS"):
            await explain(running)
        first.cancel()
        await eventually(lambda: running.predictor._explanations.taken == 0)
