# ruff: noqa: N802 - rpcs are named as the contract names them
"""Servicers that answer from dictionaries, and fail with rich statuses on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from PIL import Image, UnidentifiedImageError

from sightline.v1 import audit_service_pb2 as audit
from sightline.v1 import audit_service_pb2_grpc as audit_grpc
from sightline.v1 import dataset_service_pb2 as ds
from sightline.v1 import dataset_service_pb2_grpc as ds_grpc
from sightline.v1 import evaluation_service_pb2 as es
from sightline.v1 import evaluation_service_pb2_grpc as es_grpc
from sightline.v1 import model_alias_service_pb2 as aliases_pb
from sightline.v1 import model_alias_service_pb2_grpc as aliases_grpc
from sightline.v1 import model_service_pb2 as ms
from sightline.v1 import model_service_pb2_grpc as ms_grpc
from sightline.v1 import prediction_service_pb2 as ps
from sightline.v1 import prediction_service_pb2_grpc as ps_grpc
from sightline.v1 import project_service_pb2 as projects_pb
from sightline.v1 import project_service_pb2_grpc as projects_grpc
from sightline.v1.batch_prediction_pb2 import BatchPrediction
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.finding_pb2 import Finding
from sightline.v1.model_alias_pb2 import ModelAlias, ModelAliasSwitch
from sightline.v1.model_pb2 import Model
from sightline.v1.prediction_pb2 import (
    AnalyzeImageResponse,
    BoundingBox,
    CustomModelResult,
    ImageMetadata,
    LoadedModel,
    ObjectsResult,
    Tag,
    TagsResult,
)
from sightline.v1.progress_pb2 import Waiting
from sightline.v1.project_pb2 import Project
from sightline.v1.trial_pb2 import Trial
from sightline.v1.upload_pb2 import Upload

FIRST_OF_2026 = Timestamp(seconds=1_767_225_600)


def status(code: grpc.StatusCode, reason: str, message: str, *details: Message, **metadata: str) -> Status:
    """A rich status as the services send it."""
    made = Status(code=code.value[0], message=message)
    for detail in (ErrorInfo(domain="sightline", reason=reason, metadata=metadata), *details):
        packed = AnyMessage()
        packed.Pack(detail)
        made.details.append(packed)
    return made


class Fakes:
    """The fake services' state, and the errors that they will return, by rpc."""

    def __init__(self) -> None:
        self.datasets: dict[str, Dataset] = {}
        self.models: dict[str, Model] = {}
        self.aliases: dict[str, ModelAlias] = {}
        self.watched: dict[str, list[Model]] = {}  # what a watch of a model yields, if not its one state
        self.archive = b"an archive of a model" * 100_000
        self.archive_sha256 = ""  # another one than its own
        self.archives: list[bytes] = []  # of the first calls of ExportModel, each of which breaks off in the middle
        self.evaluations: dict[str, Evaluation] = {}  # as in an evaluated model
        self.trials: list[Trial] = []
        self.findings: list[Finding] = []
        self.samples: list[ds.DatasetSample] = []
        self.comparison = ds.CompareDatasetsResponse()
        self.compared = es.CompareEvaluationsResponse()
        self.uploads: dict[str, Upload] = {}
        self.audit: list[audit.AuditEvent] = []
        self.batches: dict[str, BatchPrediction] = {}
        self.results: dict[str, bytes] = {}  # the files of every batch prediction
        self.projects: dict[str, Project] = {}
        self.loaded: dict[str, LoadedModel] = {}
        self.suggested: list[ps.SuggestImagesResponse] = []
        self.files: dict[str, bytes] = {}
        self.images: dict[str, bytes] = {}  # what ReadImages sends, of the category `cat`
        self.page_size = 2
        self.max_image_bytes = 20 << 20
        self.errors: dict[str, list[Status]] = {}
        self.estimate = ms.EstimateTrainingResponse()
        self.patience = 0.0  # seconds left to the last call of EstimateTraining
        self.requests: list[Message] = []
        self.tags: list[tuple[str, float]] = [("cat", 0.75), ("dog", 0.25)]
        self.objects: list[tuple[str, float, tuple[int, int, int, int]]] | None = None  # None: a classifier

    def check(self, context: grpc.ServicerContext, rpc: str, request: Message) -> None:
        """Fails with the rpc's next planned error, if any."""
        self.requests.append(request)
        if self.errors.get(rpc):
            context.abort_with_status(rpc_status.to_status(self.errors[rpc].pop(0)))

    def page(self, items: list[Any], token: str) -> tuple[list[Any], str]:
        start = int(token or 0)
        end = start + self.page_size
        return items[start:end], str(end) if end < len(items) else ""


