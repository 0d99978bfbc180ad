"""The predictor over real gRPC: its answers, its errors, and what it keeps in memory."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status.rpc_status import from_call
from numpy.typing import NDArray
from PIL import Image

from services.infra.channel import open_channel
from services.infra.server import Server, Service
from services.kit import errors
from services.kit.clock import SystemClock
from services.kit.memory import MemoryBlobs
from services.kit.telemetry import MemoryTelemetry
from services.predictor import metrics, replica
from services.predictor.app import Predictor
from services.predictor.domain import Loader, ModelKind, ModelState
from services.predictor.rpc import PredictionServicer
from services.predictor.settings import PredictorSettings
from services.vision import bundle as bundles
from services.vision.classifier import Prepared
from sightline.v1 import prediction_pb2
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub, add_PredictionServiceServicer_to_server
from tests.unit.predictor.support import FakeClassifier, FakeModels, card, file_of, info, picture, put_bundle

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["PredictionService"]
PICTURE = file_of(picture())


class Fixed(FakeClassifier):
    """Sees the same in every image."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.card = card()
        self._probabilities = probabilities

    def predict_prepared(self, images: Sequence[Prepared]) -> NDArray[np.float32]:
        return np.array([self._probabilities] * len(images), np.float32)


class Running:
    """A predictor that serves, with everything around it."""

    def __init__(self, predictor: Predictor, models: FakeModels, blobs: MemoryBlobs, folder: Path) -> None:
        self.predictor, self.models, self.blobs, self.folder = predictor, models, blobs, folder
        self.telemetry = MemoryTelemetry()
        self.address = ""
        self.stub: Any = None

    async def analyze(self, image: bytes = PICTURE, **fields: Any) -> prediction_pb2.AnalyzeImageResponse:
        source = {} if "uri" in fields else {"image": image}
        request = pb.AnalyzeImageRequest(**{"model_name": "models/m", **source, **fields})
        return await self.stub.AnalyzeImage(request, timeout=20)

    async def loaded(self) -> list[prediction_pb2.LoadedModel]:
        return list((await self.stub.ListLoadedModels(pb.ListLoadedModelsRequest())).loaded_models)

    @asynccontextmanager
    async def thread_held_up(self) -> AsyncGenerator[None]:
        """No forward pass begins within the block."""
        gate = threading.Event()
        holding = asyncio.create_task(self.predictor._batcher.call(lambda: gate.wait(20)))
        try:
            yield
        finally:
            gate.set()
            await holding

    async def waiting(self, images: int) -> None:
        """Returns once so many images wait for a forward pass."""
        async with asyncio.timeout(20):
            while self.telemetry.value(metrics.QUEUE_LENGTH) < images:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(tmp_path: Path, loader: Loader = bundles.load, **changes: Any) -> AsyncGenerator[Running]:
    """A replica whose trainer knows `models/m`, a tiny real network."""
    values: dict[str, Any] = {"port": 0, "drain_seconds": 0.0, "grace_seconds": 1.0, "model_fresh_seconds": 0.0}
    settings = PredictorSettings(**{**values, **changes})
    models, blobs, clock, telemetry = FakeModels(info()), MemoryBlobs(), SystemClock(), MemoryTelemetry()
    await put_bundle(blobs, tmp_path / "m", info())
    folder = tmp_path / "cache"
    async with replica.running(settings, folder, models, blobs, loader, clock, telemetry) as predictor:
        running = Running(predictor, models, blobs, folder)
        running.telemetry = telemetry
        servicer = PredictionServicer(predictor, clock)
        service = Service(DESCRIPTOR, add_PredictionServiceServicer_to_server, servicer)
        server = Server("predictor", settings, telemetry, [service])
        running.address = f"127.0.0.1:{await server.start()}"
        async with open_channel(running.address) as channel:
            running.stub = PredictionServiceStub(channel)
            yield running
        await server.drain()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Running]:
    async with serving(tmp_path) as running:
        yield running


