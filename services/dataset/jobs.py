"""The jobs of the dataset service: what they are called, and how they are published."""

from services.dataset.domain import ADVANCE, CHECK, COLLECTION, DatasetRecord
from services.kit.errors import InvalidName
from services.kit.jobs import Job, publish
from services.kit.names import parent, parse
from services.kit.queue import Queue


async def publish_advance(queue: Queue, record: DatasetRecord, dedup_id: str = "") -> None:
    """Announces that a dataset may have work due."""
    await publish(queue, ADVANCE, Job(record.name, record.generation), dedup_id, record.traceparent)


async def publish_chunk(queue: Queue, record: DatasetRecord, number: int) -> None:
    """Announces one chunk of a dataset; again within two minutes, it has no effect."""
    plan = record.plan.prefix if record.plan else ""
    job = Job(f"{record.name}/chunks/{number}", record.generation)
    await publish(queue, CHECK, job, f"{plan}:{number}", record.traceparent)


def parse_chunk(name: str) -> tuple[str, int]:
    """The dataset's name and the chunk's number; InvalidName for any other name."""
    _, number = parse(name, COLLECTION, "chunks")
    if not number.isdecimal():
        raise InvalidName(field="name", value=name, expected="a chunk number at the end")
    return parent(name), int(number)
