"""The dataset service as the trainer sees it, over gRPC."""

from typing import TYPE_CHECKING

from services.kit.blobs import from_uri
from services.kit.errors import DatasetNotFound, SightlineError, Unavailable
from services.trainer.datasets import Dataset, DatasetState
from sightline.v1 import dataset_pb2
from sightline.v1 import dataset_service_pb2 as pb

if TYPE_CHECKING:  # the asynchronous stub exists only in the type stubs
    from sightline.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub

TIMEOUT_SECONDS = 5.0


class GrpcDatasets:
    """The port `Datasets` over the DatasetService; the channel turns statuses into errors of our tree."""

    def __init__(self, stub: "DatasetServiceAsyncStub", bucket: str) -> None:
        self._stub = stub
        self._bucket = bucket

    async def get(self, name: str) -> Dataset:
        request = pb.GetDatasetRequest(name=name, view=dataset_pb2.Dataset.FULL)
        try:
            message = await self._stub.GetDataset(request, timeout=TIMEOUT_SECONDS)
        except (DatasetNotFound, Unavailable):
            raise
        except SightlineError as error:  # a timeout, or an error of the service: either way there is no answer
            raise Unavailable(what="The dataset service", problem=error.message) from error
        return Dataset(
            name=message.name,
            state=DatasetState(dataset_pb2.Dataset.State.Name(message.state)),
            annotation_kind=dataset_pb2.Dataset.AnnotationKind.Name(message.annotation_kind),
            image_count=message.stats.image_count,
            categories=tuple(
                (category.name, category.image_count, category.annotation_count)
                for category in message.stats.categories
            ),
            digest=message.snapshot_digest,
            manifest_key=from_uri(message.snapshot_uri, self._bucket) if message.snapshot_uri else "",
            revision=int(message.etag or 0),
            version=message.version,
            phase=dataset_pb2.DatasetProgress.Phase.Name(message.progress.phase),
            images_done=message.progress.images_done,
            images_total=message.progress.images_total,
            fraction=message.progress.fraction,
        )
