"""Fine-tunings in a real child whose checkpoints take longer to store than their period: none fails."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.kit.clock import SystemClock
from services.kit.memory import MemoryBlobs, MemoryRecords
from services.kit.records import Table
from services.kit.telemetry import MemoryTelemetry
from services.trainer.datasets import Snapshot
from services.trainer.domain import Trial
from services.trainer.ledger import total
from services.trainer.recipe import Recipe
from services.trainer.settings import TrainerSettings
from services.trainer.store import Store
from services.trainer.work import Work, WorkState
from services.trainer.worker.child_pool import Child, ChildPool
from services.trainer.worker.worker import Worker
from services.trainer.worker.workspace import Workspace
from services.vision.snapshot import read_manifest
from tests.unit.trainer.engine.shapes import tuning_recipe, write_snapshot

NAME = "models/m/trials/t000"
PERIOD_SECONDS = 0.5
STORED_IN_SECONDS = 2.0  # four periods
ALLOWANCE_SECONDS = 16.0
DEADLINE_SECONDS = 100.0
NETWORKS = {"small": ("mobilenet_v3_small", 8), "large": ("resnet50", 4)}  # 6 MB and 94 MB; images in a batch


class SlowBlobs(MemoryBlobs):
    """Stores each checkpoint slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.missing: list[str] = []  # keys of files that no longer existed when they were to be stored

    async def put_file(self, key: str, path: Path) -> None:
        if key.endswith("state.safetensors"):
            await asyncio.sleep(STORED_IN_SECONDS)
        if not await asyncio.to_thread(path.exists):
            self.missing.append(key)
        await super().put_file(key, path)


class RecordingPool(ChildPool):
    """Records the process ids of the children that it hands out."""

    pids: list[int]

    async def take(self) -> Child:
        child = await super().take()
        self.pids.append(child.pid)
        return child


@pytest.fixture
async def pool() -> AsyncIterator[RecordingPool]:
    made = RecordingPool(threads=1, spares=False)
    made.pids = []
    yield made
    await made.close()


class Suite:
    """A trial of drawn shapes, and a worker for it."""

    def __init__(self, root: Path, pool: RecordingPool) -> None:
        self.root = root
        self.blobs = SlowBlobs()
        self.records = MemoryRecords()
        self.trials = Table(self.records, Trial)
        settings = TrainerSettings(checkpoint_seconds=PERIOD_SECONDS, heartbeat_seconds=0.2, threads=1)
        self.worker = Worker(
            "w",
            Store.over(self.records),
            Workspace(root / "w", self.blobs),
            pool,
            settings,
            SystemClock(),
            MemoryTelemetry(),
        )

    async def plan(self, recipe: Recipe, allowance: timedelta) -> None:
        """Puts the trial's images into the store, and its record."""
        folder, now = write_snapshot(self.root / "snapshot"), datetime.now(UTC)
        for path in folder.iterdir():
            await self.blobs.put_file(f"d/{path.name}", path)
        manifest = read_manifest((folder / "manifest.json").read_bytes())
        trial = Trial(
            name=NAME,
            model_uid="uid1",
            number=0,
            training=Snapshot(
                dataset="datasets/d",
                digest=manifest.digest,
                manifest_key="d/manifest.json",
                image_count=manifest.image_count,
            ),
            recipe=recipe,
            holdout_fraction=0.0,
            seed=1,
            work=Work(create_time=now, allowance=allowance),
            update_time=now,
        )
        await self.trials.create(NAME, trial)

    async def work(self) -> Work:
        return (await self.trials.get(NAME)).value.work


@pytest.mark.slow
@pytest.mark.parametrize("network", [pytest.param("large", marks=pytest.mark.long), "small"])
async def test_a_store_slower_than_the_checkpoint_period_ends_no_attempt(
    tmp_path: Path, pool: RecordingPool, network: str
) -> None:
    backbone, batch = NETWORKS[network]
    suite = Suite(tmp_path, pool)
    recipe = tuning_recipe(backbones=(backbone,), batch_size=batch, max_epochs=10_000, patience=10_000)
    await suite.plan(recipe, allowance=timedelta(seconds=ALLOWANCE_SECONDS))
    await asyncio.wait_for(suite.worker.handle(NAME), DEADLINE_SECONDS)
    work = await suite.work()
    assert (work.state, work.attempt) == (WorkState.SUCCEEDED, 1)
    assert suite.blobs.missing == []
    stored = [line for line in work.segments if line.reason == "checkpoint"]
    assert 1 <= len(stored) <= ALLOWANCE_SECONDS / STORED_IN_SECONDS


@pytest.mark.long
async def test_a_child_killed_during_a_slow_store_resumes_from_the_last_stored_checkpoint(
    tmp_path: Path, pool: RecordingPool
) -> None:
    suite = Suite(tmp_path, pool)
    await suite.plan(tuning_recipe(max_epochs=10_000, patience=10_000), allowance=timedelta(seconds=20.0))
    handling = asyncio.create_task(suite.worker.handle(NAME))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (await suite.work()).charged < timedelta(seconds=4):  # noqa: ASYNC110 - it waits for a record
            await asyncio.sleep(0.05)
        os.kill(pool.pids[0], signal.SIGKILL)
        await handling
    work = await suite.work()
    assert (work.state, work.attempt) == (WorkState.SUCCEEDED, 2)
    assert total(line.duration for line in work.segments if line.attempt == 1 and line.charged) >= timedelta(seconds=4)
