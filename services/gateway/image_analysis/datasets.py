"""Datasets: registered, changed and deleted as this API does it."""

import asyncio
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from starlette.responses import JSONResponse, Response

from services.gateway.exchange import Exchange
from services.gateway.fields import Fields
from services.gateway.image_analysis import wire
from services.gateway.image_analysis.errors import BadArgument
from services.gateway.image_analysis.etags import condition, quoted
from services.gateway.image_analysis.lists import PAGE, listed
from services.gateway.image_analysis.versions import version_of
from services.kit.errors import DatasetNotFound
from sightline.v1 import dataset_service_pb2 as pb
from sightline.v1.dataset_pb2 import Dataset

MAX_URIS = 10


async def put(exchange: Exchange) -> Response:
    """Registers a dataset. Its images are checked afterwards, while models and evaluations wait for that."""
    version_of(exchange)
    body = await exchange.json()
    uris = _uris(exchange, body)
    if not uris:
        raise BadArgument(field="annotationFileUris", problem=f"1 to {MAX_URIS} files are required")
    dataset = Dataset(
        annotation_kind=wire.annotation_kind(body),
        annotation_file_uris=uris,
        custom_properties=_properties(body, {}),
    )
    request = pb.CreateDatasetRequest(dataset=dataset, dataset_id=exchange.path("name"))
    created = await exchange.session.call(exchange.session.services.datasets.CreateDataset, request)
    return _shown(exchange, created, 201)


async def get(exchange: Exchange) -> Response:
    """A dataset."""
    version_of(exchange)
    return _shown(exchange, await current(exchange, exchange.path("name")))


async def list_all(exchange: Exchange) -> Response:
    """A page of the datasets."""
    version_of(exchange)
    datasets = exchange.session.services.datasets

    async def fetch(token: str) -> tuple[list[Dataset], str]:
        request = pb.ListDatasetsRequest(page_size=PAGE, page_token=token)
        page = await exchange.session.call(datasets.ListDatasets, request)
        return [one for one in page.datasets if one.state != Dataset.DELETING], page.next_page_token

    uris = exchange.settings.blob_uris
    return await listed(exchange, fetch, lambda dataset: wire.dataset_json(dataset, uris))


async def patch(exchange: Exchange) -> Response:
    """Changes properties; other annotation files become the dataset's next version."""
    version_of(exchange)
    body = await exchange.json()
    known = await current(exchange, exchange.path("name"))
    etag = condition(exchange, known.etag)
    if "annotationKind" in body and wire.annotation_kind(body) != known.annotation_kind:
        raise BadArgument(field="annotationKind", problem="it cannot be changed; register another dataset")
    changed = known
    if etag or "customProperties" in body:
        named = Dataset(name=known.name, etag=etag, custom_properties=_properties(body, known.custom_properties))
        mask = FieldMask(paths=["custom_properties"])
        update = pb.UpdateDatasetRequest(dataset=named, update_mask=mask)
        changed = await exchange.session.call(exchange.session.services.datasets.UpdateDataset, update)
    uris = _uris(exchange, body)
    if uris and uris != list(known.annotation_file_uris):
        following = Dataset(annotation_kind=known.annotation_kind, annotation_file_uris=uris)
        request = pb.CreateDatasetRequest(dataset=following, dataset_id=exchange.path("name"), new_version=True)
        changed = await exchange.session.call(exchange.session.services.datasets.CreateDataset, request)
    return _shown(exchange, changed)


async def delete(exchange: Exchange) -> Response:
    """Deletes a dataset; its name is free again once this returns, unless it is very large."""
    version_of(exchange)
    datasets = exchange.session.services.datasets
    name = wire.dataset_name(exchange.path("name"))
    known = await current(exchange, exchange.path("name"))
    request = pb.DeleteDatasetRequest(name=name, etag=condition(exchange, known.etag))
    await exchange.session.call(datasets.DeleteDataset, request)
    await follow(exchange, name, until_gone=True)
    return Response(status_code=204)


async def current(exchange: Exchange, dataset_id: str) -> Dataset:
    """The dataset; one that is being deleted is not found."""
    name = wire.dataset_name(dataset_id)
    request = pb.GetDatasetRequest(name=name)
    found = await exchange.session.call(exchange.session.services.datasets.GetDataset, request)
    if found.state == Dataset.DELETING:
        raise DatasetNotFound(name=name)
    return found


async def follow(exchange: Exchange, name: str, *, until_gone: bool = False) -> None:
    """Waits until the dataset is checked, or gone; not longer than the settings say."""
    watch = exchange.session.services.datasets.WatchDataset
    try:
        async with asyncio.timeout(exchange.settings.dataset_wait_seconds):
            async for seen in exchange.session.stream(watch, pb.WatchDatasetRequest(name=name)):
                if not until_gone and seen.dataset.state != Dataset.VALIDATING:
                    return
    except (TimeoutError, grpc.aio.AioRpcError):
        return  # whatever it means, the next call reports it


def _shown(exchange: Exchange, dataset: Dataset, status: int = 200) -> Response:
    found = wire.dataset_json(dataset, exchange.settings.blob_uris)
    return JSONResponse(found, status, quoted(dataset.etag))


def _uris(exchange: Exchange, body: Fields) -> list[str]:
    blobs = exchange.settings.blob_uris
    field = "annotationFileUris"
    return [blobs.to_store(uri, field) for uri in body.texts(field)]


def _properties(body: Fields, known: Any) -> dict[str, str]:
    """The properties after the request's: a null removes one."""
    changed = dict(known) | (body.mapping("customProperties") or {})
    return {name: value for name, value in changed.items() if value is not None}
