"""Uploads as resources: who began one, how much it holds, and when it goes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from services.dataset import metrics
from services.dataset.domain import DatasetRecord
from services.dataset.quotas import Quotas
from services.dataset.settings import DatasetSettings
from services.dataset.uploaded_files import UploadedFile, listed
from services.kit import names
from services.kit.blobs import Blobs, from_uri
from services.kit.callers import current
from services.kit.clock import Clock
from services.kit.collection import Collection
from services.kit.errors import (
    EtagMismatch,
    InvalidPageToken,
    LeaseLost,
    NotFound,
    QuotaExceeded,
    RecordExists,
    SightlineError,
    UnreadableUri,
    UploadAlreadyExists,
    UploadNotFound,
    WrongState,
)
from services.kit.log import Log, about
from services.kit.paging import check_page_size, decode_token, encode_token, page_of
from services.kit.quotas import require_one_more
from services.kit.reach import UPLOADS
from services.kit.records import Versioned
from services.kit.roles import Role
from services.kit.tasks import repeat
from services.kit.telemetry import Telemetry
from services.kit.views import View

_log = Log(__name__)


class UploadState(StrEnum):
    """ACTIVE ──▶ DELETING ──▶ (gone)."""

    ACTIVE = "ACTIVE"
    DELETING = "DELETING"


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """An upload, whose files are the blobs under its name."""

    name: str
    uid: str
    owner: str  # who may add to it: the caller who began it, empty without authentication
    create_time: datetime
    update_time: datetime  # when a file was last stored, or a dataset registered from it
    size_bytes: int = 0
    file_count: int = 0
    state: UploadState = UploadState.ACTIVE
    remover: str = ""  # a random id of the call or pass that removes it

    @property
    def prefix(self) -> str:
        """The prefix of its blobs."""
        return f"{self.name}/"

    def used(self, now: datetime, size_bytes: int = 0, file_count: int = 0) -> UploadRecord:
        """After that many more bytes and files; WrongState in DELETING."""
        if self.state is not UploadState.ACTIVE:
            raise WrongState(name=self.name, state=self.state, verb="adding files", allowed="ACTIVE")
        size, count = self.size_bytes + size_bytes, self.file_count + file_count
        return replace(self, update_time=now, size_bytes=size, file_count=count)


def upload_of(key: str) -> str:
    """The name of the upload that a blob is in; empty if it is in none."""
    project, local = names.split(key)
    parts = local.split("/")
    is_in_one = parts[0] == UPLOADS and len(parts) > 2 and names.is_id(parts[1])
    return names.root(project) + "/".join(parts[:2]) if is_in_one else ""


@dataclass(frozen=True, slots=True)
class UploadRecords:
    """The use cases, apart from receiving files."""

    uploads: Collection[UploadRecord]
    blobs: Blobs
    clock: Clock
    settings: DatasetSettings
    quotas: Quotas

    async def begin(self, upload_id: str) -> UploadRecord:
        """The upload of this id in the caller's project, created if there is none.

        UploadAlreadyExists if another caller began it, or an earlier version stored files under the id; WrongState
        while it is being deleted; ProjectQuotaExceeded for a new one if the project has as many as it may.
        """
        name, owner, now = names.own(UPLOADS, upload_id), _caller(), self.clock.now()
        with suppress(UploadNotFound):
            return _owned((await self.uploads.get(name)).value, owner).used(now)
        async for _ in self.blobs.list(f"{name}/"):
            raise UploadAlreadyExists(name=name, problem="has files of an earlier version")
        self._check_number(names.split(name)[0])
        draft = UploadRecord(name, names.new_uid(), owner, now, now)
        try:
            return (await self.uploads.create(draft)).value
        except RecordExists:
            return _owned((await self.uploads.get(name)).value, owner).used(now)

    async def add(self, record: UploadRecord, size_bytes: int, file_count: int) -> UploadRecord:
        """Counts stored files; UploadNotFound or WrongState if the upload has been deleted meanwhile."""

        def decide(present: UploadRecord) -> UploadRecord:
            if present.uid != record.uid:
                raise UploadNotFound(name=record.name)
            return present.used(self.clock.now(), size_bytes, file_count)

        return (await self.uploads.change(record.name, decide)).value

    async def has_successor(self, record: UploadRecord) -> bool:
        """Whether there is a later upload of the name, with whose files everything at the prefix goes."""
        with suppress(UploadNotFound):
            return (await self.uploads.get(record.name)).value.uid != record.uid
        return False

    def check_room(self, name: str, size_bytes: int, file_count: int) -> None:
        """QuotaExceeded if so much more in the upload's project, or in all, would be above a limit.

        Streams count their files in batches, so that a limit may be passed by one batch each.
        """
        project, limits, held = names.split(name)[0], self.settings, self.quotas.uploads
        checks = (
            ("bytes", held.bytes, size_bytes, limits.max_project_upload_bytes, limits.max_total_upload_bytes),
            ("files", held.files, file_count, limits.max_project_upload_files, limits.max_total_upload_files),
        )
        for what, sums, more, own_limit, total_limit in checks:
            of_projects = sums.by_project()
            for whose, present, limit, setting in (
                (f"all uploads of project {project}", of_projects[project], own_limit, "PROJECT"),
                ("all uploads", of_projects.total(), total_limit, "TOTAL"),
            ):
                if present + more > limit:
                    raise QuotaExceeded(
                        subject=f"{what} of {whose}",
                        value=present + more,
                        limit=limit,
                        setting=f"SIGHTLINE_MAX_{setting}_UPLOAD_{what.upper()}",
                    )
        self.quotas.check_storage(project, size_bytes)

    def _check_number(self, project: str) -> None:
        """ProjectQuotaExceeded if the project has as many uploads as it may, with files or without.

        Each call at the same time may pass that by one.
        """
        count, limit = self.quotas.uploads.number.by_project()[project], self.settings.max_project_uploads
        remedy = "Delete uploads that nobody needs, or ask an operator for a higher limit."
        require_one_more("uploads", project, count, limit, "SIGHTLINE_MAX_PROJECT_UPLOADS", remedy)

    async def use(self, key: str) -> None:
        """Keeps the upload of a blob from expiring, as a dataset is about to name it; UploadNotFound if it is going."""
        name = upload_of(key)
        try:
            if name:
                await self.uploads.change(name, lambda present: present.used(self.clock.now()))
        except UploadNotFound:
            return  # of an earlier version, which kept no record
        except WrongState:
            raise UploadNotFound(name=name) from None

    def page(self, page_size: int, page_token: str) -> tuple[list[Versioned[UploadRecord]], str]:
        """One page of the project's uploads, by name."""
        return page_of(self.uploads.view.all(names.own(UPLOADS, "")), names.own(UPLOADS), page_size, page_token)

    async def files(self, name: str, page_size: int, page_token: str) -> tuple[list[UploadedFile], str]:
        """A page of an upload's files, and the next page's token; UploadNotFound."""
        names.parse(name, UPLOADS, field="parent")
        record = (await self.uploads.get(name)).value
        size, scope = check_page_size(page_size), f"{record.name}|{record.uid}"
        key, _, number = decode_token(scope, page_token).rpartition(":")
        if page_token and not number.isdecimal():
            raise InvalidPageToken(token=page_token)
        chosen: list[UploadedFile] = []
        async for place, file in listed(self.blobs, record.prefix, (key, int(number or 0))):
            if len(chosen) == size:
                return chosen, encode_token(scope, f"{place[0]}:{place[1]}")
            chosen.append(file)
        return chosen, ""

    async def delete(self, name: str) -> None:
        """Removes an upload and its files; UploadNotFound.

        Only who began it, or an admin, may: for another caller it is UploadAlreadyExists.
        """
        names.parse(name, UPLOADS)
        _owned((await self.uploads.get(name)).value, _caller())
        await self.remove(name)

    async def remove(self, name: str, etag: str = "") -> None:
        """Removes the files, then the record, unless another call does that already; EtagMismatch, UploadNotFound.

        Nothing of a later upload of the name is removed, as there is none before the record is gone: a call that stood
        still for so long that another took over stops.
        """
        remover, now = names.new_uid(), self.clock.now()

        def claim(present: UploadRecord) -> UploadRecord:
            if present.state is UploadState.DELETING and now - present.update_time <= INTERRUPTED:
                return present
            return replace(present, state=UploadState.DELETING, update_time=now, remover=remover)

        record = (await self.uploads.change(name, claim, etag)).value
        claimed = self.clock.monotonic()
        if record.remover != remover:
            return
        with suppress(LeaseLost, EtagMismatch, NotFound):
            async for blob in self.blobs.list(record.prefix):
                if self.clock.monotonic() - claimed >= RENEWED_SECONDS:
                    await self._renew(record)
                    claimed = self.clock.monotonic()
                await self.blobs.delete(blob.key)
            await self.uploads.delete(name, (await self._renew(record)).etag)

    async def _renew(self, record: UploadRecord) -> Versioned[UploadRecord]:
        """Says that the removal goes on; LeaseLost if another has taken it over, UploadNotFound."""

        def decide(present: UploadRecord) -> UploadRecord:
            if present.remover != record.remover:
                raise LeaseLost(name=record.name, epoch=0)
            return replace(present, update_time=self.clock.now())

        return await self.uploads.change(record.name, decide)

    async def expire(self, found: Versioned[UploadRecord]) -> None:
        """Removes the upload unless it has been used since it was found."""
        with suppress(EtagMismatch, NotFound):
            await self.remove(found.value.name, found.etag)


