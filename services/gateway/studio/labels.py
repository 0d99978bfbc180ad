"""Correcting labels: what the browser needs to know of a dataset, and how it saves a new version.

The browser collects the changes, and writes them into a COCO file beside the one that it replaces, so that images are
found as before and none is sent again. Nothing here holds a dataset: records and files are passed on as they come.
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response, StreamingResponse

from services.gateway.errors import Problem, Refusal
from services.gateway.studio.datasets import dataset_of, name_of, state_of
from services.gateway.studio.visit import Visit
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import (
    CreateDatasetRequest,
    ReadImagesRequest,
    ReadImagesResponse,
    ReadUploadedFileRequest,
    ReadUploadedFileResponse,
    SnapshotImage,
)

_UPLOADED = re.compile(r"s3://[^/]+/(?:projects/[^/]+/)?uploads/([^/]+)/((?:.*/)?)([^/]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dataset's annotation file is."""

    upload: str
    folder: str  # within the upload, with its last slash; empty if there is none
    file: str


async def show(visit: Visit) -> Response:
    """The page on which labels are corrected, or why they cannot be."""
    dataset = await dataset_of(visit)
    return await visit.page(
        "labels.html",
        dataset=dataset,
        place=place_of(dataset),
        ready=dataset.state == Dataset.READY,
        state=state_of(dataset),
        is_detection=dataset.annotation_kind == Dataset.OBJECT_DETECTION,
        limit=visit.site.settings.max_image_batch_bytes,
    )


async def records(visit: Visit) -> Response:
    """Lines of JSON: the categories, then the labels of each image."""
    request = ReadImagesRequest(parent=name_of(visit), annotations_only=True)
    answers = visit.session.stream(visit.session.services.datasets.ReadImages, request)
    first = await anext(answers)
    return StreamingResponse(_lines(first, answers), media_type="application/x-ndjson")


async def annotations(visit: Visit) -> Response:
    """The annotation file as it was uploaded; Refusal if there is not exactly one that was."""
    place = place_of(await dataset_of(visit))
    if place is None:
        raise Refusal(Problem(400, "LabelsElsewhere", visit.site.text("labels.elsewhere")))
    request = ReadUploadedFileRequest(parent=f"uploads/{place.upload}", path=place.folder + place.file)
    answers = visit.session.stream(visit.session.services.datasets.ReadUploadedFile, request)
    first = await anext(answers, ReadUploadedFileResponse())
    return StreamingResponse(_chunks(first, answers), media_type="application/json")


async def save(visit: Visit) -> Response:
    """Makes an uploaded annotation file the next version; Refusal if there was another since the page was opened."""
    form, dataset = await visit.form(), await dataset_of(visit)
    if dataset.snapshot_digest != form.get("digest"):
        raise Refusal(Problem(409, "DatasetChanged", visit.site.text("labels.changed")))
    changed = Dataset(annotation_kind=dataset.annotation_kind, annotation_file_uris=[form.get("uri", "")])
    request = CreateDatasetRequest(dataset=changed, dataset_id=visit.path("dataset"), new_version=True)
    await visit.session.call(visit.session.services.datasets.CreateDataset, request)
    return visit.to("datasets", visit.path("dataset"))


def place_of(dataset: Dataset) -> Place | None:
    """Where its annotation file is; None if it has several, or one that nobody uploaded."""
    uris = dataset.annotation_file_uris
    found = _UPLOADED.fullmatch(uris[0]) if len(uris) == 1 else None
    return Place(found[1], found[2], found[3]) if found else None


async def _lines(first: ReadImagesResponse, answers: AsyncGenerator[ReadImagesResponse]) -> AsyncIterator[str]:
    snapshot = first.snapshot
    categories = [[one.id, one.name] for one in snapshot.categories]
    yield _line({"digest": snapshot.digest, "count": snapshot.image_count, "categories": categories})
    async with aclosing(answers):
        async for answer in answers:
            yield "".join(_line(_record(image)) for image in answer.images)


def _record(image: SnapshotImage) -> dict[str, Any]:
    boxes = [[box.category_id, box.x, box.y, box.width, box.height, int(box.is_crowd)] for box in image.boxes]
    return {
        "id": image.image_id,
        "file": image.file_name,
        "size": [image.width, image.height],
        "tag": image.sha256[:16],
        "category": image.category_id if image.HasField("category_id") else None,
        "boxes": boxes,
    }


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":")) + "\n"


async def _chunks(
    first: ReadUploadedFileResponse, answers: AsyncGenerator[ReadUploadedFileResponse]
) -> AsyncIterator[bytes]:
    yield first.chunk
    async with aclosing(answers):
        async for answer in answers:
            yield answer.chunk
