"""The servicer of DatasetService: translates messages to use cases and back."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf.empty_pb2 import Empty

from services.dataset import look_wire, wire
from services.dataset.app import Datasets
from services.dataset.upload import Part, Uploads
from services.kit import caller_fields
from services.kit.blobs import to_uri
from services.vision.snapshot import Manifest
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import dataset_service_pb2 as service_pb
from sightline.v1 import dataset_service_pb2_grpc as service_grpc

Context = Any  # grpc.aio's context, unused here


class DatasetServicer(service_grpc.DatasetServiceServicer):
    """Errors propagate; `infra.server` turns them into statuses."""

    def __init__(self, datasets: Datasets, uploads: Uploads, bucket: str) -> None:
        self._datasets = datasets
        self._uploads = uploads
        self._bucket = bucket

    async def CreateDataset(self, request: service_pb.CreateDatasetRequest, context: Context) -> pb.Dataset:
        new = wire.new_dataset(request)
        created = await self._datasets.create(new, validate_only=request.validate_only, new_version=request.new_version)
        return wire.dataset_message(created, self._bucket)

    async def GetDataset(self, request: service_pb.GetDatasetRequest, context: Context) -> pb.Dataset:
        if request.view != pb.Dataset.FULL:
            return wire.dataset_message(await self._datasets.get(request.name), self._bucket)
        found, categories = await self._datasets.get_full(request.name)
        return wire.full_message(found, self._bucket, categories)

    async def ListDatasets(
        self, request: service_pb.ListDatasetsRequest, context: Context
    ) -> service_pb.ListDatasetsResponse:
        found, token = self._datasets.page(request.page_size, request.page_token)
        datasets = [wire.dataset_message(one, self._bucket) for one in found]
        return service_pb.ListDatasetsResponse(datasets=datasets, next_page_token=token)

    async def UpdateDataset(self, request: service_pb.UpdateDatasetRequest, context: Context) -> pb.Dataset:
        new = request.dataset
        changes = caller_fields.changes("dataset", request.update_mask.paths, new.display_name, new.custom_properties)
        updated = await self._datasets.update(new.name, changes, new.etag)
        return wire.dataset_message(updated, self._bucket)

    async def DeleteDataset(self, request: service_pb.DeleteDatasetRequest, context: Context) -> Empty:
        await self._datasets.delete(request.name, request.etag, force=request.force)
        return Empty()

    async def WatchDataset(
        self, request: service_pb.WatchDatasetRequest, context: Context
    ) -> AsyncIterator[service_pb.WatchDatasetResponse]:
        async for found in self._datasets.watch(request.name):
            yield service_pb.WatchDatasetResponse(dataset=wire.dataset_message(found, self._bucket))

    async def UploadFiles(
        self, request_iterator: AsyncIterator[service_pb.UploadFilesRequest], context: Context
    ) -> service_pb.UploadFilesResponse:
        async def parts() -> AsyncIterator[Part]:
            async for request in request_iterator:
                yield wire.part(request)

        return wire.uploaded_message(await self._uploads.store(parts()))

    async def ListUploads(
        self, request: service_pb.ListUploadsRequest, context: Context
    ) -> service_pb.ListUploadsResponse:
        found, token = self._uploads.records.page(request.page_size, request.page_token)
        uploads = [wire.upload_message(one.value, self._bucket) for one in found]
        return service_pb.ListUploadsResponse(uploads=uploads, next_page_token=token)

    async def ListUploadedFiles(
        self, request: service_pb.ListUploadedFilesRequest, context: Context
    ) -> service_pb.ListUploadedFilesResponse:
        found, token = await self._uploads.records.files(request.parent, request.page_size, request.page_token)
        base = to_uri(self._bucket, request.parent)
        files = [
            service_pb.UploadedFile(path=f.path, uri=f"{base}/{f.path}", size_bytes=f.size_bytes, sha256=f.sha256)
            for f in found
        ]
        return service_pb.ListUploadedFilesResponse(files=files, next_page_token=token)

    async def ReadUploadedFile(
        self, request: service_pb.ReadUploadedFileRequest, context: Context
    ) -> AsyncIterator[service_pb.ReadUploadedFileResponse]:
        async for chunk in self._uploads.read(request.parent, request.path):
            yield service_pb.ReadUploadedFileResponse(chunk=chunk)

    async def DeleteUpload(self, request: service_pb.DeleteUploadRequest, context: Context) -> Empty:
        await self._uploads.records.delete(request.name)
        return Empty()

    async def ListFindings(
        self, request: service_pb.ListFindingsRequest, context: Context
    ) -> service_pb.ListFindingsResponse:
        severity = wire.severity(request.severity)
        found, token = await self._datasets.list_findings(
            request.parent, request.page_size, request.page_token, severity, request.codes
        )
        findings = [wire.finding_message(finding) for finding in found]
        return service_pb.ListFindingsResponse(findings=findings, next_page_token=token)

    async def ReadImages(
        self, request: service_pb.ReadImagesRequest, context: Context
    ) -> AsyncIterator[service_pb.ReadImagesResponse]:
        after = request.after_image_id if request.HasField("after_image_id") else None
        category_ids = list[int]()
        pieces = self._datasets.read_images(
            request.parent, request.version, after, annotations_only=request.annotations_only
        )
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Manifest):
                    category_ids = [category.id for category in piece.categories]
                yield wire.images_message(piece, category_ids)

    async def ListDatasetSamples(
        self, request: service_pb.ListDatasetSamplesRequest, context: Context
    ) -> service_pb.ListDatasetSamplesResponse:
        found, token = await self._datasets.samples(
            request.parent, request.per_category, request.image_ids, request.page_size, request.page_token
        )
        return look_wire.samples_message(found, token, with_sizes=not request.page_token)

    async def CompareDatasets(
        self, request: service_pb.CompareDatasetsRequest, context: Context
    ) -> service_pb.CompareDatasetsResponse:
        found = await self._datasets.compare(
            request.training_dataset, request.test_dataset, request.page_size, request.page_token
        )
        return look_wire.comparison_message(found)
