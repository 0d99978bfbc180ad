"""The use cases of the dataset api, without gRPC."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from services.dataset import store
from services.dataset.compare import ComparisonPage, Comparisons, Side
from services.dataset.domain import ADVANCE, COLLECTION, MAX_VERSIONS, CategoryCount, DatasetRecord, NewDataset, State
from services.dataset.finding_rules import Severity
from services.dataset.findings import Finding
from services.dataset.finish import category_counts
from services.dataset.images import Piece, read_images
from services.dataset.quotas import Quotas
from services.dataset.samples import Samples, read_samples
from services.dataset.settings import DatasetSettings
from services.dataset.upload_records import UploadRecords
from services.kit import tracing
from services.kit.blobs import Blobs
from services.kit.caller_fields import Changes, check_caller_fields, check_request_id
from services.kit.callers import acting_project
from services.kit.clock import Clock
from services.kit.collection import Collection, create_once
from services.kit.errors import (
    BlobNotFound,
    DatasetAlreadyExists,
    DatasetChanged,
    DatasetInUse,
    DatasetInvalidAnnotationUri,
    DatasetNotFound,
    DatasetNotReady,
    EtagMismatch,
    InvalidPageToken,
    InvalidRequest,
    QuotaExceeded,
    UnreadableUri,
    UploadNotFound,
)
from services.kit.holds import Holds
from services.kit.jobs import Job, announce
from services.kit.log import Log
from services.kit.names import check_id, new_uid, own, parse
from services.kit.paging import check_page_size, decode_token, encode_token, page_of
from services.kit.queue import Queue
from services.kit.records import Versioned
from sightline.plurals import counted

MAX_URIS = 10
MAX_CODES = 100  # in a filter of findings
PATIENCE_SECONDS, LOOK_SECONDS = 3.0, 0.2  # of a deletion, for holds of what has just ended

_log = Log(__name__)


class Datasets:
    """The use cases; errors tell the caller what to do."""

    def __init__(
        self,
        datasets: Collection[DatasetRecord],
        blobs: Blobs,
        queue: Queue,
        clock: Clock,
        settings: DatasetSettings,
        uploads: UploadRecords,
        quotas: Quotas,
        holds: Holds,
    ) -> None:
        self._uploads = uploads
        self._quotas = quotas
        self._holds = holds
        self._datasets = datasets
        self._blobs = blobs
        self._queue = queue
        self._clock = clock
        self._settings = settings
        self._comparisons = Comparisons(blobs)

    async def create(
        self, new: NewDataset, *, validate_only: bool = False, new_version: bool = False
    ) -> Versioned[DatasetRecord]:
        """Registers a dataset and announces its validation; after a crash in between, `reconcile` announces it.

        With `new_version`, a dataset of the name gets the files as its next version.
        """
        draft = self._draft(new, validate_only=validate_only)
        with suppress(DatasetNotFound):
            present = await self._datasets.get(draft.name)
            if present.value.repeats(draft):
                return present
            if new_version:
                return await self._revise(draft, present.value, validate_only=validate_only)

        async def checked() -> DatasetRecord:
            await self._quotas.check()
            await self._check_uris(draft.annotation_file_uris, validate_only=validate_only)
            return draft

        created = await create_once(
            self._datasets,
            draft.name,
            draft.request_id,
            DatasetAlreadyExists(name=draft.name),
            checked,
            is_same=lambda first: first.repeats(draft),
            create=self._quotas.create,
            validate_only=validate_only,
        )
        if created.value is draft and not validate_only:
            await announce(self._queue, ADVANCE, Job(draft.name, draft.generation), f"{draft.uid}:created")
            _log.info("dataset_created", dataset=draft.name, kind=draft.annotation_kind)
        return created

    async def _revise(
        self, draft: DatasetRecord, record: DatasetRecord, *, validate_only: bool
    ) -> Versioned[DatasetRecord]:
        if draft.annotation_kind is not record.annotation_kind:
            problem = f"{record.name} is for {record.annotation_kind}, and so are all its versions."
            raise InvalidRequest(field="dataset.annotation_kind", problem=problem)
        if len(record.versions) >= MAX_VERSIONS - 1:
            problem = f"{record.name} has {MAX_VERSIONS} versions, the most possible; choose another dataset_id."
            raise InvalidRequest(field="new_version", problem=problem)
        if draft.request_id and draft.request_id == record.request_id:  # of a call with other files
            raise DatasetAlreadyExists(name=draft.name)
        now = self._clock.now()
        planned = record.revised(draft, now)
        self._quotas.check_storage(acting_project(), 0)
        await self._check_uris(draft.annotation_file_uris, validate_only=validate_only)
        if validate_only:
            return Versioned(planned, 0)

        def decide(found: DatasetRecord) -> DatasetRecord:
            return found if found.repeats(draft) else found.revised(draft, now)

        revised = await self._datasets.change(draft.name, decide)
        await announce(self._queue, ADVANCE, Job(draft.name, revised.value.generation))
        _log.info("dataset_version_created", dataset=draft.name, version=revised.value.version)
        return revised

    def _draft(self, new: NewDataset, *, validate_only: bool) -> DatasetRecord:
        check_id(new.dataset_id, "dataset_id")
        if new.annotation_kind is None:
            problem = "choose IMAGE_CLASSIFICATION or OBJECT_DETECTION."
            raise InvalidRequest(field="dataset.annotation_kind", problem=problem)
        uris = new.annotation_file_uris
        fewest = 0 if validate_only else 1  # a caller may ask whether a name is free before it uploads
        if not fewest <= len(uris) <= MAX_URIS or len(set(uris)) != len(uris):
            problem = f"{counted(len(uris), 'uri')} given; name 1 to {MAX_URIS} different COCO files."
            raise InvalidRequest(field="dataset.annotation_file_uris", problem=problem)
        check_request_id(new.request_id)
        check_caller_fields("dataset", new.display_name, new.custom_properties)
        now = self._clock.now()
        return DatasetRecord(
            name=own(COLLECTION, new.dataset_id),
            uid=new_uid(),
            annotation_kind=new.annotation_kind,
            annotation_file_uris=uris,
            create_time=now,
            update_time=now,
            display_name=new.display_name,
            custom_properties=new.custom_properties,
            request_id=new.request_id,
            traceparent=tracing.current().traceparent,
        )

    async def _check_uris(self, uris: Sequence[str], *, validate_only: bool) -> None:
        for uri in uris:
            try:
                key = self._settings.reach.key(uri, self._blobs.bucket, acting_project())
                if not validate_only:
                    await self._uploads.use(key)
                info = await self._blobs.stat(key)
            except UnreadableUri as error:
                advice = f"upload the file, then name it as s3://{self._blobs.bucket}/KEY"
                raise DatasetInvalidAnnotationUri(uri=uri, problem=f"{error.metadata['problem']}; {advice}.") from None
            except (BlobNotFound, UploadNotFound):
                problem = "there is no such file in the store; upload it, or correct the uri."
                raise DatasetInvalidAnnotationUri(uri=uri, problem=problem) from None
            limit = self._settings.max_coco_bytes
            if info.size_bytes > limit:
                setting = "SIGHTLINE_MAX_COCO_BYTES"
                raise QuotaExceeded(subject=f"bytes of {uri}", value=info.size_bytes, limit=limit, setting=setting)

    async def get(self, name: str, field: str = "name") -> Versioned[DatasetRecord]:
        """The current dataset; DatasetNotFound."""
        parse(name, COLLECTION, field=field)
        return await self._datasets.get(name)

    async def get_full(self, name: str) -> tuple[Versioned[DatasetRecord], tuple[CategoryCount, ...]]:
        """The current dataset with all categories of its snapshot; DatasetNotFound.

        In DELETING, when the snapshot may be gone, these are the ones that the record lists.
        """
        found = await self.get(name)
        try:
            return found, await self._categories(found.value)
        except BlobNotFound:
            found = await self.get(name)  # it is being deleted since
            return found, await self._categories(found.value)

    async def _categories(self, record: DatasetRecord) -> tuple[CategoryCount, ...]:
        if record.state is State.DELETING or not record.manifest_key:
            return record.stats.categories if record.stats else ()
        return category_counts((await store.get_manifest(self._blobs, record.manifest_key)).categories)

    def page(self, page_size: int, page_token: str) -> tuple[list[Versioned[DatasetRecord]], str]:
        """A page ordered by name, and the next page's token."""
        return page_of(self._datasets.view.all(own(COLLECTION, "")), own(COLLECTION), page_size, page_token)

    async def update(self, name: str, changes: Changes, etag: str) -> Versioned[DatasetRecord]:
        """Changes caller fields; EtagMismatch, WrongState in DELETING."""
        parse(name, COLLECTION, field="dataset.name")

        def decide(record: DatasetRecord) -> DatasetRecord:
            changed = record.updated(record.update_time, **changes)
            return record if changed == record else replace(changed, update_time=self._clock.now())

        return await self._datasets.change(name, decide, etag)

    async def delete(self, name: str, etag: str, *, force: bool = False) -> None:
        """Marks the dataset DELETING and announces its removal.

        If it already is DELETING, whatever the etag, which the first attempt of a call changes: announces it again.
        DatasetInUse, unless `force`; EtagMismatch.
        """
        parse(name, COLLECTION)
        while (marked := await self._datasets.get(name)).value.state is not State.DELETING:
            found = marked
            if etag in ("", found.etag):
                await self._close(name, found.revision, force=force)
            try:
                marked = await self._datasets.change(
                    name, lambda record: record.deleting(self._clock.now()), etag or found.etag
                )
                break
            except EtagMismatch:
                if etag not in ("", found.etag):
                    raise
        await announce(self._queue, ADVANCE, Job(name, marked.value.generation))
        _log.info("dataset_deletion_requested", dataset=name, force=force)

    async def _close(self, name: str, revision: int, *, force: bool) -> None:
        """Closes the dataset's holds; DatasetInUse if they do not end within the patience."""
        until = self._clock.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await self._holds.close(name, revision, self._clock.now(), force=force)
            except DatasetInUse:
                if self._clock.monotonic() >= until:
                    raise
                await self._clock.sleep(LOOK_SECONDS)

    async def watch(self, name: str) -> AsyncIterator[Versioned[DatasetRecord]]:
        """The dataset now and after each change, until it is READY or FAILED; DatasetNotFound once it is deleted."""
        first = await self.get(name)
        async for found in self._datasets.view.follow(name, first):
            if found.value.uid != first.value.uid:
                break
            yield found
            if found.value.state in (State.READY, State.FAILED):
                return
        raise DatasetNotFound(name=name)

    async def read_images(
        self, name: str, version: int, after: int | None, *, annotations_only: bool
    ) -> AsyncGenerator[Piece]:
        """The images of a version, or of the current one if that is 0, as `images.read_images` does.

        DatasetNotFound, also if it is deleted meanwhile; InvalidRequest for a version that it does not have.
        """
        record = (await self.get(name, "parent")).value
        key = _manifest_key(record, version)
        async with self._unless_deleted(record):
            async for piece in read_images(self._blobs, name, key, after, annotations_only=annotations_only):
                yield piece

    @asynccontextmanager
    async def _unless_deleted(self, *records: DatasetRecord) -> AsyncGenerator[None]:
        """DatasetNotFound for a blob that is missing because one of the datasets is being deleted."""
        try:
            yield
        except (BlobNotFound, DatasetChanged):
            for record in records:
                present = (await self._datasets.get(record.name)).value
                if present.uid != record.uid or present.state is State.DELETING:
                    raise DatasetNotFound(name=record.name) from None
            raise

    async def list_findings(
        self, name: str, page_size: int, page_token: str, severity: Severity | None, codes: Sequence[str]
    ) -> tuple[list[Finding], str]:
        """A page of findings, worst first, and the next page's token.

        Empty until validation has ended, and in DELETING.
        """
        record = (await self.get(name, "parent")).value
        size, wanted = check_page_size(page_size), frozenset(codes)
        if len(wanted) > MAX_CODES:
            raise InvalidRequest(field="codes", problem=f"{len(wanted)} codes are more than {MAX_CODES}.")
        scope = "|".join((name, record.findings_key, severity or "", *sorted(wanted)))
        if not record.findings_key or record.state is State.DELETING:
            return [], ""
        chosen: list[Finding] = []
        start = _place(decode_token(scope, page_token), page_token)
        async with self._unless_deleted(record):
            async for place, finding in store.list_findings(self._blobs, record.findings_key, severity, wanted, start):
                if len(chosen) == size:
                    return chosen, encode_token(scope, f"{place[0]}:{place[1]}")
                chosen.append(finding)
        return chosen, ""

    async def samples(
        self, name: str, per_category: int, ids: Sequence[int], page_size: int, page_token: str
    ) -> tuple[Samples, str]:
        """A page of images to look at, and the next page's token; DatasetNotFound, DatasetNotReady."""
        size, side = check_page_size(page_size), await self._side(name, "parent")
        scope = f"{side.record.manifest_key}|{per_category}|{sorted(ids)}"
        start = _number(decode_token(scope, page_token), page_token)
        async with self._unless_deleted(side.record):
            found = await read_samples(self._blobs, side.manifest, per_category, ids, start, size)
        return found, encode_token(scope, str(found.next_start)) if found.next_start else ""

    async def compare(self, training: str, test: str, page_size: int, page_token: str) -> ComparisonPage:
        """A page of the comparison of two READY datasets; DatasetNotFound, DatasetNotReady."""
        size = check_page_size(page_size)
        sides = [await self._side(training, "training_dataset"), await self._side(test, "test_dataset")]
        scope = "|".join(side.record.manifest_key for side in sides)
        start = _number(decode_token(scope, page_token), page_token)
        async with self._unless_deleted(*(side.record for side in sides)):
            whole = await self._comparisons.of(*sides)
        end = min(start + size, len(whole.pairs))
        token = encode_token(scope, str(end)) if end < len(whole.pairs) else ""
        return ComparisonPage(whole, whole.pairs[start:end], start == 0, token)

    async def _side(self, name: str, field: str) -> Side:
        parse(name, COLLECTION, field=field)
        record = (await self._datasets.get(name)).value
        if record.state is not State.READY:
            raise DatasetNotReady(name=name, state=record.state)
        async with self._unless_deleted(record):
            return Side(record, await store.get_manifest(self._blobs, record.manifest_key))


def _number(after: str, token: str) -> int:
    if not after.isdecimal() and after:
        raise InvalidPageToken(token=token)
    return int(after or 0)


def _manifest_key(record: DatasetRecord, version: int) -> str:
    """The manifest of a version; of the current one if `version` is 0."""
    earlier = {one.number: one.manifest_key for one in record.versions}
    if record.state is not State.DELETING and version in earlier:
        return earlier[version]
    if version not in (0, record.version):
        last = record.version if record.state is State.READY else len(earlier)
        raise InvalidRequest(field="version", problem=f"{record.name} has the versions 1 to {last}, not {version}.")
    if record.state is not State.READY:
        raise DatasetNotReady(name=record.name, state=record.state)
    return record.manifest_key


def _place(after: str, token: str) -> tuple[int, int]:
    if not after:
        return 0, 0
    try:
        block, offset = after.split(":")
        return int(block), int(offset)
    except ValueError:
        raise InvalidPageToken(token=token) from None