class DatasetFake(ds_grpc.DatasetServiceServicer):
    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes

    def UploadFiles(self, request_iterator: Iterator[ds.UploadFilesRequest], context: grpc.ServicerContext) -> Any:
        answer, current = ds.UploadFilesResponse(base_uri="s3://sightline/uploads/u"), b""
        announced: ds.FileHeader | None = None
        files: list[tuple[ds.FileHeader, bytes]] = []
        for message in request_iterator:
            kind = message.WhichOneof("part")
            if kind == "file":
                if announced is not None:
                    files.append((announced, current))
                announced, current = message.file, b""
            elif kind == "chunk":
                assert len(message.chunk) <= 1024 * 1024
                current += message.chunk
        if not files and announced is None:
            uri, limit = "s3://sightline/uploads/u", self.fakes.max_image_bytes
            return ds.UploadFilesResponse(upload_id="u", base_uri=uri, max_image_bytes=limit)
        self.fakes.check(context, "UploadFiles", ds.UploadFilesRequest())
        if announced is not None:
            files.append((announced, current))
        for header, content in files:
            assert hashlib.sha256(content).hexdigest() == header.sha256
            assert len(content) == header.size_bytes
            self.fakes.files[header.path] = content
            answer.files.add(path=header.path, uri=f"s3://sightline/uploads/u/{header.path}")
        return answer

    def CreateDataset(self, request: ds.CreateDatasetRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "CreateDataset", request)
        if request.validate_only and f"datasets/{request.dataset_id}" in self.fakes.datasets:
            taken = status(grpc.StatusCode.ALREADY_EXISTS, "DatasetAlreadyExists", f"{request.dataset_id} exists.")
            context.abort_with_status(rpc_status.to_status(taken))
        made = Dataset(name=f"datasets/{request.dataset_id}", state=Dataset.VALIDATING)
        made.annotation_kind = request.dataset.annotation_kind
        if not request.validate_only:
            self.fakes.datasets[made.name] = made
        return made

    def GetDataset(self, request: ds.GetDatasetRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "GetDataset", request)
        if request.name not in self.fakes.datasets:
            missing = status(grpc.StatusCode.NOT_FOUND, "datasetNotFound", f"{request.name} does not exist.")
            context.abort_with_status(rpc_status.to_status(missing))
        return self.fakes.datasets[request.name]

    def ListDatasets(self, request: ds.ListDatasetsRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "ListDatasets", request)
        items, token = self.fakes.page(list(self.fakes.datasets.values()), request.page_token)
        return ds.ListDatasetsResponse(datasets=items, next_page_token=token)

    def ListFindings(self, request: ds.ListFindingsRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "ListFindings", request)
        items, token = self.fakes.page(self.fakes.findings, request.page_token)
        return ds.ListFindingsResponse(findings=items, next_page_token=token)

    def ListDatasetSamples(self, request: ds.ListDatasetSamplesRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "ListDatasetSamples", request)
        chosen = [one for one in self.fakes.samples if request.per_category or one.image_id in request.image_ids]
        items, token = self.fakes.page(chosen, request.page_token)
        sizes = [ds.ImageSize(width=one.width, height=one.height) for one in chosen if not request.page_token]
        return ds.ListDatasetSamplesResponse(samples=items, next_page_token=token, sizes=sizes)

    def CompareDatasets(self, request: ds.CompareDatasetsRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "CompareDatasets", request)
        answer, whole = ds.CompareDatasetsResponse(), self.fakes.comparison
        items, token = self.fakes.page(list(whole.pairs), request.page_token)
        if not request.page_token:
            answer.CopyFrom(whole)
        del answer.pairs[:]
        answer.pairs.extend(items)
        answer.next_page_token = token
        answer.exact_count, answer.near_count = whole.exact_count, whole.near_count
        return answer

    def WatchDataset(self, request: ds.WatchDatasetRequest, context: grpc.ServicerContext) -> Any:
        dataset = self.fakes.datasets[request.name]
        yield ds.WatchDatasetResponse(dataset=dataset)
        self.fakes.check(context, "WatchDataset", request)
        if dataset.state == Dataset.VALIDATING:
            dataset.state = Dataset.READY
        yield ds.WatchDatasetResponse(dataset=dataset)

    def ReadImages(self, request: ds.ReadImagesRequest, context: grpc.ServicerContext) -> Any:
        """Before its last chunk, an image's stream fails with the planned error."""
        if self.fakes.errors.get("ReadImages:opens"):
            self.fakes.check(context, "ReadImages:opens", request)
        head = ds.Snapshot(digest="sha256:1", annotation_kind=Dataset.IMAGE_CLASSIFICATION)
        head.categories.add(id=1, name="cat")
        yield ds.ReadImagesResponse(snapshot=head)
        for number, (name, content) in enumerate(self.fakes.images.items(), 1):
            if request.HasField("after_image_id") and number <= request.after_image_id:
                continue
            image = ds.SnapshotImage(image_id=number, file_name=name, size_bytes=len(content), category_id=1)
            image.sha256 = hashlib.sha256(content).hexdigest()
            with suppress(UnidentifiedImageError):
                image.width, image.height = Image.open(BytesIO(content)).size
            yield ds.ReadImagesResponse(images=[image])
            if not request.annotations_only:
                yield ds.ReadImagesResponse(chunk=content[:-1])
                self.fakes.check(context, "ReadImages", request)
                yield ds.ReadImagesResponse(chunk=content[-1:])

    def DeleteDataset(self, request: ds.DeleteDatasetRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "DeleteDataset", request)
        del self.fakes.datasets[request.name]
        return empty_pb2.Empty()

    def ListUploads(self, request: ds.ListUploadsRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "ListUploads", request)
        items, token = self.fakes.page(list(self.fakes.uploads.values()), request.page_token)
        return ds.ListUploadsResponse(uploads=items, next_page_token=token)

    def ListUploadedFiles(self, request: ds.ListUploadedFilesRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "ListUploadedFiles", request)
        items, token = self.fakes.page(list(self.fakes.files.items()), request.page_token)
        response = ds.ListUploadedFilesResponse(next_page_token=token)
        for path, content in items:
            digest = hashlib.sha256(content).hexdigest()
            response.files.add(path=path, uri=f"s3://sightline/uploads/u/{path}", sha256=digest)
        return response

    def DeleteUpload(self, request: ds.DeleteUploadRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "DeleteUpload", request)
        if request.name not in self.fakes.uploads:
            missing = status(grpc.StatusCode.NOT_FOUND, "UploadNotFound", f"{request.name} does not exist.")
            context.abort_with_status(rpc_status.to_status(missing))
        del self.fakes.uploads[request.name]
        return empty_pb2.Empty()


