"""Datasets and their findings."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from sightline.client.errors import SightlineError
from sightline.client.results.convert import failure, given, moment
from sightline.client.results.kinds import DatasetKind, DatasetState, Severity, word
from sightline.v1 import dataset_pb2, finding_pb2

KINDS = {
    DatasetKind.CLASSIFICATION: dataset_pb2.Dataset.IMAGE_CLASSIFICATION,
    DatasetKind.DETECTION: dataset_pb2.Dataset.OBJECT_DETECTION,
}
_KIND_OF = {number: kind for kind, number in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Category:
    """How often one category occurs in a dataset."""

    name: str
    image_count: int  # images with at least one annotation of it
    annotation_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetVersion:
    """An earlier version of a dataset, whose images are kept."""

    version: int
    image_count: int
    annotation_count: int
    snapshot_digest: str
    create_time: datetime | None  # when its files were registered

    @classmethod
    def of(cls, message: dataset_pb2.DatasetVersion) -> Self:
        """The content of the message."""
        return cls(
            version=message.version,
            image_count=message.image_count,
            annotation_count=message.annotation_count,
            snapshot_digest=message.snapshot_digest,
            create_time=moment(message.create_time),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetData:
    """Labelled images: COCO files and the images they name, checked once and then frozen."""

    name: str  # `datasets/birds`
    state: DatasetState
    kind: DatasetKind
    display_name: str
    fraction_done: float  # of validation, 0..1
    image_count: int | None  # in the snapshot; None until it is READY
    annotation_count: int | None
    size_bytes: int | None  # of the original images
    category_count: int | None
    categories: tuple[Category, ...]  # by id; all of them from `get`, otherwise at most 100
    error_count: int  # findings, by severity
    warning_count: int
    info_count: int
    version: int  # that the fields are about
    earlier_versions: tuple[DatasetVersion, ...]  # from `get` alone
    snapshot_digest: str  # the same files give the same digest
    error: SightlineError | None  # why it is FAILED
    create_time: datetime | None
    update_time: datetime | None
    message: dataset_pb2.Dataset = field(repr=False, compare=False)
    owner: Any = field(default=None, repr=False, compare=False)  # `datasets` of the client that returned it

    @classmethod
    def of(cls, message: dataset_pb2.Dataset, owner: Any = None) -> Self:
        """The content of the message."""
        stats = message.stats if message.HasField("stats") else None
        return cls(
            name=message.name,
            state=word(DatasetState, dataset_pb2.Dataset.State, message.state),
            kind=_KIND_OF.get(message.annotation_kind, DatasetKind.UNKNOWN),
            display_name=message.display_name,
            fraction_done=message.progress.fraction,
            image_count=stats.image_count if stats else None,
            annotation_count=stats.annotation_count if stats else None,
            category_count=stats.category_count if stats else None,
            size_bytes=stats.byte_count if stats else None,
            categories=tuple(Category(c.name, c.image_count, c.annotation_count) for c in message.stats.categories),
            error_count=message.finding_counts.error,
            warning_count=message.finding_counts.warning,
            info_count=message.finding_counts.info,
            version=message.version,
            earlier_versions=tuple(map(DatasetVersion.of, message.earlier_versions)),
            snapshot_digest=message.snapshot_digest,
            error=failure(message),
            create_time=moment(message.create_time),
            update_time=moment(message.update_time),
            message=message,
            owner=owner,
        )


class Dataset(DatasetData):
    """A dataset that a `Client` returned."""

    __slots__ = ()

    def wait(self) -> "Dataset":
        """Waits until it is READY and returns it so; raises the error of one that ends as FAILED."""
        waited: Dataset = self.owner.wait(self)
        return waited


class AsyncDataset(DatasetData):
    """A dataset that an `AsyncClient` returned."""

    __slots__ = ()

    async def wait(self) -> "AsyncDataset":
        """Waits until it is READY and returns it so; raises the error of one that ends as FAILED."""
        waited: AsyncDataset = await self.owner.wait(self)
        return waited


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that registration noticed in a dataset, or an evaluation in its test dataset."""

    severity: Severity
    code: str  # a stable word, such as `imageUndecodable`
    file: str  # as the annotation file names it; empty if it concerns no file
    image_id: int | None  # in the annotation file
    annotation_id: int | None
    other_file: str  # the image that this one repeats; empty if it repeats none
    other_image_id: int | None
    text: str  # what is wrong, with the values that show it
    remedy: str  # what to do about it
    message: finding_pb2.Finding = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: finding_pb2.Finding) -> Self:
        """The content of the message."""
        return cls(
            severity=word(Severity, finding_pb2.Finding.Severity, message.severity),
            code=message.code,
            file=message.file,
            image_id=given(message, "image_id"),
            annotation_id=given(message, "annotation_id"),
            other_file=message.other_file,
            other_image_id=given(message, "other_image_id"),
            text=message.message,
            remedy=message.remedy,
            message=message,
        )
