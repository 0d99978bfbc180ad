"""Translates between the contract's messages and the dataset service's domain."""

from collections.abc import Sequence

from services.dataset.domain import CategoryCount, DatasetRecord, NewDataset, Stats
from services.dataset.finding_rules import Severity
from services.dataset.findings import Finding
from services.dataset.images import Piece
from services.dataset.upload import File, Header, Part, Uploaded
from services.dataset.upload_records import UploadRecord
from services.kit.blobs import to_uri
from services.kit.errors import InvalidRequest
from services.kit.records import Versioned
from services.kit.status import failure_to_status, to_timestamp
from services.vision.snapshot import AnnotationKind, Manifest, Record
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import dataset_service_pb2 as service_pb
from sightline.v1 import finding_pb2
from sightline.v1 import upload_pb2 as upload_pb


def dataset_message(
    found: Versioned[DatasetRecord], bucket: str, categories: tuple[CategoryCount, ...] | None = None
) -> pb.Dataset:
    """The dataset's message; with `categories`, if given, instead of the record's."""
    record = found.value
    return pb.Dataset(
        name=record.name,
        display_name=record.display_name,
        annotation_kind=pb.Dataset.AnnotationKind.Value(record.annotation_kind),
        annotation_file_uris=record.annotation_file_uris,
        custom_properties=record.custom_properties,
        state=pb.Dataset.State.Value(record.state),
        progress=pb.DatasetProgress(
            phase=pb.DatasetProgress.Phase.Value(record.phase),
            images_done=record.images_done,
            images_total=record.images_total,
            fraction=record.fraction,
        ),
        stats=_stats(record.stats, categories) if record.stats else None,
        finding_counts=pb.FindingCounts(
            error=record.finding_counts.error,
            warning=record.finding_counts.warning,
            info=record.finding_counts.info,
        ),
        snapshot_digest=record.snapshot_digest,
        box_convention=pb.Dataset.BoxConvention.Value(record.box_convention),
        error=failure_to_status(record.error) if record.error else None,
        create_time=to_timestamp(record.create_time),
        update_time=to_timestamp(record.update_time),
        etag=found.etag if found.revision else "",
        snapshot_uri=to_uri(bucket, record.manifest_key) if record.manifest_key else "",
        version=record.version,
    )


def full_message(found: Versioned[DatasetRecord], bucket: str, categories: tuple[CategoryCount, ...]) -> pb.Dataset:
    """The dataset's message in view FULL."""
    message = dataset_message(found, bucket, categories)
    for one in found.value.versions:
        message.earlier_versions.add(
            version=one.number,
            snapshot_digest=one.snapshot_digest,
            snapshot_uri=to_uri(bucket, one.manifest_key),
            image_count=one.image_count,
            annotation_count=one.annotation_count,
            create_time=to_timestamp(one.create_time),
        )
    return message


def _stats(stats: Stats, categories: tuple[CategoryCount, ...] | None) -> pb.DatasetStats:
    listed = stats.categories if categories is None else categories
    return pb.DatasetStats(
        image_count=stats.image_count,
        annotation_count=stats.annotation_count,
        category_count=stats.category_count,
        byte_count=stats.byte_count,
        categories=[
            pb.CategoryStats(name=c.name, image_count=c.image_count, annotation_count=c.annotation_count)
            for c in listed
        ],
    )


def new_dataset(request: service_pb.CreateDatasetRequest) -> NewDataset:
    """The caller's request."""
    dataset = request.dataset
    return NewDataset(
        dataset_id=request.dataset_id,
        annotation_kind=_kind(dataset.annotation_kind),
        annotation_file_uris=tuple(dataset.annotation_file_uris),
        display_name=dataset.display_name,
        custom_properties=dict(dataset.custom_properties),
        request_id=request.request_id,
    )


def _kind(value: pb.Dataset.AnnotationKind.ValueType) -> AnnotationKind | None:
    kinds = {
        pb.Dataset.IMAGE_CLASSIFICATION: AnnotationKind.IMAGE_CLASSIFICATION,
        pb.Dataset.OBJECT_DETECTION: AnnotationKind.OBJECT_DETECTION,
    }
    return kinds.get(value)


