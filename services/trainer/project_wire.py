"""Projects as protobuf messages."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from services.kit.quotas import month_around
from services.kit.status import to_duration, to_timestamp
from services.trainer.projects import Project
from sightline.v1 import project_pb2 as pb


def project_message(project: Project, roles: Iterable[str], now: datetime) -> pb.Project:
    """The project as its caller with these roles sees it."""
    limits, (begin, end) = project.limits, month_around(now)
    return pb.Project(
        project_id=project.name,
        roles=sorted(roles),
        datasets=pb.CountQuota(used=project.datasets, limit=limits.datasets or None),
        models=pb.CountQuota(used=project.models, limit=limits.models or None),
        storage=pb.StorageQuota(
            used_bytes=project.storage_bytes,
            limit_bytes=limits.storage_bytes or None,
            upload_bytes=project.upload_bytes,
            dataset_bytes=project.dataset_bytes,
            model_bytes=project.model_bytes,
            prediction_bytes=project.prediction_bytes,
        ),
        compute=pb.ComputeQuota(
            used=to_duration(project.compute.charged),
            reserved=to_duration(project.compute.reserved),
            limit=to_duration(timedelta(seconds=limits.compute_seconds)) if limits.compute_seconds else None,
            period_start_time=to_timestamp(begin),
            period_end_time=to_timestamp(end),
        ),
    )
