"""Whatever is due for a dataset: reading its files, handing out its chunks, the verdict, its removal.

`advance` looks at the record and does the next thing, so that a job that is lost, late or repeated does no harm.
"""

from services.dataset import metrics, store
from services.dataset.domain import DatasetRecord, Plan, State
from services.dataset.findings import FindingLog
from services.dataset.finish import judge
from services.dataset.hold import Hold, holding
from services.dataset.plan import Reading, make_plan
from services.dataset.settings import DatasetSettings
from services.dataset.work import Tools, publish_advance, publish_chunk
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
from services.kit.log import Log, about
from services.kit.queue import MAX_DELIVERIES

_log = Log(__name__)
Refused = (DatasetAnnotationsInvalid, DatasetEmpty, QuotaExceeded)


async def advance(tools: Tools, settings: DatasetSettings, name: str) -> None:
    """Does what is due; nothing if the dataset is gone, READY or FAILED. LeaseLost while another worker holds it."""
    try:
        record = (await tools.table.get(name)).value
    except RecordNotFound:
        return
    with about(name):
        if record.state is State.DELETING:
            await _remove(tools, settings, name)
        elif record.state is State.VALIDATING and record.plan and not record.is_checked:
            await _hand_out(tools, record)
        elif record.state is State.VALIDATING:
            await _validate(tools, settings, name)


async def _validate(tools: Tools, settings: DatasetSettings, name: str) -> None:
    held = False
    try:
        async with holding(tools.table, name, tools.holder, tools.clock, settings.lease) as hold:
            held = True
            if hold.record.plan is None:
                record = await _plan(tools, settings, hold)
            elif hold.record.is_checked:
                record = await _finish(tools, settings, hold, hold.record.plan)
            else:
                record = hold.record
    except (LeaseLost, WrongState) as fault:
        if held and isinstance(fault, LeaseLost):
            tools.telemetry.add(metrics.LEASES_LOST)
        await _yield_to_deletion(tools, name)
        return
    if record.state is State.VALIDATING:
        await _hand_out(tools, record)
    else:
        tools.telemetry.add(metrics.VALIDATED, state=record.state)
        _log.info("dataset_validated", state=record.state, images=record.images_total)


async def _yield_to_deletion(tools: Tools, name: str) -> None:
    """A deletion that came while this worker held the dataset waited for it to let go."""
    try:
        record = (await tools.table.get(name)).value
    except RecordNotFound:
        return
    if record.state is State.DELETING and not record.lease.is_live(tools.clock.now()):
        await publish_advance(tools.queue, record)


async def _plan(tools: Tools, settings: DatasetSettings, hold: Hold) -> DatasetRecord:
    reading = Reading(FindingLog(settings.findings_per_code))
    try:
        plan = await make_plan(tools, settings, hold.record, reading)
    except Refused as fault:
        return await _refuse(tools, hold, fault, reading.log)
    convention = reading.convention
    return await hold.write(lambda now: now.planned(plan, convention, tools.clock.now()))


async def _finish(tools: Tools, settings: DatasetSettings, hold: Hold, plan: Plan) -> DatasetRecord:
    log = FindingLog(settings.findings_per_code)
    try:
        verdict = await judge(tools, settings, hold.record, plan, log)
    except Refused as fault:
        refused = await _refuse(tools, hold, fault, log)
        await delete_prefix(tools.blobs, f"{refused.prefix}/packs/")  # Nobody will read them.
        return refused
    key = await store.put_manifest(tools.blobs, hold.record, verdict.manifest)
    findings = await store.put_findings(tools.blobs, hold.record, log)
    digest = verdict.manifest.digest
    return await hold.write(lambda now: now.accepted(verdict.stats, digest, key, findings, tools.clock.now()))


async def _refuse(tools: Tools, hold: Hold, fault: SightlineError, log: FindingLog) -> DatasetRecord:
    findings = await store.put_findings(tools.blobs, hold.record, log)
    return await hold.write(lambda now: now.refused(fault.failure(), tools.clock.now(), findings))


async def _hand_out(tools: Tools, record: DatasetRecord) -> None:
    """Publishes every chunk that is missing; for a dataset without any chunk, the verdict."""
    if record.plan is None or record.state is not State.VALIDATING:
        return
    missing = record.chunks.missing(record.plan.chunk_count)
    for number in missing:
        await publish_chunk(tools.queue, record, number)
    if not missing:
        await publish_advance(tools.queue, record)


async def _remove(tools: Tools, settings: DatasetSettings, name: str) -> None:
    """Deletes every blob of every creation of the name, then the record: the id is free only when all is gone."""
    async with holding(tools.table, name, tools.holder, tools.clock, settings.lease) as hold:
        count = await delete_prefix(tools.blobs, hold.record.root)
        await hold.delete()
    _log.info("dataset_deleted", blobs=count)


async def give_up(tools: Tools, name: str, last: str) -> None:
    """Every attempt at some work for the dataset died: FAILED, unless a live worker holds it or it has ended."""
    given_up = False

    def decide(now: DatasetRecord) -> DatasetRecord:
        nonlocal given_up
        given_up = now.state is State.VALIDATING and not now.lease.is_live(tools.clock.now())
        if not given_up:
            return now
        error = PoisonWork(name=now.name, attempts=MAX_DELIVERIES, last=last)
        return now.refused(error.failure(), tools.clock.now())

    try:
        await tools.table.change(name, decide)
    except RecordNotFound:
        return
    if given_up:
        tools.telemetry.add(DEAD_LETTERS, 1, kind="dataset")
        _log.warning("dataset_given_up", dataset=name, last=last)
