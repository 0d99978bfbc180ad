"""The dataset api's gauges: states, the age of the oldest dataset, and the longest stall."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from services.dataset import metrics
from services.dataset.domain import COLLECTION, DatasetRecord, State
from services.dataset.gauges import Gauges
from services.kit.clock import ManualClock
from services.kit.memory import MemoryQueue, MemoryRecords
from services.kit.records import Table
from services.kit.telemetry import MemoryTelemetry
from services.kit.views import View
from services.vision.snapshot import AnnotationKind


async def test_states_ages_and_stalls_are_exported():
    records, clock, telemetry = MemoryRecords(), ManualClock(), MemoryTelemetry()
    view = View(records, DatasetRecord, COLLECTION)
    keeping = asyncio.create_task(view.run())
    now = clock.now()
    old = DatasetRecord(
        name="datasets/a",
        uid="u",
        annotation_kind=AnnotationKind.IMAGE_CLASSIFICATION,
        annotation_file_uris=("s3://sightline/a.json",),
        create_time=now - timedelta(seconds=90),
        update_time=now - timedelta(seconds=20),
    )
    table = Table(records, DatasetRecord)
    await table.create("datasets/a", old)
    await table.create("datasets/b", replace(old, name="datasets/b", state=State.READY))
    await view.synced()
    Gauges(view, MemoryQueue(clock), clock, telemetry).update()
    keeping.cancel()
    assert [telemetry.value(metrics.DATASETS, state=state) for state in State] == [1, 1, 0, 0]
    assert telemetry.value(metrics.OLDEST) == 90
    assert telemetry.value(metrics.STALLED) == 20
