"""The services as a Custom Vision project uses them, in memory."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from PIL import Image

from services.kit.errors import DatasetNotFound, ModelNotFound, UploadNotFound
from sightline.v1 import dataset_service_pb2 as pb
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.model_pb2 import Model
from sightline.v1.model_service_pb2 import ExportHeader, ExportModelResponse, ListModelsResponse, WatchModelResponse
from sightline.v1.upload_pb2 import Upload


def picture(shade: int = 0, size: tuple[int, int] = (80, 60)) -> bytes:
    """A PNG."""
    target = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(target, "PNG")
    return target.getvalue()


@dataclass
class Backing:
    """What the services keep; `answers` are their rpcs."""

    uploads: dict[str, dict[str, bytes]] = field(default_factory=dict)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    @property
    def answers(self) -> dict[str, Any]:
        """The rpcs, by name."""
        names = [name for name in dir(type(self)) if name[0].isupper()]
        return {name: getattr(self, name) for name in names}

    def UploadFiles(self, parts: list[pb.UploadFilesRequest]) -> pb.UploadFilesResponse:
        upload_id = parts[0].header.upload_id
        files, path = self.uploads.setdefault(upload_id, {}), ""
        response = pb.UploadFilesResponse(upload_id=upload_id)
        for part in parts[1:]:
            if part.HasField("file"):
                path = part.file.path
                files[path] = b""
                response.files.append(pb.UploadedFile(path=path, uri=f"s3://sightline/uploads/{upload_id}/{path}"))
            else:
                files[path] += part.chunk
        return response

    def ListUploads(self, request: Any) -> pb.ListUploadsResponse:
        return pb.ListUploadsResponse(uploads=[Upload(name=f"uploads/{one}") for one in sorted(self.uploads)])

    def _files(self, parent: str) -> dict[str, bytes]:
        try:
            return self.uploads[parent.removeprefix("uploads/")]
        except KeyError:
            raise UploadNotFound(name=parent) from None

    def ListUploadedFiles(self, request: Any) -> pb.ListUploadedFilesResponse:
        stored, start = self._files(request.parent), int(request.page_token or 0)
        paths = list(stored)
        files = [pb.UploadedFile(path=path, size_bytes=len(stored[path])) for path in paths[start : start + 3]]
        token = str(start + 3) if start + 3 < len(paths) else ""
        return pb.ListUploadedFilesResponse(files=files, next_page_token=token)

    def ReadUploadedFile(self, request: Any) -> list[pb.ReadUploadedFileResponse]:
        self.reads.append(request.path)
        data = self._files(request.parent)[request.path]
        return [pb.ReadUploadedFileResponse(chunk=data[start : start + 9]) for start in range(0, len(data), 9)]

    def DeleteUpload(self, request: Any) -> None:
        self._files(request.name)
        del self.uploads[request.name.removeprefix("uploads/")]

    def GetDataset(self, request: Any) -> Dataset:
        if request.name not in self.datasets:
            raise DatasetNotFound(name=request.name)
        return self.datasets[request.name]

    def CreateDataset(self, request: Any) -> Dataset:
        assert request.new_version
        name = f"datasets/{request.dataset_id}"
        self.datasets[name] = Dataset(name=name, annotation_file_uris=request.dataset.annotation_file_uris)
        self.datasets[name].annotation_kind = request.dataset.annotation_kind
        return self.datasets[name]

    def DeleteDataset(self, request: Any) -> None:
        self.GetDataset(request)
        del self.datasets[request.name]

    def CreateModel(self, request: Any) -> Model:
        model = Model()
        model.CopyFrom(request.model)
        model.name, model.state = f"models/{request.model_id}", Model.NOT_STARTED
        model.create_time.CopyFrom(Timestamp(seconds=len(self.models)))
        self.models[model.name] = model
        return model

    def GetModel(self, request: Any) -> Model:
        if request.name not in self.models:
            raise ModelNotFound(name=request.name)
        return self.models[request.name]

    def ListModels(self, request: Any) -> ListModelsResponse:
        return ListModelsResponse(models=[self.models[name] for name in sorted(self.models)])

    def UpdateModel(self, request: Any) -> Model:
        model = self.GetModel(request.model)
        model.custom_properties.clear()
        model.custom_properties.update(request.model.custom_properties)
        return model

    def CancelModel(self, request: Any) -> Model:
        self.models[request.name].state = Model.CANCELLED
        return self.models[request.name]

    def WatchModel(self, request: Any) -> list[WatchModelResponse]:
        return [WatchModelResponse(model=self.models[request.name])]

    def DeleteModel(self, request: Any) -> None:
        assert self.models.pop(request.name).state in (Model.SUCCEEDED, Model.FAILED, Model.CANCELLED)

    def ExportModel(self, request: Any) -> list[ExportModelResponse]:
        self.GetModel(request)
        return [
            ExportModelResponse(header=ExportHeader(size_bytes=7)),
            *(ExportModelResponse(chunk=part) for part in (b"the ", b"zip")),
        ]