@dataclass(frozen=True, slots=True)
class UploadReconciler:
    """Removes uploads that no dataset names any more, and those whose deletion was interrupted.

    None expires while there is a dataset whose record this release cannot read: it may name any of them.
    Safe in several replicas, and beside CreateDataset: that marks the upload as used before it creates the dataset,
    and an upload is removed only at the revision at which it was found unused for `upload_expiry_hours`.
    """

    records: UploadRecords
    datasets: View[DatasetRecord]
    telemetry: Telemetry

    async def run(self, every_seconds: float) -> None:
        """Reconciles until cancelled, once the views are synced."""
        await self.datasets.synced()
        await self.records.uploads.view.synced()
        await repeat(self.reconcile, partial(self.records.clock.sleep, every_seconds))

    async def reconcile(self) -> None:
        """One pass; errors are logged, and the next pass tries again."""
        now = self.records.clock.now()
        if self.datasets.unreadable:
            _log.warning("upload_expiry_paused", unreadable=len(self.datasets.unreadable))
        named = {upload_of(key) for found in self.datasets.all() for key in self._keys(found.value)}
        for found in self.records.uploads.view.all():
            upload = found.value
            age = now - upload.update_time
            with about(upload.name):
                try:
                    if upload.state is UploadState.DELETING and age > INTERRUPTED:
                        await self.records.remove(upload.name)
                    elif self._is_unused(upload, age, named):
                        await self.records.expire(found)
                        self.telemetry.add(metrics.EXPIRED)
                        _log.info("upload_expired", bytes=upload.size_bytes, files=upload.file_count)
                except SightlineError as error:
                    _log.info("housekeeping_postponed", problem=error.message)

    def _is_unused(self, upload: UploadRecord, age: timedelta, named: set[str]) -> bool:
        limit = timedelta(hours=self.records.settings.upload_expiry_hours)
        expired = age > (limit if upload.file_count else min(limit, EMPTY))
        return (
            upload.state is UploadState.ACTIVE and expired and upload.name not in named and not self.datasets.unreadable
        )

    def _keys(self, dataset: DatasetRecord) -> list[str]:
        keys: list[str] = []
        for uri in dataset.annotation_file_uris:
            with suppress(UnreadableUri):  # of another bucket, before it was renamed
                keys.append(from_uri(uri, self.records.blobs.bucket))
        return keys


EMPTY = timedelta(days=1)  # after which an upload without files goes: none takes as long to send its first ones
INTERRUPTED = timedelta(minutes=10)  # after which nobody is still removing an upload
RENEWED_SECONDS = 60.0  # between two reports that it is still being removed


def _caller() -> str:
    caller = current.get()
    return caller.name if caller else ""


def _owned(record: UploadRecord, owner: str) -> UploadRecord:
    caller = current.get()
    if record.owner != owner and not (caller and Role.ADMIN in caller.roles):
        raise UploadAlreadyExists(name=record.name, problem="was begun by another caller")
    return record
