"""The Open Inference Protocol over real gRPC: what it takes, what it returns, and that it is AnalyzeImage's answer."""

import asyncio
import struct
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.kit import errors
from services.predictor.domain import ModelState
from services.vision.card import ModelKind
from sightline.client import keys
from sightline.client.transport.connection import bearer
from sightline.inference import open_inference_pb2 as pb
from tests.unit.predictor.serving import IMAGE, Running, confidences, serving
from tests.unit.predictor.support import detector, file_of, info, make_image, put_bundle

OTHER = file_of(make_image(width=120, height=80, seed=3), "JPEG")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Running]:
    async with serving(tmp_path) as running:
        yield running


@pytest.fixture
async def detecting(tmp_path: Path) -> AsyncGenerator[Running]:
    async with serving(tmp_path, network=detector()) as running:
        running.models.models["models/m"] = info(kind=ModelKind.GENERIC_DETECTOR)
        yield running


def raw(*images: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def request(*images: bytes, binary: bool = True, shape: tuple[int, ...] = (), **fields: Any) -> pb.ModelInferRequest:
    """A request for the images, by default binary as tritonclient sends them."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=shape or (len(images),))
    if not binary:
        tensor.contents.bytes_contents.extend(images)
    content: dict[str, Any] = {"raw_input_contents": [raw(*images)]} if binary else {}
    values: dict[str, Any] = {"model_name": "m", "inputs": [tensor], **content, **fields}
    return pb.ModelInferRequest(**values)


def parameters(**values: Any) -> dict[str, pb.InferParameter]:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    return {name: pb.InferParameter(**{kinds[type(value)]: value}) for name, value in values.items()}


def wanted(*names: str, **more: Any) -> list[pb.ModelInferRequest.InferRequestedOutputTensor]:
    return [pb.ModelInferRequest.InferRequestedOutputTensor(name=name, parameters=more) for name in names]


def arrays(response: pb.ModelInferResponse) -> dict[str, Any]:
    """The outputs by name, whichever way they were sent."""
    found: dict[str, Any] = {}
    for index, output in enumerate(response.outputs):
        if not response.raw_output_contents:
            contents = output.contents
            fields = {"BYTES": contents.bytes_contents, "FP32": contents.fp32_contents, "INT32": contents.int_contents}
            values = np.array(list(fields[output.datatype]), object if output.datatype == "BYTES" else None)
        elif output.datatype == "BYTES":
            values = np.array(list(texts(response.raw_output_contents[index])), object)
        else:
            kind = "<f4" if output.datatype == "FP32" else "<i4"
            values = np.frombuffer(response.raw_output_contents[index], kind)
        found[output.name] = values.reshape(output.shape)
    return found


def texts(data: bytes):
    while data:
        (size,) = struct.unpack_from("<I", data)
        yield data[4 : 4 + size]
        data = data[4 + size :]


@pytest.mark.parametrize("binary", [True, False], ids=["raw", "typed"])
async def test_an_image_gets_the_answer_of_analyze_image_in_the_form_of_its_request(running: Running, binary: bool):
    response = await running.inference.ModelInfer(request(IMAGE, binary=binary, id="x1"))
    assert (response.model_name, response.model_version, response.id) == ("m", "v1", "x1")
    assert bool(response.raw_output_contents) is binary
    assert [(one.name, one.datatype, list(one.shape)) for one in response.outputs] == [
        ("labels", "BYTES", [1, 3]),
        ("scores", "FP32", [1, 3]),
        ("counts", "INT32", [1]),
        ("sizes", "INT32", [1, 2]),
    ]
    found, expected = arrays(response), confidences(await running.analyze())
    labels = [label.decode() for label in found["labels"][0]]
    assert labels == list(expected)
    np.testing.assert_allclose(found["scores"][0], list(expected.values()), rtol=1e-6)
    assert found["counts"].tolist() == [3]
    assert found["sizes"].tolist() == [[90, 60]]


async def test_the_images_of_a_batch_get_their_answers_in_their_order_padded_to_the_longest(detecting: Running):
    alone = [await detecting.analyze(image, score_threshold=0.3) for image in (IMAGE, OTHER)]
    both = request(IMAGE, OTHER, shape=(2, 1), parameters=parameters(score_threshold=0.3))
    found = arrays(await detecting.inference.ModelInfer(both))
    objects = [list(one.custom_model_result.objects_result.values) for one in alone]
    counts = [len(one) for one in objects]
    assert counts[0] != counts[1]
    assert min(counts) > 0
    assert found["counts"].tolist() == counts
    assert found["boxes"].shape == (2, max(counts), 4)
    for index, image in enumerate(objects):
        boxes = [(o.bounding_box.x, o.bounding_box.y, o.bounding_box.w, o.bounding_box.h) for o in image]
        assert found["boxes"][index, : counts[index]].tolist() == [list(map(float, box)) for box in boxes]
        assert [label.decode() for label in found["labels"][index, : counts[index]]] == [o.tags[0].name for o in image]
        assert not found["scores"][index, counts[index] :].any()
        assert all(label == b"" for label in found["labels"][index, counts[index] :])
    assert found["sizes"].tolist() == [[90, 60], [120, 80]]


async def test_no_result_at_all_is_an_empty_tensor(detecting: Running):
    response = await detecting.inference.ModelInfer(request(IMAGE, parameters=parameters(score_threshold=1.0)))
    assert {output.name: list(output.shape) for output in response.outputs} == {
        "labels": [1, 0],
        "scores": [1, 0],
        "boxes": [1, 0, 4],
        "counts": [1],
        "sizes": [1, 2],
    }
    assert arrays(response)["counts"].tolist() == [0]


@pytest.mark.parametrize("given", [{"max_results": 1}, {"max_results": "1"}, {"max_results": 1.0}])
async def test_parameters_are_those_of_analyze_image_also_as_text(running: Running, given: dict[str, Any]):
    found = arrays(await running.inference.ModelInfer(request(IMAGE, parameters=parameters(priority=1, **given))))
    assert found["labels"].shape == (1, 1)


async def test_thresholds_are_those_of_analyze_image(running: Running):
    expected = confidences(await running.analyze())
    middle = sorted(expected.values())[1]
    found = arrays(await running.inference.ModelInfer(request(IMAGE, parameters=parameters(score_threshold=middle))))
    assert found["counts"].tolist() == [2]
    suggested = request(IMAGE, parameters=parameters(use_suggested_thresholds="true"))
    response = await running.analyze(use_suggested_thresholds=True)
    assert arrays(await running.inference.ModelInfer(suggested))["counts"].tolist() == [len(confidences(response))]


async def test_only_the_requested_outputs_are_returned_in_their_order(running: Running):
    binary = {"binary_data": pb.InferParameter(bool_param=True)}
    response = await running.inference.ModelInfer(request(IMAGE, outputs=wanted("scores", "labels", **binary)))
    assert [output.name for output in response.outputs] == ["scores", "labels"]
    assert len(response.raw_output_contents) == 2
    assert arrays(response)["labels"].shape == (1, 3)


def tensor(**changes: Any) -> pb.ModelInferRequest.InferInputTensor:
    values: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [1], **changes}
    return pb.ModelInferRequest.InferInputTensor(**values)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (request(IMAGE, inputs=[]), "inputs: they are missing; send one, named 'image'"),
        (request(IMAGE, inputs=[tensor(name="input_0")]), "inputs: they are 'input_0'; send one, named 'image'"),
        (request(IMAGE, inputs=[tensor(), tensor()]), "inputs: they are 'image', 'image'; send one"),
        (request(IMAGE, inputs=[tensor(datatype="UINT8")]), "inputs[0].datatype: 'UINT8' is not taken"),
        (request(IMAGE, inputs=[tensor(shape=[])]), "inputs[0].shape: [] is neither [N] nor [N, 1]"),
        (request(IMAGE, inputs=[tensor(shape=[0])]), "inputs[0].shape: [0] is neither"),
        (request(IMAGE, inputs=[tensor(shape=[-1])]), "inputs[0].shape: [-1] is neither"),
        (request(IMAGE, inputs=[tensor(shape=[1, 3, 224, 224])]), "inputs[0].shape: [1, 3, 224, 224] is neither"),
        (request(*[b"x"] * 65), "inputs[0].shape: [65] is neither [N] nor [N, 1] for N images, 1 to 64"),
        (request(IMAGE, shape=(2,)), "raw_input_contents: the shape [2] announces 2 images; there are 1"),
        (request(IMAGE, binary=False, shape=(2,)), "bytes_contents: the shape [2] announces 2 images; there are 1"),
        (request(IMAGE, raw_input_contents=[IMAGE]), "raw_input_contents: before each image's bytes must be"),
        (request(IMAGE, raw_input_contents=[raw(IMAGE)[:-1]]), "raw_input_contents: before each image's bytes must be"),
        (request(IMAGE, raw_input_contents=[raw(IMAGE) + b"\1\0"]), "raw_input_contents: before each image's"),
        (request(IMAGE, raw_input_contents=[bytes(1 << 20)]), "announces 1 image; there are more than 64"),
        (request(*[b""] * 10_000, binary=False, shape=(1,)), "announces 1 image; there are more than 64"),
        (request(IMAGE, raw_input_contents=[raw(IMAGE)] * 2), "raw_input_contents: there are 2 for one input"),
        (request(IMAGE, binary=False, raw_input_contents=[raw(IMAGE)]), "raw_input_contents: the input has contents"),
        (request(IMAGE, inputs=[tensor(parameters=parameters(shared_memory_region="r"))]), "'shared_memory_region'"),
        (request(IMAGE, parameters=parameters(sequence_id=3)), "parameters['sequence_id']: it is not known"),
        (request(IMAGE, parameters=parameters(score_threshold="high")), "['score_threshold']: it is not a number"),
        (request(IMAGE, parameters=parameters(score_threshold=True)), "['score_threshold']: it is not a number"),
        (request(IMAGE, parameters={"max_results": pb.InferParameter()}), "['max_results']: it is not a number"),
        (request(IMAGE, parameters=parameters(score_threshold="nan")), "score_threshold: nan is outside 0..1"),
        (
            request(IMAGE, parameters=parameters(max_results=1.5)),
            "parameters['max_results']: 1.5 is not a whole number",
        ),
        (request(IMAGE, parameters=parameters(max_results="inf")), "['max_results']: inf is not a whole number"),
        (request(IMAGE, parameters=parameters(max_results=0)), "max_results: 0 is outside 1..1000"),
        (request(IMAGE, parameters=parameters(use_suggested_thresholds=1)), "it is neither true nor false"),
        (request(IMAGE, parameters=parameters(timeout=-1)), "parameters['timeout']: -1 is not a number of microsec"),
        (request(IMAGE, outputs=wanted("boxes")), "outputs[0].name: 'boxes' is not an output of this model; they are"),
        (
            request(IMAGE, outputs=wanted("labels", **parameters(classification=3))),
            "outputs[0].parameters: 'classification' are not known; use max_results",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_request_that_is_wrong_is_told_where_and_what_to_do(
    running: Running, wrong: pb.ModelInferRequest, message: str
):
    with pytest.raises(errors.InvalidRequest) as caught:
        await running.inference.ModelInfer(wrong)
    assert message in caught.value.message


@pytest.mark.parametrize("name", ["", "projects/acme/models/m", "models/m/trials/t", "models/", "../m"])
async def test_a_malformed_name_is_refused(running: Running, name: str):
    with pytest.raises(errors.InvalidName):
        await running.inference.ModelInfer(request(IMAGE, model_name=name))


async def test_a_model_may_be_named_as_in_the_other_services(running: Running):
    response = await running.inference.ModelInfer(request(IMAGE, model_name="models/m"))
    assert (response.model_name, response.model_version) == ("models/m", "v1")


async def test_another_version_than_the_current_one_is_not_found(running: Running):
    assert (await running.inference.ModelInfer(request(IMAGE, model_version="v1"))).model_version == "v1"
    with pytest.raises(errors.ModelVersionNotFound, match="models/m has no version '1': its current one"):
        await running.inference.ModelInfer(request(IMAGE, model_version="1"))
    with pytest.raises(errors.ModelNotFound, match="models/x does not exist"):
        await running.inference.ModelInfer(request(IMAGE, model_name="x"))


async def test_an_image_of_a_batch_that_cannot_be_read_fails_the_request_by_its_number(running: Running):
    with pytest.raises(errors.InvalidImageFormat, match=r"^image\[1\]: "):
        await running.inference.ModelInfer(request(IMAGE, b"not an image" * 10, IMAGE))
    with pytest.raises(errors.InvalidImageSize, match=r"^image\[2\]: is 0 bytes"):
        await running.inference.ModelInfer(request(IMAGE, IMAGE, b""))
    with pytest.raises(errors.InvalidImageFormat, match=r"^image: "):
        await running.inference.ModelInfer(request(b"not an image" * 10))
    assert (await running.inference.ModelInfer(request(IMAGE, IMAGE))).model_version == "v1", "its places are free"
    assert running.predictor._predictions.taken == 0


async def test_a_batch_is_answered_by_one_version_even_if_a_better_one_comes_meanwhile(
    running: Running, tmp_path: Path
):
    better = info(version="v2")
    await put_bundle(running.blobs, tmp_path / "m2", better, seed=2)
    before = arrays(await running.inference.ModelInfer(request(*[IMAGE] * 24)))
    async with running.thread_held_up() as first:
        batch = asyncio.ensure_future(running.inference.ModelInfer(request(*[IMAGE] * 24)))
        await running.waiting(16)
        running.models.models["models/m"] = better
        newer = asyncio.ensure_future(running.inference.ModelInfer(request(IMAGE)))
    await first
    response = await batch
    assert response.model_version == "v1"
    np.testing.assert_allclose(arrays(response)["scores"], before["scores"], atol=1e-6)
    assert (await newer).model_version == "v2"


async def test_a_full_replica_refuses_at_once(tmp_path: Path):
    async with serving(tmp_path, max_requests=1) as running, running.thread_held_up():
        with pytest.raises(errors.QuotaExceeded, match="SIGHTLINE_MAX_REQUESTS is 1"):
            await running.inference.ModelInfer(request(IMAGE))
        with pytest.raises(errors.QuotaExceeded, match="SIGHTLINE_MAX_REQUESTS is 1"):
            await running.inference.ModelInfer(request(IMAGE, IMAGE))


async def test_a_batch_that_gets_no_place_in_time_is_refused(running: Running):
    while not running.predictor.streamed.locked():
        await running.predictor.streamed.acquire()
    with pytest.raises(errors.DeadlineExceeded):
        await running.inference.ModelInfer(request(IMAGE, IMAGE, parameters=parameters(timeout=100_000)), timeout=5)
    assert running.predictor._predictions.taken == 0


async def test_an_answer_that_comes_after_the_timeout_is_an_error(running: Running):
    async with running.thread_held_up() as first:
        call = running.inference.ModelInfer(request(IMAGE, parameters=parameters(timeout=1)))
        with pytest.raises(errors.DeadlineExceeded):
            await call
    await first


async def test_a_stream_answers_in_order_and_goes_on_after_an_error(running: Running):
    sent = [
        request(IMAGE, id="a"),
        request(b"not an image" * 10, id="b"),
        request(IMAGE, OTHER, id="c"),
        request(IMAGE, id="d", model_name="x"),
        *(request(IMAGE, id=str(number)) for number in range(40)),
    ]
    responses = [one async for one in running.inference.ModelStreamInfer(iter(sent))]
    assert [one.infer_response.id for one in responses] == [one.id for one in sent]
    failed = {one.infer_response.id: one.error_message for one in responses if one.error_message}
    assert failed.keys() == {"b", "d"}
    assert failed["b"].startswith("image: ")
    assert failed["d"] == "models/x does not exist."
    assert arrays(responses[2].infer_response)["counts"].tolist() == [3, 3]


async def test_the_server_and_its_models_describe_themselves(detecting: Running):
    stub = detecting.inference
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
    server = await stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (server.name, list(server.extensions)) == ("sightline", ["model_repository"])
    assert server.version
    found = await stub.ModelMetadata(pb.ModelMetadataRequest(name="m"))
    assert (found.name, list(found.versions), found.platform) == ("m", ["v1"], "sightline_detector")
    assert [(one.name, one.datatype, list(one.shape)) for one in found.inputs] == [("image", "BYTES", [-1])]
    answer = await stub.ModelInfer(request(IMAGE))
    assert [(one.name, one.datatype, len(one.shape)) for one in found.outputs] == [
        (one.name, one.datatype, len(one.shape)) for one in answer.outputs
    ]
    with pytest.raises(errors.ModelVersionNotFound):
        await stub.ModelMetadata(pb.ModelMetadataRequest(name="m", version="7"))


async def test_a_model_is_ready_if_it_would_answer(running: Running):
    running.models.models["models/new"] = info("new", version="", state=ModelState.TRAINING)

    async def ready(name: str, version: str = "") -> bool:
        return (await running.inference.ModelReady(pb.ModelReadyRequest(name=name, version=version))).ready

    assert [await ready("m"), await ready("models/m"), await ready("m", "v1")] == [True] * 3
    assert [await ready("m", "v2"), await ready("new"), await ready("x")] == [False] * 3
    with pytest.raises(errors.InvalidName):
        await ready("")


async def test_the_repository_lists_loads_and_unloads_models(running: Running):
    running.models.models["models/new"] = info("new", version="", state=ModelState.TRAINING)
    stub = running.inference
    index = await stub.RepositoryIndex(pb.RepositoryIndexRequest())
    assert [(one.name, one.version, one.state) for one in index.models] == [
        ("m", "v1", "READY"),
        ("new", "", "UNAVAILABLE"),
    ]
    assert "wait for its first trial" in index.models[1].reason
    ready = await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
    assert [one.name for one in ready.models] == ["m"]
    await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"))
    assert [one.model_name for one in await running.loaded()] == ["models/m"]
    await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="m"))
    assert await running.loaded() == []
    with pytest.raises(errors.ModelNotFound):
        await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="x"))
    with pytest.raises(errors.InvalidRequest, match="there is no repository 'other'"):
        await stub.RepositoryIndex(pb.RepositoryIndexRequest(repository_name="other"))
    with pytest.raises(errors.InvalidRequest, match="parameters: none are known"):
        await stub.RepositoryModelLoad(
            pb.RepositoryModelLoadRequest(
                model_name="m", parameters={"config": pb.ModelRepositoryParameter(string_param="{}")}
            )
        )


async def test_only_liveness_and_readiness_need_no_token_and_inference_needs_its_role(tmp_path: Path):
    (viewer, viewing), (predictor, predicting) = keys.make("eye", "viewer"), keys.make("bob", "predictor")
    (tmp_path / "keys").write_text(f"{viewing}\n{predicting}\n")
    async with serving(tmp_path, auth_keys=tmp_path / "keys") as running:

        async def code(rpc: str, message: Any, token: str = "") -> str:
            try:
                await getattr(running.inference, rpc)(message, metadata=[bearer(token)] if token else None)
            except errors.SightlineError as error:
                return error.code.name
            return "OK"

        assert await code("ServerLive", pb.ServerLiveRequest()) == "OK"
        assert await code("ServerReady", pb.ServerReadyRequest()) == "OK"
        for rpc, message, codes in (
            ("ServerMetadata", pb.ServerMetadataRequest(), ("OK", "OK")),
            ("ModelReady", pb.ModelReadyRequest(name="m"), ("OK", "OK")),
            ("ModelMetadata", pb.ModelMetadataRequest(name="m"), ("OK", "OK")),
            ("RepositoryIndex", pb.RepositoryIndexRequest(), ("OK", "OK")),
            ("ModelInfer", request(IMAGE), ("PERMISSION_DENIED", "OK")),
            ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="m"), ("PERMISSION_DENIED", "OK")),
            (
                "RepositoryModelUnload",
                pb.RepositoryModelUnloadRequest(model_name="m"),
                ("PERMISSION_DENIED", "PERMISSION_DENIED"),
            ),
        ):
            found = [await code(rpc, message, token) for token in ("", viewer, predictor)]
            assert found == ["UNAUTHENTICATED", *codes], rpc
