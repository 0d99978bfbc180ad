"""From a folder on the user's machine to a training: files are received one by one, registered, and trained on."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from starlette.responses import JSONResponse, Response

from services.gateway.exchange import whole_number
from services.gateway.studio.datasets import dataset_of, state_of
from services.gateway.studio.drops import READ
from services.gateway.studio.visit import Visit
from services.kit.errors import InvalidRequest
from sightline.importers.model import IMAGE_SUFFIXES, BoxForm, Format
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import (
    CreateDatasetRequest,
    FileHeader,
    UploadFilesHeader,
    UploadFilesRequest,
)
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.model_service_pb2 import CreateModelRequest, EstimateTrainingRequest

CHUNK_BYTES = 1024**2
ESTIMATE_SECONDS = 300.0  # it waits for a free worker
MAX_MINUTES = 288 * 60
KINDS = {"classification": Dataset.IMAGE_CLASSIFICATION, "detection": Dataset.OBJECT_DETECTION}
MODEL_KINDS = {
    Dataset.IMAGE_CLASSIFICATION: TrainingParameters.GENERIC_CLASSIFIER,
    Dataset.OBJECT_DETECTION: TrainingParameters.GENERIC_DETECTOR,
}


async def new(visit: Visit) -> Response:
    """The page onto which an export is dropped, for a new dataset or for the next version of one."""
    return await visit.page(
        "new.html",
        dataset=visit.query("dataset"),
        limit=visit.site.settings.max_image_batch_bytes,
        suffixes=sorted(IMAGE_SUFFIXES),
        read=READ,
        formats=[form.value for form in Format],
        box_forms=[form.value for form in BoxForm],
    )


async def receive(visit: Visit) -> Response:
    """Passes one file on to an upload: at most one file of each request is in memory."""
    content = await visit.bytes(visit.site.settings.max_image_batch_bytes)
    sending = _messages(visit.path("upload"), visit.query("path"), content)
    answer = await visit.session.send(visit.session.services.datasets.UploadFiles, sending)
    return JSONResponse({"uri": answer.files[0].uri})


async def _messages(upload: str, path: str, content: bytes) -> AsyncIterator[UploadFilesRequest]:
    yield UploadFilesRequest(header=UploadFilesHeader(upload_id=upload))
    digest = hashlib.sha256(content).hexdigest()
    yield UploadFilesRequest(file=FileHeader(path=path, sha256=digest, size_bytes=len(content)))
    for start in range(0, len(content), CHUNK_BYTES):
        yield UploadFilesRequest(chunk=content[start : start + CHUNK_BYTES])


async def register(visit: Visit) -> Response:
    """Registers the uploaded annotation file as a dataset."""
    form = await visit.form()
    kind = KINDS.get(form.get("kind", ""))
    if kind is None:
        raise InvalidRequest(field="kind", problem="it is neither classification nor detection")
    uris = [form[name] for name in ("uri",) if form.get(name)]
    dataset = Dataset(annotation_kind=kind, annotation_file_uris=uris, display_name=form.get("display_name", ""))
    check_only = form.get("validate_only") == "1"
    request = CreateDatasetRequest(dataset=dataset, dataset_id=form.get("id", ""), validate_only=check_only)
    request.new_version = form.get("new_version") == "1"
    await visit.session.call(visit.session.services.datasets.CreateDataset, request)
    return Response(status_code=204) if check_only else visit.to("datasets", form.get("id", ""))


async def train_form(visit: Visit) -> Response:
    """The form for a training on a dataset."""
    dataset = await dataset_of(visit)
    return await visit.page("train.html", dataset=dataset, state=state_of(dataset))


async def estimate(visit: Visit) -> Response:
    """What a training on the dataset needs, and what to expect of it."""
    dataset = await dataset_of(visit)
    request = EstimateTrainingRequest(training_parameters=_parameters(dataset, 0))
    found = await visit.session.call(visit.session.services.models.EstimateTraining, request, ESTIMATE_SECONDS)
    return visit.bare_page("estimate.html", found=found)


async def train(visit: Visit) -> Response:
    """Creates the model, whose training begins."""
    form = await visit.form()
    minutes = whole_number(form.get("minutes", ""), MAX_MINUTES, least=1)
    if minutes is None:
        raise InvalidRequest(field="minutes", problem=visit.site.text("train.not_minutes", most=MAX_MINUTES))
    dataset = await dataset_of(visit)
    model = Model(training_parameters=_parameters(dataset, minutes))
    request = CreateModelRequest(model=model, model_id=form.get("id", "").strip())
    await visit.session.call(visit.session.services.models.CreateModel, request)
    return visit.to("models", request.model_id)


def _parameters(dataset: Dataset, minutes: int) -> TrainingParameters:
    budget = Duration()
    budget.FromTimedelta(timedelta(minutes=minutes))
    return TrainingParameters(
        training_dataset=dataset.name,
        model_kind=MODEL_KINDS.get(dataset.annotation_kind, TrainingParameters.MODEL_KIND_UNSPECIFIED),
        time_budget=budget,
    )