def confidences(response: prediction_pb2.AnalyzeImageResponse) -> dict[str, float]:
    return {tag.name: tag.confidence for tag in response.custom_model_result.tags_result.values}


# Answers.


async def test_the_answers_json_is_what_azures_callers_parse(tmp_path: Path):
    async with serving(tmp_path, loader=lambda _: Fixed(0.1, 0.75, 0.0)) as running:
        response = await running.analyze()
    assert json_format.MessageToJson(response, indent=None) == (
        '{"modelVersion": "v1", "metadata": {"width": 90, "height": 60}, "customModelResult": {"tagsResult": {"values": '
        '[{"name": "dog", "confidence": 0.75}, {"name": "cat", "confidence": 0.1}, {"name": "owl", "confidence": 0.0}]}}}'
    )


async def test_the_confidences_are_the_networks_own(running: Running, tmp_path: Path):
    classifier = bundles.load(tmp_path / "m")
    expected = classifier.predict_prepared([classifier.prepare(PICTURE)])[0]
    found = confidences(await running.analyze())
    assert [found[name] for name in ("cat", "dog", "owl")] == pytest.approx(expected, abs=1e-6)
    assert list(found.values()) == sorted(found.values(), reverse=True)


async def test_an_image_in_the_store_is_analyzed_as_its_bytes_are(running: Running):
    await running.blobs.put("uploads/a b.png", PICTURE)
    assert await running.analyze(uri="s3://sightline/uploads/a b.png") == await running.analyze()


async def test_threshold_and_number_of_results_bound_the_tags(tmp_path: Path):
    async with serving(tmp_path, loader=lambda _: Fixed(0.25, 0.5, 0.25)) as running:
        assert list(confidences(await running.analyze(score_threshold=0.3))) == ["dog"]
        assert list(confidences(await running.analyze(max_results=2))) == ["dog", "cat"]
        assert list(confidences(await running.analyze(score_threshold=0.0))) == ["dog", "cat", "owl"]


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0.0), ("JPEG", 0.01)])
async def test_an_image_turned_by_exif_gets_the_tags_and_the_size_of_the_upright_one(
    running: Running, kind: str, tolerance: float
):
    upright = picture(160, 96)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = file_of(upright.transpose(Image.Transpose.ROTATE_90), kind, exif=exif)
    expected, found = await running.analyze(file_of(upright, kind)), await running.analyze(turned)
    assert (found.metadata.width, found.metadata.height) == (160, 96)
    assert confidences(found) == pytest.approx(confidences(expected), abs=tolerance or 1e-7)


async def test_an_image_among_sixteen_others_gets_the_answer_that_it_gets_alone(tmp_path: Path):
    async with serving(tmp_path, max_batch=17) as running:
        alone = confidences(await running.analyze())
        others = [file_of(picture(seed=seed)) for seed in range(1, 17)]
        async with running.thread_held_up():
            answers = [asyncio.create_task(running.analyze(image)) for image in [*others[:8], PICTURE, *others[8:]]]
            await running.waiting(17)
        among = [confidences(await answer) for answer in answers]
        assert running.telemetry.observed["predictor_batch_images", ()] == [1, 17]
    assert among[8] == pytest.approx(alone, abs=1e-5)
    assert among[7] != pytest.approx(alone, abs=1e-5), "another image has another answer"


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
        ({"image": PICTURE[:-40]}, errors.InvalidImageFormat, "cannot be decoded"),
        ({"image": file_of(picture(40, 40))}, errors.InvalidImageSize, "40 x 40"),
        ({"score_threshold": 1.5}, errors.InvalidRequest, "score_threshold"),
        ({"max_results": 0}, errors.InvalidRequest, "max_results"),
        ({"uri": "https://example.org/a.png"}, errors.UnreadableUri, "https"),
        ({"uri": "s3://other/a.png"}, errors.UnreadableUri, "bucket"),
        ({"uri": "s3://sightline/a/../b.png"}, errors.UnreadableUri, ".."),
        ({"uri": "s3://sightline/none.png"}, errors.BlobNotFound, "none.png"),
    ],
)
async def test_a_bad_request_has_its_own_error(
    running: Running, fields: dict[str, Any], error: type[errors.SightlineError], words: str
):
    with pytest.raises(errors.SightlineError) as refusal:
        await running.analyze(**fields)
    assert (type(refusal.value).reason, refusal.value.code) == (error.reason, error.code)
    assert words in refusal.value.message


