"""The predictor over real gRPC: its models in memory."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.kit import errors
from services.predictor.domain import ImageQuery
from sightline.v1 import prediction_service_pb2 as pb
from tests.unit.predictor.serving import IMAGE, Running, confidences, serving
from tests.unit.predictor.support import info, put_bundle


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Running]:
    async with serving(tmp_path) as running:
        yield running


async def test_fifty_concurrent_first_calls_load_the_model_once(running: Running):
    answers = await asyncio.gather(*(running.analyze() for _ in range(50)))
    assert {answer.model_version for answer in answers} == {"v1"}
    assert len(running.telemetry.observed["sightline_predictor_load_seconds", ()]) == 1
    (loaded,) = await running.loaded()
    assert (loaded.model_name, loaded.use_count) == ("models/m", 50)
    assert loaded.size_bytes == (await running.blobs.stat("models/m/v1/weights.safetensors")).size_bytes


async def test_a_model_is_loaded_listed_and_unloaded_on_request(running: Running):
    assert await running.loaded() == []
    loaded = await running.stub.LoadModel(pb.LoadModelRequest(model_name="models/m"))
    assert (loaded.model_version, loaded.pinned) == ("v1", True)
    assert await running.loaded() == [loaded]
    await running.analyze()
    assert len(running.telemetry.observed["sightline_predictor_load_seconds", ()]) == 1, (
        "the first prediction finds it loaded"
    )
    await running.stub.UnloadModel(pb.UnloadModelRequest(model_name="models/m"))
    assert await running.loaded() == []
    assert list(running.folder.iterdir()) == []
    with pytest.raises(errors.ModelNotFound):
        await running.stub.UnloadModel(pb.UnloadModelRequest(model_name="models/m"))


async def test_loaded_models_are_paged_by_name(running: Running, tmp_path: Path):
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


async def test_a_better_bundle_is_served_as_soon_as_the_trainer_reports_it(running: Running, tmp_path: Path):
    before = await running.analyze()
    better = info(version="v2")
    await put_bundle(running.blobs, tmp_path / "m2", better, seed=2)
    running.models.models["models/m"] = better
    after = await running.analyze()
    assert (before.model_version, after.model_version) == ("v1", "v2")
    assert confidences(before) != confidences(after)
    assert [model.model_version for model in await running.loaded()] == ["v2"]
    assert len(list(running.folder.iterdir())) == 1


@pytest.mark.usefixtures("quick_retries")
async def test_a_bundle_that_cannot_be_loaded_leaves_the_earlier_one_until_a_sweep_loads_it(
    running: Running, tmp_path: Path
):
    await running.analyze()
    better = info(version="v2")
    running.models.models["models/m"] = better
    assert [(await running.analyze()).model_version for _ in range(2)] == ["v1", "v1"]
    assert (await running.stub.ExplainImage(pb.ExplainImageRequest(model_name="models/m", image=IMAGE))).HasField("tag")
    with pytest.raises(errors.Unavailable, match="is no longer there"):
        await running.predictor.analyze_image(ImageQuery("models/m", IMAGE, "", None, None, model_version="v2"))
    with pytest.raises(errors.Unavailable, match="is no longer there"):
        await running.stub.LoadModel(pb.LoadModelRequest(model_name="models/m"))
    await running.predictor.sweep()
    assert [model.model_version for model in await running.loaded()] == ["v1"]
    await put_bundle(running.blobs, tmp_path / "m2", better, seed=2)
    await running.predictor.sweep()
    assert (await running.analyze()).model_version == "v2"
    assert [model.model_version for model in await running.loaded()] == ["v2"]
    assert len(list(running.folder.iterdir())) == 1


async def test_a_deleted_model_is_no_longer_served_and_leaves_memory(running: Running):
    await running.analyze()
    running.models.models.clear()
    with pytest.raises(errors.ModelNotFound):
        await running.analyze()
    assert await running.loaded() == []


async def test_a_deleted_model_without_requests_leaves_memory_too(running: Running):
    await running.analyze()
    running.models.models.clear()
    await running.predictor.sweep()
    assert await running.loaded() == []


@pytest.mark.usefixtures("quick_retries")
async def test_a_loaded_model_is_still_served_while_the_trainer_does_not_respond(running: Running):
    await running.analyze()
    running.models.error = errors.Unavailable(what="The trainer", problem="connection refused")
    for _ in range(3):
        assert (await running.analyze()).model_version == "v1"
    await running.predictor.sweep()
    assert len(await running.loaded()) == 1
    with pytest.raises(errors.Unavailable, match="The trainer"):
        await running.analyze(model_name="models/other")


async def test_a_loaded_model_stays_and_gets_its_newer_bundle_without_a_request(running: Running, tmp_path: Path):
    await running.stub.LoadModel(pb.LoadModelRequest(model_name="models/m"))
    await put_bundle(running.blobs, tmp_path / "m2", info(version="v2"), seed=2)
    running.models.models["models/m"] = info(version="v2")
    await running.predictor.sweep()
    (loaded,) = await running.loaded()
    assert (loaded.model_version, loaded.pinned, loaded.use_count) == ("v2", True, 0)
    running.models.models.clear()
    await running.predictor.sweep()
    assert await running.loaded() == []
    running.models.models["models/m"] = info(version="v2")
    await running.analyze()
    assert [model.pinned for model in await running.loaded()] == [False], "another model of the same name"


async def test_a_model_that_only_predicted_is_not_loaded_again_by_a_sweep(running: Running, tmp_path: Path):
    await running.analyze()
    await put_bundle(running.blobs, tmp_path / "m2", info(version="v2"), seed=2)
    running.models.models["models/m"] = info(version="v2")
    await running.predictor.sweep()
    assert [(model.model_version, model.pinned) for model in await running.loaded()] == [("v1", False)]


async def test_models_that_stay_leave_no_room_for_another_and_the_error_says_so(tmp_path: Path):
    async with serving(tmp_path) as small:
        size = (await small.blobs.stat("models/m/v1/weights.safetensors")).size_bytes
    async with serving(tmp_path / "two", model_cache_bytes=int(1.5 * size)) as running:
        running.models.models["models/b"] = info("b")
        await put_bundle(running.blobs, tmp_path / "b", info("b"))
        await running.stub.LoadModel(pb.LoadModelRequest(model_name="models/m"))
        with pytest.raises(errors.QuotaExceeded, match=r"models/b, together with .* kept .LoadModel"):
            await running.analyze(model_name="models/b")
        await running.stub.UnloadModel(pb.UnloadModelRequest(model_name="models/m"))
        await running.analyze(model_name="models/b")
