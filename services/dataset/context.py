"""What a worker's jobs share: its ports, its executor and its name."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from services.dataset.domain import DatasetRecord
from services.dataset.quotas import SnapshotRoom
from services.kit.blobs import Blobs
from services.kit.clock import Clock
from services.kit.holds import Holds
from services.kit.queue import Queue
from services.kit.records import Table
from services.kit.telemetry import Telemetry
from services.vision.decode_pool import Decoders

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The ports of a worker process, and its identity."""

    table: Table[DatasetRecord]
    blobs: Blobs
    queue: Queue
    clock: Clock
    telemetry: Telemetry
    executor: Executor  # parses and checks files
    decoders: Decoders  # of images, in turns between datasets
    room: SnapshotRoom
    holds: Holds
    holder: str  # this process's name in leases

    async def compute(self, function: Callable[[], T]) -> T:
        """The function's result, computed off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, function)
