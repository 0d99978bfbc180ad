"""The jobs of the dataset service: what they are called, and how they are published."""

from services.dataset.domain import ADVANCE, CHECK, DatasetRecord
from services.kit.jobs import Job, chunk_name, publish
from services.kit.queue import Queue


async def publish_advance(queue: Queue, record: DatasetRecord, dedup_id: str = "") -> None:
    """Announces that a dataset may have work due."""
    await publish(queue, ADVANCE, Job(record.name, record.generation), dedup_id, record.traceparent)


async def publish_chunk(queue: Queue, record: DatasetRecord, number: int) -> None:
    """Announces one chunk of a dataset; again within two minutes, it has no effect."""
    plan = record.plan.prefix if record.plan else ""
    job = Job(chunk_name(record.name, number), record.generation)
    await publish(queue, CHECK, job, f"{plan}:{number}", record.traceparent)