class AuditFake(audit_grpc.AuditServiceServicer):
    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes

    def ListAuditEvents(self, request: audit.ListAuditEventsRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "ListAuditEvents", request)
        items, token = self.fakes.page(self.fakes.audit, request.page_token)
        return audit.ListAuditEventsResponse(events=items, next_page_token=token)


class ModelFake(ms_grpc.ModelServiceServicer):
    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes

    def CreateModel(self, request: ms.CreateModelRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "CreateModel", request)
        made = Model(name=f"models/{request.model_id}", state=Model.NOT_STARTED)
        made.training_parameters.CopyFrom(request.model.training_parameters)
        made.evaluation_parameters.CopyFrom(request.model.evaluation_parameters)
        self.fakes.models[made.name] = made
        return made

    def EstimateTraining(self, request: ms.EstimateTrainingRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "EstimateTraining", request)
        self.fakes.patience = context.time_remaining()
        return self.fakes.estimate

    def GetModel(self, request: ms.GetModelRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "GetModel", request)
        return self.fakes.models[request.name]

    def ListModels(self, request: ms.ListModelsRequest, context: grpc.ServicerContext) -> Any:
        items, token = self.fakes.page(list(self.fakes.models.values()), request.page_token)
        return ms.ListModelsResponse(models=items, next_page_token=token)

    def ListTrials(self, request: ms.ListTrialsRequest, context: grpc.ServicerContext) -> Any:
        items, token = self.fakes.page(self.fakes.trials, request.page_token)
        return ms.ListTrialsResponse(trials=items, next_page_token=token)

    def WatchModel(self, request: ms.WatchModelRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "WatchModel", request)
        for model in self.fakes.watched.get(request.name) or [self.fakes.models[request.name]]:
            yield ms.WatchModelResponse(model=model)

    def ExportModel(self, request: ms.ExportModelRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "ExportModel", request)
        yield ms.ExportModelResponse(
            progress=ms.ExportProgress(waiting=Waiting(reason=Waiting.WORKERS_BUSY, workers=2, busy_workers=2))
        )
        broken = bool(self.fakes.archives)
        data = self.fakes.archives.pop(0) if broken else self.fakes.archive
        digest = self.fakes.archive_sha256 or hashlib.sha256(data).hexdigest()
        header = ms.ExportHeader(
            file_name="../m-v1-onnx.zip", size_bytes=len(data), sha256=digest, model_version="v1", max_difference=3e-8
        )
        yield ms.ExportModelResponse(header=header)
        end = len(data) // 2 if broken else len(data)
        for start in range(request.read_offset, end, 1 << 20):
            yield ms.ExportModelResponse(chunk=data[start : min(start + (1 << 20), end)])
        if broken:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server shuts down")

    def CancelModel(self, request: ms.CancelModelRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "CancelModel", request)
        self.fakes.models[request.name].state = Model.CANCELLING
        return self.fakes.models[request.name]

    def DeleteModel(self, request: ms.DeleteModelRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "DeleteModel", request)
        del self.fakes.models[request.name]
        return empty_pb2.Empty()


