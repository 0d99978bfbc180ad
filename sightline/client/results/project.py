"""Projects: what they have in use, and their quotas."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from sightline.client.results.convert import given, moment, span
from sightline.v1 import project_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class CountQuota:
    """A quota of resources."""

    used: int
    limit: int | None  # None: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageQuota:
    """The quota of storage."""

    used_bytes: int
    limit_bytes: int | None  # None: there is none
    upload_bytes: int
    dataset_bytes: int  # packed images
    model_bytes: int  # bundles
    prediction_bytes: int  # results of batch predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeQuota:
    """The quota of compute in the current month, in time on the reference device."""

    used: timedelta  # charged
    reserved: timedelta  # what work that has not ended may still be charged
    limit: timedelta | None  # None: there is none
    period_start_time: datetime | None
    period_end_time: datetime | None

    @property
    def left(self) -> timedelta | None:
        """The largest budget that a new model can have; None without a limit."""
        return None if self.limit is None else max(timedelta(), self.limit - self.used - self.reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """One project, as its caller sees it."""

    project_id: str
    roles: tuple[str, ...]  # of the caller; empty without authentication
    datasets: CountQuota
    models: CountQuota
    storage: StorageQuota
    compute: ComputeQuota
    message: project_pb2.Project = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: project_pb2.Project) -> Self:
        """The content of the message."""
        storage, compute = message.storage, message.compute
        return cls(
            project_id=message.project_id,
            roles=tuple(message.roles),
            datasets=_count(message.datasets),
            models=_count(message.models),
            storage=StorageQuota(
                used_bytes=storage.used_bytes,
                limit_bytes=given(storage, "limit_bytes"),
                upload_bytes=storage.upload_bytes,
                dataset_bytes=storage.dataset_bytes,
                model_bytes=storage.model_bytes,
                prediction_bytes=storage.prediction_bytes,
            ),
            compute=ComputeQuota(
                used=span(compute.used),
                reserved=span(compute.reserved),
                limit=span(compute.limit) if compute.HasField("limit") else None,
                period_start_time=moment(compute.period_start_time),
                period_end_time=moment(compute.period_end_time),
            ),
            message=message,
        )


def _count(message: project_pb2.CountQuota) -> CountQuota:
    return CountQuota(used=message.used, limit=given(message, "limit"))