async def test_a_too_large_image_in_the_store_is_refused_unread(running: Running):
    await running.blobs.put("big.png", bytes(6 * 1024**2 + 1))
    with pytest.raises(errors.InvalidImage, match="s3://sightline/big.png: is 6291457 bytes"):
        await running.analyze(uri="s3://sightline/big.png")


async def test_a_model_without_a_bundle_is_not_ready_and_one_in_training_answers_with_its_best_so_far(running: Running):
    running.models.models["models/m"] = info(version="", state=ModelState.TRAINING)
    with pytest.raises(errors.ModelNotReady, match="models/m is TRAINING .* wait for its first trial"):
        await running.analyze()
    running.models.models["models/m"] = info(state=ModelState.TRAINING)
    assert (await running.analyze()).model_version == "v1"


async def test_a_detector_is_not_served_yet_and_says_so(running: Running):
    running.models.models["models/m"] = info(kind=ModelKind.DETECTOR)
    with pytest.raises(errors.NotServedYet, match="is a detector"):
        await running.analyze()


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("CreateBatchPrediction", pb.CreateBatchPredictionRequest()),
        ("GetBatchPrediction", pb.GetBatchPredictionRequest()),
        ("ListBatchPredictions", pb.ListBatchPredictionsRequest()),
        ("CancelBatchPrediction", pb.CancelBatchPredictionRequest()),
        ("ExplainImage", pb.ExplainImageRequest()),
    ],
)
async def test_what_a_later_version_serves_says_so(running: Running, rpc: str, request_: Any):
    with pytest.raises(errors.NotServedYet, match=rpc):
        await getattr(running.stub, rpc)(request_)


async def test_streams_that_a_later_version_serves_say_so(running: Running):
    async with grpc.aio.insecure_channel(running.address) as channel:
        stub: Any = PredictionServiceStub(channel)
        for call in (stub.WatchBatchPrediction(pb.WatchBatchPredictionRequest()), stub.AnalyzeImages(iter([]))):
            with pytest.raises(grpc.aio.AioRpcError, match="not served by this version") as refusal:
                await anext(aiter(call))
            assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_damaged_bundle_is_named_and_leaves_no_files(running: Running):
    await running.blobs.put("models/m/v1/card.json", b"{}")
    with pytest.raises(errors.BundleUnusable, match="models/m: bundle v1 .* card.json"):
        await running.analyze()
    assert list(running.folder.iterdir()) == []


async def test_a_bundle_that_is_gone_may_be_tried_again(running: Running):
    await running.blobs.delete("models/m/v1/digests.json")
    with pytest.raises(errors.Unavailable, match="s3://sightline/models/m/v1/ is not there"):
        await running.analyze()


async def test_a_full_replica_refuses_at_once_and_says_when_to_come_back(tmp_path: Path):
    async with serving(tmp_path, max_requests=2) as running:
        await running.analyze()
        async with running.thread_held_up():
            answers = [asyncio.create_task(running.analyze()) for _ in range(2)]
            await running.waiting(2)
            async with grpc.aio.insecure_channel(running.address) as channel:
                stub: Any = PredictionServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await stub.AnalyzeImage(pb.AnalyzeImageRequest(model_name="models/m", image=PICTURE))
        await asyncio.gather(*answers)
        await running.analyze()
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = from_call(refusal.value)  # type: ignore[arg-type]
    assert status is not None
    retry = RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() > 0


