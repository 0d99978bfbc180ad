"""What the jobs of a worker share: its ports, its predictor and its name."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from services.kit.blobs import Blobs
from services.kit.clock import Clock
from services.kit.queue import Queue
from services.kit.records import Table
from services.kit.telemetry import Telemetry
from services.predictor.app import Predictor
from services.predictor.batch.domain import BatchRecord
from services.predictor.domain import Models
from services.predictor.settings import PredictorSettings


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The ports of a worker process, and its identity."""

    table: Table[BatchRecord]
    blobs: Blobs
    queue: Queue
    models: Models
    predictor: Callable[[], AbstractAsyncContextManager[Predictor]]  # for a block of work
    clock: Clock
    telemetry: Telemetry
    settings: PredictorSettings
    holder: str  # this process's name in leases
