"""Two projects on one installation: nothing of the one exists for the other, whatever is called."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from services.dataset.uploaded_files import FOLDER
from services.infra.projects import holds_name
from sightline.client.transport.connection import bearer
from sightline.inference import open_inference_pb2 as inference
from sightline.inference import open_inference_pb2_grpc as inference_grpc
from sightline.v1 import batch_prediction_pb2, dataset_pb2, evaluation_pb2, model_pb2
from sightline.v1 import dataset_service_pb2 as datasets
from sightline.v1 import evaluation_service_pb2 as evaluations
from sightline.v1 import model_alias_service_pb2 as aliases
from sightline.v1 import model_service_pb2 as models
from sightline.v1 import prediction_service_pb2 as predictions
from sightline.v1 import project_service_pb2 as projects
from tests.support.datasets import coco, upload_messages
from tests.support.suite_of_projects import RPCS, Suite, suite
from tests.unit.predictor.serving import IMAGE

OK, MISSING, UNSERVED = "OK", "NOT_FOUND", "UNIMPLEMENTED"
E, ALIAS = "models/m/evaluations/e", "models/m@live"
WAITING = {"EstimateTraining", "ExportModel"}  # which wait for a worker until just before their deadline
NEW_NAMES = {("SetModelAlias", ("name",))}  # which a call may choose


def requests(uri: str = "") -> dict[str, tuple[Message, str]]:
    """A request of each rpc about what is the caller's own, in an order in which all work, and the answer's code."""
    pets = dataset_pb2.Dataset(annotation_kind=dataset_pb2.Dataset.IMAGE_CLASSIFICATION, annotation_file_uris=[uri])
    parameters = model_pb2.TrainingParameters(
        training_dataset="datasets/pets",
        base_model="models/m",
        model_kind=model_pb2.TrainingParameters.GENERIC_CLASSIFIER,
    )
    parameters.time_budget.FromSeconds(600)
    model = model_pb2.Model(training_parameters=parameters)
    model.evaluation_parameters.test_dataset = "datasets/pets"
    estimated = model_pb2.TrainingParameters()
    estimated.CopyFrom(parameters)
    estimated.base_model = ""
    test = evaluation_pb2.Evaluation(test_dataset="datasets/pets")
    batch = batch_prediction_pb2.BatchPrediction(model_name="models/m", dataset_name="datasets/pets")
    of_batch = {"name": "batchPredictions/b"}
    image = predictions.AnalyzeImageRequest(model_name="models/m", image=IMAGE)
    return {
        "CreateDataset": (datasets.CreateDatasetRequest(dataset=pets, dataset_id="new", validate_only=True), OK),
        "GetDataset": (datasets.GetDatasetRequest(name="datasets/pets", view=dataset_pb2.Dataset.FULL), OK),
        "ListDatasets": (datasets.ListDatasetsRequest(), OK),
        "UpdateDataset": (
            datasets.UpdateDatasetRequest(dataset=dataset_pb2.Dataset(name="datasets/pets", display_name="x")),
            OK,
        ),
        "WatchDataset": (datasets.WatchDatasetRequest(name="datasets/pets"), OK),
        "UploadFiles": (datasets.UploadFilesRequest(header=datasets.UploadFilesHeader(upload_id="pets")), OK),
        "ListUploads": (datasets.ListUploadsRequest(), OK),
        "ListFindings": (datasets.ListFindingsRequest(parent="datasets/pets"), OK),
        "ListUploadedFiles": (datasets.ListUploadedFilesRequest(parent="uploads/pets"), OK),
        "ReadUploadedFile": (datasets.ReadUploadedFileRequest(parent="uploads/pets", path="train.json"), OK),
        "ReadImages": (datasets.ReadImagesRequest(parent="datasets/pets"), OK),
        "ListDatasetSamples": (datasets.ListDatasetSamplesRequest(parent="datasets/pets", per_category=1), OK),
        "CompareDatasets": (
            datasets.CompareDatasetsRequest(training_dataset="datasets/pets", test_dataset="datasets/pets"),
            OK,
        ),
        "CreateModel": (models.CreateModelRequest(model=model, model_id="new", validate_only=True), OK),
        "GetModel": (models.GetModelRequest(name="models/m", view=model_pb2.Model.FULL), OK),
        "ListModels": (models.ListModelsRequest(), OK),
        "UpdateModel": (
            models.UpdateModelRequest(model=model_pb2.Model(name="models/m", display_name="x")),
            OK,
        ),
        "CancelModel": (models.CancelModelRequest(name="models/m"), "FAILED_PRECONDITION"),
        "WatchModel": (models.WatchModelRequest(name="models/m"), OK),
        "ListTrials": (models.ListTrialsRequest(parent="models/m"), OK),
        "EstimateTraining": (models.EstimateTrainingRequest(training_parameters=estimated), "UNAVAILABLE"),
        "ExportModel": (
            models.ExportModelRequest(name="models/m", format=models.ExportModelRequest.ONNX),
            "UNAVAILABLE",
        ),
        "SetModelAlias": (aliases.SetModelAliasRequest(name=ALIAS, model="models/m"), OK),
        "GetModelAlias": (aliases.GetModelAliasRequest(name=ALIAS), OK),
        "ListModelAliases": (aliases.ListModelAliasesRequest(), OK),
        "RollBackModelAlias": (aliases.RollBackModelAliasRequest(name=ALIAS), "FAILED_PRECONDITION"),
        "DeleteModelAlias": (aliases.DeleteModelAliasRequest(name=ALIAS), OK),
        "CreateEvaluation": (
            evaluations.CreateEvaluationRequest(
                parent="models/m", evaluation=test, evaluation_id="new", validate_only=True
            ),
            OK,
        ),
        "GetEvaluation": (evaluations.GetEvaluationRequest(name=E, view=evaluation_pb2.Evaluation.FULL), OK),
        "ListEvaluations": (evaluations.ListEvaluationsRequest(parent="models/m"), OK),
        "CompareEvaluations": (evaluations.CompareEvaluationsRequest(first_evaluation=E, second_evaluation=E), OK),
        "WatchEvaluation": (evaluations.WatchEvaluationRequest(name=E), OK),
        "GetProject": (projects.GetProjectRequest(), OK),
        "ListProjects": (projects.ListProjectsRequest(), OK),
        "AnalyzeImage": (image, OK),
        "AnalyzeImages": (predictions.AnalyzeImagesRequest(id="1", request=image), OK),
        "CreateBatchPrediction": (
            predictions.CreateBatchPredictionRequest(batch_prediction=batch, batch_prediction_id="new"),
            OK,
        ),
        "GetBatchPrediction": (predictions.GetBatchPredictionRequest(**of_batch), OK),
        "ListBatchPredictions": (predictions.ListBatchPredictionsRequest(), OK),
        "CancelBatchPrediction": (predictions.CancelBatchPredictionRequest(**of_batch), "FAILED_PRECONDITION"),
        "DeleteBatchPrediction": (
            predictions.DeleteBatchPredictionRequest(name="batchPredictions/b", etag="1"),
            "ABORTED",
        ),
        "WatchBatchPrediction": (predictions.WatchBatchPredictionRequest(**of_batch), OK),
        "ReadBatchPredictionFile": (
            predictions.ReadBatchPredictionFileRequest(name="batchPredictions/b", file_name="failures.json"),
            OK,
        ),
        "LoadModel": (predictions.LoadModelRequest(model_name="models/m"), OK),
        "ListLoadedModels": (predictions.ListLoadedModelsRequest(), OK),
        "ExplainImage": (predictions.ExplainImageRequest(model_name="models/m", image=IMAGE), OK),
        "SuggestImages": (predictions.SuggestImagesRequest(model_name="models/m"), "FAILED_PRECONDITION"),
        "UnloadModel": (predictions.UnloadModelRequest(model_name="models/m"), OK),
        "DeleteEvaluation": (evaluations.DeleteEvaluationRequest(name=E), OK),
        "DeleteModel": (models.DeleteModelRequest(name="models/m"), OK),
        "DeleteUpload": (datasets.DeleteUploadRequest(name="uploads/pets"), OK),
        "DeleteDataset": (datasets.DeleteDatasetRequest(name="datasets/pets", force=True), OK),
    }


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Suite]:
    """`ann` of the project acme has all that `bob` of umbrella has, and a dataset and a model called `theirs`."""
    async with suite(tmp_path) as made:
        made.key("ann", "admin", "acme")
        made.key("bob", "admin", "umbrella")
        for name, model, key in (("pets", "m", "ann"), ("theirs", "theirs", "ann"), ("pets", "m", "bob")):
            await made.register(name, key)
            await made.train(model, f"datasets/{name}", key)
        theirs = predictions.LoadModelRequest(model_name="models/theirs")
        await made.call("LoadModel", theirs, "ann")
        theirs = aliases.SetModelAliasRequest(name="models/theirs@live", model="models/theirs")
        await made.call("SetModelAlias", theirs, "ann")
        for name, model, key in (("b", "m", "ann"), ("theirs", "theirs", "ann"), ("b", "m", "bob")):
            await made.predict_all(name, "datasets/pets", f"models/{model}", key)
        yield made


async def answer(made: Suite, rpc: str, request: Any, key: str) -> tuple[str, str, bytes, Any]:
    """The code, message and details of the call or of a stream's only answer, and what it returned."""
    try:
        returned = await made.call(rpc, request, key, seconds=10 if rpc in WAITING else 20)
    except grpc.aio.AioRpcError as error:
        trailers: Any = dict(error.trailing_metadata() or ())
        status = Status.FromString(trailers["grpc-status-details-bin"])
        return error.code().name, status.message, status.SerializeToString(), None
    if rpc == "AnalyzeImages" and returned[0].HasField("error"):
        status = returned[0].error
        return grpc_code(status.code), status.message, status.SerializeToString(), None
    return OK, "", b"", returned


