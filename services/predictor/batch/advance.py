"""Advances a batch prediction: lists its images, publishes its chunks, and writes its results.

`advance` does what the record says is next, so that a lost, late or repeated job does no harm.
"""

from services.kit.blobs import delete_prefix
from services.kit.consume import DEAD_LETTERS
from services.kit.errors import LeaseLost, PoisonWork, RecordNotFound, WrongState
from services.kit.leases import LeaseGuard, leased
from services.kit.log import Log, about
from services.kit.queue import MAX_DELIVERIES
from services.predictor.batch import blobs as stored
from services.predictor.batch import metrics
from services.predictor.batch.context import WorkerContext
from services.predictor.batch.domain import BatchRecord
from services.predictor.batch.jobs import publish_due
from services.predictor.batch.outputs import write_outputs
from services.predictor.batch.plan import Refused, make_plan
from services.predictor.batch.removal import clean, discard_results, empty

BatchGuard = LeaseGuard[BatchRecord]
KIND = "batch"  # of dead letters

_log = Log(__name__)


async def advance(context: WorkerContext, name: str, uid: str = "") -> None:
    """Does what is due, unless it is gone; of one that has ended, removes what an earlier attempt left behind.

    `uid` says which of that name is meant. LeaseLost while another worker holds it.
    """
    with about(name):
        try:
            record = (await context.table.get(name)).value
            if record.ended or record.emptied or uid not in ("", record.uid):
                await clean(context, name, uid or record.uid)
            elif record.is_deleting:
                await empty(context, name)
            elif record.is_predicting and record.missing:
                await publish_due(context.queue, record)
            else:
                uid = record.uid
                await _work(context, name)
        except RecordNotFound:
            await clean(context, name, uid)


async def _work(context: WorkerContext, name: str) -> None:
    """Plans or finishes it under its lease, and announces what is due then. RecordNotFound if it is gone by then."""
    ttl = context.settings.batch_lease
    try:
        async with leased(context.table, name, context.holder, context.clock, ttl) as guard:
            record = await _step(context, guard)
    except LeaseLost:
        record = (await context.table.get(name)).value
        if record.lease.is_live(context.clock.now()):
            raise  # another worker has it
    except WrongState:  # it has ended meanwhile
        return
    if not record.ended:
        await publish_due(context.queue, record)


async def _step(context: WorkerContext, guard: BatchGuard) -> BatchRecord:
    record = guard.record
    if record.is_to_finish:
        outputs = await write_outputs(context.blobs, record)
        record = await guard.write(lambda now: now.delivered(outputs, context.clock.now()))
        await delete_prefix(context.blobs, stored.work_prefix(record))
        context.telemetry.add(metrics.BATCHES_ENDED, state=record.state)
        _log.info("batch_prediction_ended", state=record.state, images=record.tally.done, failed=record.tally.failed)
    elif record.plan is None:
        try:
            plan = await make_plan(context, record)
        except Refused as error:
            failure = error.failure()
            return await guard.write(lambda now: now.doomed(failure, context.clock.now()))
        record = await guard.write(lambda now: now.planned(plan, context.clock.now()))
        _log.info("batch_prediction_planned", images=plan.image_count, chunks=plan.chunk_count)
    return record


async def give_up(context: WorkerContext, name: str, last: str, *, uid: str = "", write_results: bool) -> None:
    """Ends it because every attempt died, unless it has a live lease, has ended or is being deleted.

    `uid` says which of that name is meant. With `write_results` what there is of them is written first; without, what
    the attempts wrote of them is removed.
    """
    given_up = False

    def decide(now: BatchRecord) -> BatchRecord:
        nonlocal given_up
        given_up = now.is_predicting if write_results else not (now.ended or now.is_deleting)
        given_up = given_up and uid in ("", now.uid) and not now.lease.is_live(context.clock.now())
        if not given_up:
            return now
        failure = PoisonWork(name=now.name, attempts=MAX_DELIVERIES, last=last).failure()
        how = now.doomed if write_results else now.given_up
        return how(failure, context.clock.now())

    try:
        if not write_results:
            await _discard(context, name, uid)
        record = (await context.table.change(name, decide)).value
    except RecordNotFound:
        return
    if given_up:
        context.telemetry.add(DEAD_LETTERS, 1, kind=KIND)
        _log.warning("batch_prediction_given_up", name=name, last=last)
        if not record.ended:
            await publish_due(context.queue, record)


async def _discard(context: WorkerContext, name: str, uid: str) -> None:
    """Removes the results of attempts that died, while no other has the lease."""
    record = (await context.table.get(name)).value
    if record.is_to_finish and uid in ("", record.uid) and not record.lease.is_live(context.clock.now()):
        async with leased(context.table, name, context.holder, context.clock, context.settings.batch_lease) as guard:
            await discard_results(context.blobs, guard.record)