class EvaluationFake(es_grpc.EvaluationServiceServicer):
    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes

    def CreateEvaluation(self, request: es.CreateEvaluationRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "CreateEvaluation", request)
        return Evaluation(name=f"{request.parent}/evaluations/{request.evaluation_id}", state=Evaluation.NOT_STARTED)

    def GetEvaluation(self, request: es.GetEvaluationRequest, context: grpc.ServicerContext) -> Any:
        return self.fakes.evaluations[request.name]

    def ListEvaluations(self, request: es.ListEvaluationsRequest, context: grpc.ServicerContext) -> Any:
        found = [one for name, one in self.fakes.evaluations.items() if name.startswith(f"{request.parent}/")]
        items, token = self.fakes.page(found, request.page_token)
        return es.ListEvaluationsResponse(evaluations=items, next_page_token=token)

    def CompareEvaluations(self, request: es.CompareEvaluationsRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "CompareEvaluations", request)
        return self.fakes.compared

    def DeleteEvaluation(self, request: es.DeleteEvaluationRequest, context: grpc.ServicerContext) -> Any:
        del self.fakes.evaluations[request.name]
        return empty_pb2.Empty()

    def WatchEvaluation(self, request: es.WatchEvaluationRequest, context: grpc.ServicerContext) -> Any:
        yield es.WatchEvaluationResponse(evaluation=self.fakes.evaluations[request.name])


