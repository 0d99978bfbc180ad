"""The jobs of batch predictions: what they are called, and how they are published."""

from services.kit.jobs import Job, chunk_name, publish
from services.kit.queue import Queue
from services.predictor.batch.domain import ADVANCE, PREDICT, BatchRecord


def advance_job(record: BatchRecord) -> Job:
    """The job that does whatever is due for it."""
    return Job(record.name, record.generation, record.uid)


async def publish_advance(queue: Queue, record: BatchRecord, dedup_id: str = "") -> None:
    """Announces that a batch prediction may have work due."""
    await publish(queue, ADVANCE, advance_job(record), dedup_id, record.traceparent)


async def publish_due(queue: Queue, record: BatchRecord) -> None:
    """Announces each chunk that is missing, or else that the results can be written, or all can be removed."""
    if record.is_to_finish or record.is_to_empty:
        await publish_advance(queue, record, f"{record.uid}:{record.generation}:finish")
    elif record.is_predicting:
        for number in record.missing:  # again within two minutes, it has no effect
            job = Job(chunk_name(record.name, number), uid=record.uid)
            await publish(queue, PREDICT, job, f"{record.uid}:{number}", record.traceparent)
