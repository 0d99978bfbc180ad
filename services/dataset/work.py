"""What the workers of the dataset service share: their ports, and how their jobs are written."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from services.dataset.domain import ADVANCE, CHECK, COLLECTION, DatasetRecord
from services.kit.blobs import Blobs
from services.kit.clock import Clock
from services.kit.errors import InvalidName
from services.kit.jobs import Job, publish
from services.kit.names import parse
from services.kit.queue import Queue
from services.kit.records import Table
from services.kit.telemetry import Telemetry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tools:
    """The ports of a worker."""

    table: Table[DatasetRecord]
    blobs: Blobs
    queue: Queue
    clock: Clock
    telemetry: Telemetry
    executor: Executor  # where images are decoded and files parsed
    holder: str  # this process, as leases name it

    async def compute(self, function: Callable[[], T]) -> T:
        """The function's value, computed off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, function)


async def publish_advance(queue: Queue, record: DatasetRecord, dedup_id: str = "") -> None:
    """Announces that something may be due for a dataset."""
    await publish(queue, ADVANCE, Job(record.name, record.generation), dedup_id)


async def publish_chunk(queue: Queue, record: DatasetRecord, number: int) -> None:
    """Announces one chunk of a dataset."""
    await publish(queue, CHECK, Job(f"{record.name}/chunks/{number}", record.generation))


def parse_chunk(name: str) -> tuple[str, int]:
    """The dataset's name and the chunk's number; InvalidName for anything else."""
    dataset, number = parse(name, COLLECTION, "chunks")
    if not number.isdecimal():
        raise InvalidName(field="name", value=name, expected="a chunk's number at its end")
    return f"{COLLECTION}/{dataset}", int(number)