class AliasFake(aliases_grpc.ModelAliasServiceServicer):
    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes

    def SetModelAlias(self, request: aliases_pb.SetModelAliasRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "SetModelAlias", request)
        found = self.fakes.aliases.setdefault(request.name, ModelAlias(name=request.name))
        found.switches.insert(0, ModelAliasSwitch(model=request.model, switch_time=FIRST_OF_2026, subject="ann"))
        found.model = request.model
        return found

    def RollBackModelAlias(self, request: aliases_pb.RollBackModelAliasRequest, context: grpc.ServicerContext) -> Any:
        found = self.fakes.aliases[request.name]
        back = aliases_pb.SetModelAliasRequest(name=request.name, model=found.switches[1].model)
        return self.SetModelAlias(back, context)

    def GetModelAlias(self, request: aliases_pb.GetModelAliasRequest, context: grpc.ServicerContext) -> Any:
        return self.fakes.aliases[request.name]

    def ListModelAliases(self, request: aliases_pb.ListModelAliasesRequest, context: grpc.ServicerContext) -> Any:
        items, token = self.fakes.page(list(self.fakes.aliases.values()), request.page_token)
        return aliases_pb.ListModelAliasesResponse(model_aliases=items, next_page_token=token)

    def DeleteModelAlias(self, request: aliases_pb.DeleteModelAliasRequest, context: grpc.ServicerContext) -> Any:
        del self.fakes.aliases[request.name]
        return empty_pb2.Empty()


class ProjectFake(projects_grpc.ProjectServiceServicer):
    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes

    def GetProject(self, request: projects_pb.GetProjectRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "GetProject", request)
        asked = dict(context.invocation_metadata()).get("sightline-project", "default")
        return self.fakes.projects[str(asked)]

    def ListProjects(self, request: projects_pb.ListProjectsRequest, context: grpc.ServicerContext) -> Any:
        items, token = self.fakes.page(list(self.fakes.projects.values()), request.page_token)
        return projects_pb.ListProjectsResponse(projects=items, next_page_token=token)