def grpc_code(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


def places(message: Message, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the names that are set in a request."""
    for field, value in message.ListFields():
        if field.message_type is not None and not field.is_repeated:
            yield from places(value, (*path, field.name))
        elif holds_name(field):
            yield (*path, field.name)


def renamed(request: Any, path: tuple[str, ...], id_: str) -> Any:
    """A copy of the request in which the outermost id in the name at the path is another."""
    copy = type(request)()
    copy.CopyFrom(request)
    holder = copy
    for step in path[:-1]:
        holder = getattr(holder, step)
    name = getattr(holder, path[-1])
    setattr(holder, path[-1], re.sub(r"^(\w+)/[^/@]+", rf"\1/{id_}", name))
    return copy


async def test_what_belongs_to_another_project_is_answered_like_what_nobody_has(two: Suite):
    assert requests().keys() == RPCS.keys(), "every rpc of the contract is here"
    compared = 0
    for rpc, (request, code) in requests().items():
        for path in places(request):
            if (rpc, path) in NEW_NAMES:
                continue
            theirs = await answer(two, rpc, renamed(request, path, "theirs"), "bob")
            nobodys = await answer(two, rpc, renamed(request, path, "nobody"), "bob")
            where = f"{rpc} with another project's {'.'.join(path)}: {theirs[:2]}"
            assert theirs[0] == (UNSERVED if code == UNSERVED else MISSING), where
            assert theirs[1].replace("theirs", "nobody") == nobodys[1], where
            assert theirs[2].replace(b"theirs", b"nobody") == nobodys[2], where
            compared += 1
    assert compared > 30


async def test_ones_own_is_answered_as_the_contract_says_and_without_a_project_in_any_name(two: Suite):
    get = datasets.GetDatasetRequest(name="datasets/pets")
    uri = (await two.call("GetDataset", get, "bob")).annotation_file_uris[0]
    for rpc, (request, code) in requests(uri).items():
        found, message, details, response = await answer(two, rpc, request, "bob")
        assert found == code, f"{rpc}: {message}"
        shown = f"{message}{details}{response}".replace("s3://sightline/projects/umbrella/", "")
        assert "projects/" not in shown, rpc
        assert "theirs" not in shown, rpc
        assert "acme" not in shown, rpc
    for key in ("ann", "bob"):
        held = await two.call("ListDatasets", datasets.ListDatasetsRequest(), key)
        assert [dataset.name for dataset in held.datasets if dataset.state == dataset_pb2.Dataset.READY] == (
            ["datasets/pets", "datasets/theirs"] if key == "ann" else []
        )
    assert [m.name for m in (await two.call("ListModels", models.ListModelsRequest(), "ann")).models] == [
        "models/m",
        "models/theirs",
    ]


async def test_a_name_with_a_project_in_it_is_no_name(two: Suite):
    for key in ("ann", "bob"):
        request = datasets.GetDatasetRequest(name="projects/acme/datasets/theirs")
        code, message, _, _ = await answer(two, "GetDataset", request, key)
        assert code == "INVALID_ARGUMENT"
        assert "expected a name without its project" in message


async def test_the_open_inference_protocol_knows_the_models_of_the_calls_project_only(two: Suite):
    async def index(key: str) -> list[str]:
        stub = inference_grpc.GRPCInferenceServiceStub(two.channels["GRPCInferenceService"])
        metadata = [bearer(two.tokens[key])]
        found = await stub.RepositoryIndex(inference.RepositoryIndexRequest(), metadata=metadata)
        return [model.name for model in found.models]

    async def infer(key: str, name: str) -> str:
        stub = inference_grpc.GRPCInferenceServiceStub(two.channels["GRPCInferenceService"])
        image = inference.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
        image.contents.bytes_contents.append(IMAGE)
        request = inference.ModelInferRequest(model_name=name, inputs=[image])
        try:
            return (await stub.ModelInfer(request, metadata=[bearer(two.tokens[key])])).model_name
        except grpc.aio.AioRpcError as error:
            return error.details() or ""

    assert await index("ann") == ["m", "theirs"]
    assert await index("bob") == ["m"]
    assert [await infer("ann", "theirs"), await infer("bob", "m")] == ["theirs", "m"]
    assert await infer("bob", "theirs") == "models/theirs does not exist."


async def test_a_page_token_is_of_its_project(two: Suite):
    first = await two.call("ListModels", models.ListModelsRequest(page_size=1), "ann")
    request = models.ListModelsRequest(page_size=1, page_token=first.next_page_token)
    assert [model.name for model in (await two.call("ListModels", request, "ann")).models] == ["models/theirs"]
    code, message, _, _ = await answer(two, "ListModels", request, "bob")
    assert (code, "does not belong to this list" in message) == ("INVALID_ARGUMENT", True)


async def test_a_token_acts_in_its_projects_only_and_hears_the_same_of_all_others(two: Suite):
    two.key("cas", "viewer", "acme", "umbrella")
    two.key("dan", "viewer", "*")
    two.key("eve", "viewer")
    request = models.ListModelsRequest()

    async def listed(key: str, project: str = "") -> str:
        try:
            return ",".join(model.name for model in (await two.call("ListModels", request, key, project)).models)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"

    assert await listed("cas", "acme") == "models/m,models/theirs"
    assert await listed("cas", "umbrella") == "models/m"
    assert "PERMISSION_DENIED" in (unnamed := await listed("cas"))
    assert "choose one of acme, umbrella" in unnamed
    assert (await listed("dan"), await listed("dan", "umbrella"), await listed("dan", "empty")) == ("", "models/m", "")
    assert await listed("eve") == await listed("eve", "default") == ""
    there, nowhere = await listed("eve", "acme"), await listed("eve", "nowhere")
    assert there.replace("acme", "nowhere") == nowhere
    assert "PERMISSION_DENIED: The token of eve is not valid for the project nowhere" in nowhere
    for malformed in ("Acme", "../acme", "a/b", "*", "a" * 64):
        assert "INVALID_ARGUMENT" in await listed("dan", malformed)


# What callers could do to one another before there were projects.


async def blobs_of(made: Suite) -> dict[str, bytes]:
    return {blob.key: await made.blobs.get(blob.key) async for blob in made.blobs.list("")}


async def test_nobody_writes_into_anothers_upload_by_its_id(two: Suite):
    two.key("ben", "trainer", "acme")
    before = await blobs_of(two)
    code, message, _, _ = await upload(two, "theirs", {"images/1.png": b"evil"}, "ben")
    assert (code, "was begun by another caller" in message) == ("ALREADY_EXISTS", True)
    assert (await upload(two, "theirs", {"images/1.png": b"evil"}, "bob"))[0] == OK, "in bob's project the id is free"
    after = await blobs_of(two)
    assert {key: data for key, data in after.items() if key in before} == before
    theirs = "projects/umbrella/uploads/theirs/"
    assert {key.replace(FOLDER, "list").split("-")[0] for key in set(after) - set(before)} == {
        f"{theirs}images/1.png",
        f"{theirs}list/000000000000",
    }


async def test_not_even_its_owner_overwrites_a_file_of_an_upload(two: Suite):
    first = await two.upload("twice", {"a.png": b"one"}, "ann")
    again = await two.upload("twice", {"a.png": b"one", "b.png": b"two"}, "ann")
    assert [file.path for file in again.files] == ["a.png", "b.png"]
    assert again.base_uri == first.base_uri == "s3://sightline/projects/acme/uploads/twice"
    code, message, _, _ = await upload(two, "twice", {"b.png": b"three"}, "ann")
    assert (code, "uploads/twice has a file b.png" in message) == ("ALREADY_EXISTS", True)
    assert await two.blobs.get("projects/acme/uploads/twice/b.png") == b"two"
    listed = (await two.call("ListUploads", datasets.ListUploadsRequest(), "ann")).uploads
    assert {(one.name, one.owner, one.file_count, one.size_bytes) for one in listed if one.name == "uploads/twice"} == {
        ("uploads/twice", "key:ann", 2, 6)
    }


async def upload(made: Suite, id_: str, files: dict[str, bytes], key: str) -> tuple[str, str, bytes, Any]:
    return await answer(made, "UploadFiles", upload_messages(id_, files), key)


async def test_no_uri_tells_what_is_in_the_store_elsewhere(two: Suite):
    await two.blobs.put("elsewhere/secret.png", IMAGE)
    held = "s3://sightline/projects/acme/uploads/theirs"
    empty = "s3://sightline/projects/acme/uploads/nobody"
    for there, not_there in (
        (f"{held}/train.json", f"{empty}/train.json"),
        (f"{held}/images/1.png", f"{empty}/images/1.png"),
        ("s3://sightline/elsewhere/secret.png", "s3://sightline/elsewhere/nobody.png"),
        ("s3://sightline/uploads/x/../../projects/acme/uploads/theirs/train.json", "s3://sightline/uploads/x/../y"),
    ):
        for request, rpc, code in (
            (predictions.AnalyzeImageRequest(model_name="models/m"), "AnalyzeImage", "INVALID_ARGUMENT"),
            (datasets.CreateDatasetRequest(dataset_id="new", validate_only=True), "CreateDataset", "INVALID_ARGUMENT"),
            (datasets.CreateDatasetRequest(dataset_id="new"), "CreateDataset", "INVALID_ARGUMENT"),
            (
                predictions.CreateBatchPredictionRequest(batch_prediction_id="new"),
                "CreateBatchPrediction",
                "INVALID_ARGUMENT",
            ),
        ):
            answers = [await answer(two, rpc, at(request, uri), "bob") for uri in (there, not_there)]
            assert answers[0][0] == answers[1][0] == code
            assert answers[0][1].replace(there, not_there) == answers[1][1]


def at(request: Any, uri: str) -> Any:
    """A copy of the request about the uri."""
    copy = type(request)()
    copy.CopyFrom(request)
    if isinstance(copy, predictions.AnalyzeImageRequest):
        copy.uri = uri
    elif isinstance(copy, predictions.CreateBatchPredictionRequest):
        copy.batch_prediction.model_name = "models/m"
        copy.batch_prediction.input_uri_prefix = uri
    else:
        copy.dataset.annotation_kind = dataset_pb2.Dataset.IMAGE_CLASSIFICATION
        copy.dataset.annotation_file_uris.append(uri)
    return copy


async def test_a_coco_file_reaches_no_image_of_another_project(two: Suite):
    uris = ("s3://sightline/projects/acme/uploads/theirs/images/1.png", "s3://sightline/projects/acme/uploads/x/y.png")
    images = [{"id": n, "file_name": f"{n}.png", "coco_url": uri} for n, uri in enumerate(uris, 1)]
    marks = [{"id": n, "image_id": n, "category_id": 1} for n in (1, 2)]
    uploaded = await two.upload("spy", {"train.json": coco(images, marks)}, "bob")
    await two.call("CreateDataset", two.world.request("spy", uris=(uploaded.files[0].uri,)), "bob")
    await two.world.work()
    request = datasets.ListFindingsRequest(parent="datasets/spy", codes=["imagePathInvalid"])
    findings = (await two.call("ListFindings", request, "bob")).findings
    assert [(f.image_id, "is not in an upload of the project" in f.message) for f in findings] == [(1, True), (2, True)]


async def test_an_upload_is_removed_by_who_began_it_or_an_admin_only(two: Suite):
    for name, role in (("ben", "trainer"), ("cas", "trainer"), ("dan", "viewer")):
        two.key(name, role, "acme")
    await two.upload("bens", {"a.png": b"one"}, "ben")
    await two.upload("bens-2", {"a.png": b"one"}, "ben")
    request = datasets.DeleteUploadRequest(name="uploads/bens")
    for key, code in (("dan", "PERMISSION_DENIED"), ("cas", "ALREADY_EXISTS"), ("bob", MISSING), ("ben", OK)):
        assert (await answer(two, "DeleteUpload", request, key))[0] == code
    assert (await answer(two, "DeleteUpload", request, "ben"))[0] == MISSING
    assert (await answer(two, "DeleteUpload", datasets.DeleteUploadRequest(name="uploads/bens-2"), "ann"))[0] == OK
    assert not [key for key in await blobs_of(two) if "/bens" in key]
