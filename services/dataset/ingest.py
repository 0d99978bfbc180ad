"""Advances a dataset: reads its files, publishes its chunks, finishes its validation, or removes it.

`advance` does what the record says is next, so that a lost, late or repeated job does no harm.
"""

from services.dataset import metrics, store
from services.dataset.context import WorkerContext
from services.dataset.domain import DatasetRecord, Plan, State
from services.dataset.findings import FindingLog
from services.dataset.finish import finish
from services.dataset.jobs import publish_advance, publish_chunk
from services.dataset.plan import Reading, make_plan
from services.dataset.settings import DatasetSettings
from services.kit.blobs import delete_prefix
from services.kit.consume import DEAD_LETTERS
from services.kit.errors import (
    DatasetAnnotationsInvalid,
    DatasetEmpty,
    LeaseLost,
    PoisonWork,
    QuotaExceeded,
    RecordNotFound,
    SightlineError,
    WrongState,
)
from services.kit.leases import LeaseGuard, leased
from services.kit.log import Log, about
from services.kit.queue import MAX_DELIVERIES

DatasetGuard = LeaseGuard[DatasetRecord]

_log = Log(__name__)
Refused = (DatasetAnnotationsInvalid, DatasetEmpty, QuotaExceeded)


async def advance(context: WorkerContext, settings: DatasetSettings, name: str) -> None:
    """Does what is due; nothing if the dataset is gone, READY or FAILED. LeaseLost while another worker holds it."""
    try:
        found = await context.table.get(name)
    except RecordNotFound:
        return
    record = found.value
    with about(name):
        if record.state is State.DELETING:
            await _remove(context, settings, name, found.revision)
        elif record.state is State.VALIDATING and record.plan and not record.is_checked:
            await _publish_missing(context, record)
        elif record.state is State.VALIDATING:
            await _validate(context, settings, name)


async def _validate(context: WorkerContext, settings: DatasetSettings, name: str) -> None:
    held = False
    try:
        async with leased(context.table, name, context.holder, context.clock, settings.lease) as guard:
            held = True
            if guard.record.plan is None:
                record = await _plan(context, settings, guard)
            elif guard.record.is_checked:
                record = await _finish(context, settings, guard, guard.record.plan)
            else:
                record = guard.record
    except (LeaseLost, WrongState) as error:
        if held and isinstance(error, LeaseLost):
            context.telemetry.add(metrics.LEASES_LOST)
        await _yield_to_deletion(context, name)
        return
    if record.state is State.VALIDATING:
        await _publish_missing(context, record)
    else:
        context.telemetry.add(metrics.VALIDATED, state=record.state)
        _log.info("dataset_validated", state=record.state, images=record.images_total)


async def _yield_to_deletion(context: WorkerContext, name: str) -> None:
    """Publishes the next job for a deletion that was requested while this worker had the lease."""
    try:
        record = (await context.table.get(name)).value
    except RecordNotFound:
        return
    if record.state is State.DELETING and not record.lease.is_live(context.clock.now()):
        await publish_advance(context.queue, record)


async def _plan(context: WorkerContext, settings: DatasetSettings, guard: DatasetGuard) -> DatasetRecord:
    reading = Reading(FindingLog(settings.findings_per_code))
    try:
        plan = await make_plan(context, settings, guard.record, reading)
    except Refused as error:
        return await _refuse(context, guard, error, reading.log)
    convention = reading.convention
    return await guard.write(lambda now: now.planned(plan, convention, context.clock.now()))


async def _finish(context: WorkerContext, settings: DatasetSettings, guard: DatasetGuard, plan: Plan) -> DatasetRecord:
    log = FindingLog(settings.findings_per_code)
    try:
        validation = await finish(context, settings, guard.record, plan, log)
    except Refused as error:
        return await _refuse(context, guard, error, log)
    key = await store.put_manifest(context.blobs, guard.record, validation.manifest)
    findings = await store.put_findings(context.blobs, guard.record, log)
    digest = validation.manifest.digest
    accepted = await guard.write(lambda now: now.accepted(validation.stats, digest, key, findings, context.clock.now()))
    await store.forget_plans(context.blobs, accepted)
    return accepted


async def _refuse(context: WorkerContext, guard: DatasetGuard, error: SightlineError, log: FindingLog) -> DatasetRecord:
    findings = await store.put_findings(context.blobs, guard.record, log)
    refused = await guard.write(lambda now: now.refused(error.failure(), context.clock.now(), findings))
    await _collect(context, refused)
    return refused


async def _collect(context: WorkerContext, refused: DatasetRecord) -> None:
    """Deletes the images of a version that will have no snapshot, and what planned it."""
    await delete_prefix(context.blobs, refused.packs)
    await store.forget_plans(context.blobs, refused)


async def _publish_missing(context: WorkerContext, record: DatasetRecord) -> None:
    """Publishes a job for each unfinished chunk, or to finish the validation if there are no chunks."""
    if record.plan is None or record.state is not State.VALIDATING:
        return
    missing = record.chunks.missing(record.plan.chunk_count)
    for number in missing:
        await publish_chunk(context.queue, record, number)
    if not missing:
        await publish_advance(context.queue, record)


async def _remove(context: WorkerContext, settings: DatasetSettings, name: str, revision: int) -> None:
    """Deletes every blob of the dataset, then the record, so that the id is only free once everything is gone.

    The manifest goes first: whoever stores a blob while it is there can rely on the deletion finding that blob. A
    worker that stood still, and goes on after another has removed the dataset, touches nothing of a later one of the
    name.
    """
    async with leased(context.table, name, context.holder, context.clock, settings.lease) as guard:
        count = await delete_prefix(context.blobs, f"{guard.record.prefix}/snapshot/")
        count += await delete_prefix(context.blobs, f"{guard.record.prefix}/")
        await context.holds.forget(name, revision)
        await guard.delete()
    _log.info("dataset_deleted", blobs=count)


async def give_up(context: WorkerContext, name: str, last: str) -> None:
    """Marks the dataset FAILED because every attempt died, unless it has a live lease or has ended."""
    given_up = False

    def decide(now: DatasetRecord) -> DatasetRecord:
        nonlocal given_up
        given_up = now.state is State.VALIDATING and not now.lease.is_live(context.clock.now())
        if not given_up:
            return now
        error = PoisonWork(name=now.name, attempts=MAX_DELIVERIES, last=last)
        return now.refused(error.failure(), context.clock.now())

    try:
        refused = (await context.table.change(name, decide)).value
    except RecordNotFound:
        return
    if given_up:
        await _collect(context, refused)
        context.telemetry.add(DEAD_LETTERS, 1, kind="dataset")
        _log.warning("dataset_given_up", dataset=name, last=last)
