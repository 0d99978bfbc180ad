"""An export: a bundle that a worker writes in another format, once, for whoever asks for it."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import msgspec
from msgspec.structs import replace

from services.kit.names import parent, split
from services.trainer.domain import Model, Served
from services.trainer.origin import Origin
from services.trainer.work import Work
from services.vision.exports.formats import ExportFormat

ALLOWANCE = timedelta(minutes=30)  # of the work, which takes seconds to a few minutes
OUTDATED = timedelta(hours=1)  # after which an archive of a version that is no longer served is removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """The file that a worker has made."""

    key: str  # in the store
    file_name: str
    size_bytes: int
    sha256: str
    max_difference: float  # from the predictor's scores, on drawn pictures


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """`models/{model}/exports/{export}`: one version of a model in one format. Nobody pays for it.

    Its name follows from the version and the format, so equal calls share one.
    """

    name: str
    model_uid: str
    model_version: str
    bundle_key: str
    bundle_digest: str = ""  # empty of earlier versions
    bundle_signature: str = ""  # empty without a signing key
    format: ExportFormat
    work: Work
    update_time: datetime
    archive: Archive | None = None

    @property
    def model(self) -> str:
        """The model's name."""
        return parent(self.name)

    @property
    def public_model(self) -> str:
        """The model's name as callers of its project see it."""
        return split(self.model)[1]

    @property
    def delivered(self) -> Archive:
        """The archive of one that has succeeded."""
        assert self.archive is not None, f"{self.name} is {self.work.state}"
        return self.archive

    @property
    def blob_prefix(self) -> str:
        """Prefix of its blobs: under the model's, so that they are deleted with it."""
        model, _, id_ = self.name.partition("/exports/")
        return f"{model}/{self.model_uid}/exports/{id_}/"

    def with_work(self, work: Work, now: datetime) -> Self:
        """The export with changed work; itself if the work is the same."""
        return self if work is self.work else replace(self, work=work, update_time=now)

    def is_wanted(self, model: Model, now: datetime) -> bool:
        """Whether it is of this model, and of the version that it serves or served a while ago."""
        if model.uid != self.model_uid:
            return False
        current = model.served is not None and model.served.version == self.model_version
        return current or not self.work.end_time or now < self.work.end_time + OUTDATED


def drafted(model: Model, served: Served, form: ExportFormat, now: datetime) -> Export:
    """The export of what the model serves now."""
    version = hashlib.sha256(f"{model.uid}/{served.version}".encode()).hexdigest()[:16]
    return Export(
        name=f"{model.name}/exports/{form.value}-{version}",
        model_uid=model.uid,
        model_version=served.version,
        bundle_key=served.bundle_key,
        bundle_digest=served.bundle_digest,
        bundle_signature=served.bundle_signature,
        format=form,
        work=Work(create_time=now, allowance=ALLOWANCE, origin=Origin.current()),
        update_time=now,
    )