class PredictionFake(ps_grpc.PredictionServiceServicer):
    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes

    def CreateBatchPrediction(self, request: ps.CreateBatchPredictionRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "CreateBatchPrediction", request)
        if request.validate_only and f"batchPredictions/{request.batch_prediction_id}" in self.fakes.batches:
            taken = status(grpc.StatusCode.ALREADY_EXISTS, "AlreadyExists", f"{request.batch_prediction_id} exists.")
            context.abort_with_status(rpc_status.to_status(taken))
        made = BatchPrediction(name=f"batchPredictions/{request.batch_prediction_id}", state=BatchPrediction.SUCCEEDED)
        made.MergeFrom(request.batch_prediction)
        made.progress.images_done, made.progress.images_failed, made.progress.images_total = 3, 1, 4
        for name, content in self.fakes.results.items():
            uri, digest = f"s3://sightline/out/{name}", hashlib.sha256(content).hexdigest()
            made.result_files.add(file_name=name, uri=uri, size_bytes=len(content), sha256=digest)
        if not request.validate_only:
            self.fakes.batches[made.name] = made
        return made

    def GetBatchPrediction(self, request: ps.GetBatchPredictionRequest, context: grpc.ServicerContext) -> Any:
        return self.fakes.batches[request.name]

    def ListBatchPredictions(self, request: ps.ListBatchPredictionsRequest, context: grpc.ServicerContext) -> Any:
        items, token = self.fakes.page(list(self.fakes.batches.values()), request.page_token)
        return ps.ListBatchPredictionsResponse(batch_predictions=items, next_page_token=token)

    def WatchBatchPrediction(self, request: ps.WatchBatchPredictionRequest, context: grpc.ServicerContext) -> Any:
        yield ps.WatchBatchPredictionResponse(batch_prediction=self.fakes.batches[request.name])

    def CancelBatchPrediction(self, request: ps.CancelBatchPredictionRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "CancelBatchPrediction", request)
        self.fakes.batches[request.name].state = BatchPrediction.CANCELLING
        return self.fakes.batches[request.name]

    def DeleteBatchPrediction(self, request: ps.DeleteBatchPredictionRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "DeleteBatchPrediction", request)
        del self.fakes.batches[request.name]
        return empty_pb2.Empty()

    def ReadBatchPredictionFile(self, request: ps.ReadBatchPredictionFileRequest, context: grpc.ServicerContext) -> Any:
        content = self.fakes.results[request.file_name]
        for start in range(request.offset, len(content), 5):
            if start >= 5:
                self.fakes.check(context, "ReadBatchPredictionFile", request)
            yield ps.ReadBatchPredictionFileResponse(chunk=content[start : start + 5])

    def AnalyzeImage(self, request: ps.AnalyzeImageRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "AnalyzeImage", request)
        values = [Tag(name=name, confidence=confidence) for name, confidence in self.fakes.tags]
        result = CustomModelResult(tags_result=TagsResult(values=values))
        if request.HasField("coverage"):
            result.tags_result.prediction_set.coverage = request.coverage
            result.tags_result.prediction_set.categories.extend(name for name, _ in self.fakes.tags)
        if self.fakes.objects is not None:
            result = CustomModelResult(objects_result=ObjectsResult())
            for number, (name, confidence, (x, y, w, h)) in enumerate(self.fakes.objects, 1):
                box, tag = BoundingBox(x=x, y=y, w=w, h=h), Tag(name=name, confidence=confidence)
                result.objects_result.values.add(id=str(number), bounding_box=box, tags=[tag])
        return AnalyzeImageResponse(
            model_version="v1", metadata=ImageMetadata(width=64, height=48), custom_model_result=result
        )

    def SuggestImages(self, request: ps.SuggestImagesRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "SuggestImages", request)
        yield from self.fakes.suggested[: request.max_images]

    def LoadModel(self, request: ps.LoadModelRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "LoadModel", request)
        found = LoadedModel(model_name=request.model_name, model_version="v1", size_bytes=6_000_000, pinned=True)
        found.load_time.CopyFrom(FIRST_OF_2026)
        self.fakes.loaded[request.model_name] = found
        return found

    def UnloadModel(self, request: ps.UnloadModelRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "UnloadModel", request)
        del self.fakes.loaded[request.model_name]
        return empty_pb2.Empty()

    def ListLoadedModels(self, request: ps.ListLoadedModelsRequest, context: grpc.ServicerContext) -> Any:
        items, token = self.fakes.page(list(self.fakes.loaded.values()), request.page_token)
        return ps.ListLoadedModelsResponse(loaded_models=items, next_page_token=token)

    def ExplainImage(self, request: ps.ExplainImageRequest, context: grpc.ServicerContext) -> Any:
        self.fakes.check(context, "ExplainImage", request)
        return ps.ExplainImageResponse(
            model_version="v1",
            metadata=ImageMetadata(width=64, height=48),
            tag=Tag(name=request.tag or self.fakes.tags[0][0], confidence=0.75),
            columns=3,
            rows=2,
            weights=[0, 0, 1, 0, 0.5, 0],
            overlay_png=b"PNG of " + request.tag.encode(),
        )


def _concrete(servicer: Any) -> Any:
    """The servicer's class, which lacks the rpcs that no test calls: those return UNIMPLEMENTED."""
    return servicer


@contextmanager
def serving(fakes: Fakes) -> Generator[str]:
    """The fakes on a free port of this machine."""
    server = grpc.server(ThreadPoolExecutor(4))
    ds_grpc.add_DatasetServiceServicer_to_server(_concrete(DatasetFake)(fakes), server)
    audit_grpc.add_AuditServiceServicer_to_server(_concrete(AuditFake)(fakes), server)
    ms_grpc.add_ModelServiceServicer_to_server(_concrete(ModelFake)(fakes), server)
    es_grpc.add_EvaluationServiceServicer_to_server(_concrete(EvaluationFake)(fakes), server)
    aliases_grpc.add_ModelAliasServiceServicer_to_server(_concrete(AliasFake)(fakes), server)
    projects_grpc.add_ProjectServiceServicer_to_server(_concrete(ProjectFake)(fakes), server)
    ps_grpc.add_PredictionServiceServicer_to_server(_concrete(PredictionFake)(fakes), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