def finding_message(finding: Finding) -> finding_pb2.Finding:
    """The finding's message."""
    return finding_pb2.Finding(
        severity=finding_pb2.Finding.Severity.Value(finding.severity),
        code=finding.code,
        file=finding.file,
        image_id=finding.image_id,
        annotation_id=finding.annotation_id,
        message=finding.message,
        remedy=finding.remedy,
        other_file=finding.other_file,
        other_image_id=finding.other_image_id,
    )


def severity(value: finding_pb2.Finding.Severity.ValueType) -> Severity | None:
    """The severity to filter by; None for all. InvalidRequest for an unknown value."""
    if value == finding_pb2.Finding.SEVERITY_UNSPECIFIED:
        return None
    if value not in finding_pb2.Finding.Severity.values():
        raise InvalidRequest(field="severity", problem=f"{value} is not a severity.")
    return Severity(finding_pb2.Finding.Severity.Name(value))


def part(request: service_pb.UploadFilesRequest) -> Part:
    """One message of an upload."""
    match request.WhichOneof("part"):
        case "header":
            return Header(request.header.upload_id)
        case "file":
            return File(request.file.path, request.file.sha256, request.file.size_bytes)
        case "chunk":
            return request.chunk
        case _:
            raise InvalidRequest(field="part", problem="a message must have a header, file or chunk.")


def upload_message(upload: UploadRecord, bucket: str) -> upload_pb.Upload:
    """An upload as callers see it."""
    return upload_pb.Upload(
        name=upload.name,
        state=upload_pb.Upload.State.Value(upload.state),
        owner=upload.owner,
        base_uri=to_uri(bucket, upload.name),
        file_count=upload.file_count,
        size_bytes=upload.size_bytes,
        create_time=to_timestamp(upload.create_time),
        update_time=to_timestamp(upload.update_time),
    )


def uploaded_message(uploaded: Uploaded) -> service_pb.UploadFilesResponse:
    """The upload's message."""
    return service_pb.UploadFilesResponse(
        upload_id=uploaded.upload_id,
        max_image_bytes=uploaded.max_image_bytes,
        base_uri=uploaded.base_uri,
        files=[
            service_pb.UploadedFile(
                path=stored.file.path, uri=stored.uri, size_bytes=stored.file.size_bytes, sha256=stored.file.sha256
            )
            for stored in uploaded.files
        ],
    )


def images_message(piece: Piece, category_ids: Sequence[int]) -> service_pb.ReadImagesResponse:
    """One message of ReadImages; records have indices into `category_ids`."""
    if isinstance(piece, bytes):
        return service_pb.ReadImagesResponse(chunk=piece)
    if isinstance(piece, Manifest):
        return service_pb.ReadImagesResponse(snapshot=_snapshot(piece))
    images = [_image(record, category_ids) for record in piece.records]
    return service_pb.ReadImagesResponse(images=images)


def _snapshot(manifest: Manifest) -> service_pb.Snapshot:
    return service_pb.Snapshot(
        digest=manifest.digest,
        annotation_kind=pb.Dataset.AnnotationKind.Value(manifest.kind),
        categories=[service_pb.SnapshotCategory(id=one.id, name=one.name) for one in manifest.categories],
        image_count=manifest.image_count,
    )


def _image(record: Record, category_ids: Sequence[int]) -> service_pb.SnapshotImage:
    return service_pb.SnapshotImage(
        image_id=record.image_id,
        file_name=record.file_name,
        width=record.width,
        height=record.height,
        size_bytes=record.size,
        sha256=record.sha256,
        extension=record.extension,
        category_id=category_ids[record.labels[0]] if record.labels else None,
        boxes=[
            service_pb.SnapshotBox(
                category_id=category_ids[box.category],
                x=box.x,
                y=box.y,
                width=box.w,
                height=box.h,
                is_crowd=box.iscrowd,
            )
            for box in record.boxes
        ],
    )
