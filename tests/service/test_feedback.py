"""Feedback over real gRPC: uncertain images are kept, unless their callers object, and suggested."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from services.kit import errors
from services.predictor import metrics
from services.vision.card import ModelKind
from sightline.inference import open_inference_pb2 as inference
from sightline.v1 import prediction_service_pb2 as pb
from tests.support.waiting import eventually
from tests.unit.predictor.serving import IMAGE, Running, serving
from tests.unit.predictor.support import detector, file_of, info, make_image

OTHER = file_of(make_image(width=120, height=80, seed=3), "JPEG")


@pytest.fixture
async def keeping(tmp_path: Path) -> AsyncGenerator[Running]:
    async with serving(tmp_path, feedback_below=1.0) as running:
        yield running


async def kept(running: Running, count: int) -> None:
    """Returns once so many images are kept."""
    await eventually(lambda: running.telemetry.value(metrics.FEEDBACK_IMAGES, result="kept") == count)


async def suggested(running: Running, **fields: Any) -> list[pb.SuggestImagesResponse]:
    request = pb.SuggestImagesRequest(model_name="models/m", **fields)
    return [one async for one in running.stub.SuggestImages(request)]


async def test_images_of_uncertain_answers_are_suggested_with_the_answer(keeping: Running):
    answers = {image: await keeping.analyze(image, max_results=1) for image in (IMAGE, OTHER)}
    await kept(keeping, 2)
    found = await suggested(keeping)
    assert {one.image for one in found} == {IMAGE, OTHER}
    for one in found:
        answer = answers[one.image]
        tags = one.prediction.custom_model_result.tags_result.values
        assert len(tags) == 3, "whatever the caller asked for"
        assert tags[0] == answer.custom_model_result.tags_result.values[0]
        assert one.prediction.metadata == answer.metadata
        assert one.uncertainty == pytest.approx(1 - tags[0].confidence + tags[1].confidence)
        assert one.extension == ("png" if one.image == IMAGE else "jpg")
        assert one.HasField("create_time")
    assert found[0].uncertainty >= found[1].uncertainty
    assert len(await suggested(keeping, max_images=1)) == 1


async def test_detected_objects_are_suggested_with_their_boxes(tmp_path: Path):
    async with serving(tmp_path, network=detector(), feedback_below=1.0) as running:
        running.models.models["models/m"] = info(kind=ModelKind.GENERIC_DETECTOR)
        answer = await running.analyze()
        await kept(running, 1)
        (one,) = await suggested(running)
    assert one.prediction == answer


async def test_an_image_whose_caller_objects_is_not_kept_by_any_protocol(keeping: Running):
    await keeping.analyze(no_feedback=True)
    image = inference.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    image.contents.bytes_contents.append(IMAGE)
    objection = {"no_feedback": inference.InferParameter(bool_param=True)}
    request = inference.ModelInferRequest(model_name="m", inputs=[image], parameters=objection)
    await keeping.inference.ModelInfer(request)
    del request.parameters["no_feedback"]
    request.inputs[0].contents.bytes_contents[0] = OTHER
    await keeping.inference.ModelInfer(request)
    await kept(keeping, 1)
    assert [one.image for one in await suggested(keeping)] == [OTHER]


async def test_by_default_nothing_is_kept(tmp_path: Path):
    async with serving(tmp_path) as running:
        before = [blob.key async for blob in running.blobs.list("")]
        await running.analyze()
        with pytest.raises(errors.FeedbackNotKept, match="SIGHTLINE_FEEDBACK_BELOW"):
            await suggested(running)
    assert [blob.key async for blob in running.blobs.list("")] == before


async def test_suggestions_for_no_model_or_of_an_impossible_number_are_refused(keeping: Running):
    with pytest.raises(errors.InvalidRequest, match="max_images: 1001 is outside"):
        await suggested(keeping, max_images=1001)
    keeping.models.models.clear()
    with pytest.raises(errors.ModelNotFound):
        await suggested(keeping)