async def test_a_prediction_whose_deadline_passes_while_it_waits_costs_no_forward_pass(running: Running):
    await running.analyze()
    async with running.thread_held_up():
        with pytest.raises(errors.SightlineError) as refusal:
            request = pb.AnalyzeImageRequest(model_name="models/m", image=PICTURE)
            await running.stub.AnalyzeImage(request, timeout=0.3)
        assert running.telemetry.value(metrics.QUEUE_LENGTH) == 1, "it had got as far as the queue"
    await running.analyze()
    assert refusal.value.code is errors.Code.DEADLINE_EXCEEDED
    assert running.telemetry.observed["predictor_batch_images", ()] == [1, 1]


# Models in memory.


async def test_fifty_first_calls_load_the_model_once(running: Running):
    answers = await asyncio.gather(*(running.analyze() for _ in range(50)))
    assert {answer.model_version for answer in answers} == {"v1"}
    assert len(running.telemetry.observed["predictor_load_seconds", ()]) == 1
    (loaded,) = await running.loaded()
    assert (loaded.model_name, loaded.use_count) == ("models/m", 50)
    assert loaded.size_bytes == (await running.blobs.stat("models/m/v1/weights.safetensors")).size_bytes


async def test_a_model_is_loaded_listed_and_unloaded_on_request(running: Running):
    assert await running.loaded() == []
    loaded = await running.stub.LoadModel(pb.LoadModelRequest(model_name="models/m"))
    assert loaded.model_version == "v1"
    assert await running.loaded() == [loaded]
    await running.analyze()
    assert len(running.telemetry.observed["predictor_load_seconds", ()]) == 1, "it was ready for the first prediction"
    await running.stub.UnloadModel(pb.UnloadModelRequest(model_name="models/m"))
    assert await running.loaded() == []
    assert list(running.folder.iterdir()) == []
    with pytest.raises(errors.ModelNotFound):
        await running.stub.UnloadModel(pb.UnloadModelRequest(model_name="models/m"))


async def test_loaded_models_come_in_pages_by_name(running: Running, tmp_path: Path):
    for name in ("c", "a", "b"):
        running.models.models[f"models/{name}"] = info(name)
        await put_bundle(running.blobs, tmp_path / name, info(name))
        await running.stub.LoadModel(pb.LoadModelRequest(model_name=f"models/{name}"))
    first = await running.stub.ListLoadedModels(pb.ListLoadedModelsRequest(page_size=2))
    request = pb.ListLoadedModelsRequest(page_size=2, page_token=first.next_page_token)
    second = await running.stub.ListLoadedModels(request)
    found = [model.model_name for page in (first, second) for model in page.loaded_models]
    assert found == ["models/a", "models/b", "models/c"]
    assert second.next_page_token == ""


async def test_a_better_bundle_answers_as_soon_as_the_trainer_tells_of_it(running: Running, tmp_path: Path):
    before = await running.analyze()
    better = info(version="v2")
    await put_bundle(running.blobs, tmp_path / "m2", better, seed=2)
    running.models.models["models/m"] = better
    after = await running.analyze()
    assert (before.model_version, after.model_version) == ("v1", "v2")
    assert confidences(before) != confidences(after)
    assert [model.model_version for model in await running.loaded()] == ["v2"]
    assert len(list(running.folder.iterdir())) == 1


async def test_a_deleted_model_is_no_longer_served_and_leaves_memory(running: Running):
    await running.analyze()
    running.models.models.clear()
    with pytest.raises(errors.ModelNotFound):
        await running.analyze()
    assert await running.loaded() == []


async def test_a_deleted_model_that_nobody_asks_for_leaves_memory_too(running: Running):
    await running.analyze()
    running.models.models.clear()
    await running.predictor.sweep()
    assert await running.loaded() == []


async def test_while_the_trainer_is_silent_a_loaded_model_goes_on_being_served(running: Running):
    await running.analyze()
    running.models.fault = errors.Unavailable(what="The trainer", problem="nobody listens")
    for _ in range(3):
        assert (await running.analyze()).model_version == "v1"
    await running.predictor.sweep()
    assert len(await running.loaded()) == 1
    with pytest.raises(errors.Unavailable, match="The trainer"):
        await running.analyze(model_name="models/other")
