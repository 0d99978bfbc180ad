"""Checkpoints that are slow to store, or cannot be stored: attempts survive, and what was stored is not lost."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.kit.consume import Released
from services.kit.errors import StoreRefused, Unavailable
from services.trainer.messages import CheckpointDone, Message, Progress, Task
from services.trainer.work import WorkState
from services.trainer.worker.child_pool import ChildDied
from tests.unit.trainer.worker.test_worker import (
    FINE_TUNING,
    T0,
    FakeChild,
    FlakyBlobs,
    World,
    checkpoint,
    checkpoints,
    outcome,
)


class GatedBlobs(FlakyBlobs):
    """Blocks uploads of checkpoints while the gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.keys: list[str] = []

    async def put_file(self, key: str, path: Path) -> None:
        if "/checkpoint-" in key:
            self.begun.set()
            await self.gate.wait()
            self.keys.append(key)
        await super().put_file(key, path)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeChild, "asked", asyncio.Event())
    monkeypatch.setattr(FakeChild, "done", asyncio.Queue())


@pytest.fixture
def at(tmp_path: Path) -> World:
    return World(tmp_path, blobs=GatedBlobs())


def gated(at: World) -> GatedBlobs:
    assert isinstance(at.blobs, GatedBlobs)
    return at.blobs


async def until_done(step: int) -> None:
    while (await FakeChild.done.get()).step != step:
        pass


async def test_messages_are_handled_while_a_checkpoint_is_stored(at: World) -> None:
    async def goes_on(task: Task) -> AsyncGenerator[Message]:
        yield checkpoint(task, 1, 0.001)
        await gated(at).begun.wait()
        yield Progress(fraction=0.5, phase="train")
        await at.until(lambda trial: trial.work.phase == "train")
        assert FakeChild.done.empty()
        gated(at).gate.set()
        await until_done(1)
        yield outcome(task, 0.003)

    await at.begin(recipe=FINE_TUNING)
    await at.worker(goes_on).handle(T0)
    work = (await at.trial()).work
    assert (work.state, work.attempt) == (WorkState.SUCCEEDED, 1)
    assert [line.reason for line in work.segments] == ["checkpoint", "finished"]


async def test_only_the_newest_of_the_waiting_checkpoints_is_stored(at: World) -> None:
    signals: list[CheckpointDone] = []

    async def hurries(task: Task) -> AsyncGenerator[Message]:
        yield checkpoint(task, 1, 0.001)
        await gated(at).begun.wait()
        for step in (2, 3, 4):
            yield checkpoint(task, step, 0.001 * step)
        gated(at).gate.set()
        while not signals or signals[-1].step != 4:
            signals.append(await FakeChild.done.get())
        yield outcome(task, 0.005)

    await at.begin(recipe=FINE_TUNING)
    await at.worker(hurries).handle(T0)
    assert [key.rsplit("/", 2)[1] for key in gated(at).keys] == ["checkpoint-1", "checkpoint-4"]
    assert [signal.step for signal in signals] == [1, 4]
    assert all(signal.seconds > 0 for signal in signals)


async def test_a_checkpoint_in_flight_when_the_child_dies_is_not_lost(at: World) -> None:
    async def dies_meanwhile(task: Task) -> AsyncGenerator[Message]:
        yield checkpoint(task, 1, 0.001)
        await gated(at).begun.wait()
        yield checkpoint(task, 2, 0.002)
        asyncio.get_running_loop().call_later(0.02, gated(at).gate.set)
        raise ChildDied("the training process ended with status -9")

    await at.begin(recipe=FINE_TUNING)
    await at.worker(dies_meanwhile, checkpoints).handle(T0)
    work = (await at.trial()).work
    assert (work.state, work.attempt) == (WorkState.SUCCEEDED, 2)
    assert [(line.attempt, line.reason) for line in work.segments if line.charged] == [
        (1, "checkpoint"),
        (1, "checkpoint"),
        (2, "finished"),
    ]


async def test_a_result_does_not_wait_for_a_checkpoint(at: World) -> None:
    async def delivers(task: Task) -> AsyncGenerator[Message]:
        yield checkpoint(task, 1, 0.001)
        await gated(at).begun.wait()
        yield outcome(task, 0.002)

    await at.begin(recipe=FINE_TUNING)
    await asyncio.wait_for(at.worker(delivers).handle(T0), 30)
    work = (await at.trial()).work
    assert (work.state, work.charged.total_seconds(), work.checkpoint_key) == (WorkState.SUCCEEDED, 0.002, "")


@pytest.mark.parametrize(
    "problem",
    [
        FileNotFoundError("checkpoint-1"),
        Unavailable(what="the store", problem="it is down"),
        StoreRefused(code="AccessDenied", what="the store", problem="Access Denied"),
        TimeoutError("too slow"),
    ],
    ids=lambda problem: type(problem).__name__,
)
async def test_a_checkpoint_that_cannot_be_stored_is_skipped(at: World, problem: Exception) -> None:
    class Refusing(FlakyBlobs):
        async def put_file(self, key: str, path: Path) -> None:
            if "/checkpoint-1/" in key:
                raise problem
            await super().put_file(key, path)

    at.blobs = Refusing()
    await at.begin(recipe=FINE_TUNING)
    await at.worker(checkpoints).handle(T0)
    work = (await at.trial()).work
    assert (work.state, work.attempt) == (WorkState.SUCCEEDED, 1)
    assert [line.reason for line in work.segments] == ["checkpoint", "finished"]


async def test_a_stop_stores_the_checkpoint_in_progress_and_then_the_last_one(at: World) -> None:
    async def saves_when_asked(task: Task) -> AsyncGenerator[Message]:
        yield checkpoint(task, 1, 0.001)
        await FakeChild.asked.wait()
        yield checkpoint(task, 2, 0.002)
        await asyncio.Event().wait()

    await at.begin(recipe=FINE_TUNING)
    stop = asyncio.Event()
    handling = asyncio.create_task(at.worker(saves_when_asked, stop=stop).handle(T0))
    await gated(at).begun.wait()
    stop.set()
    await FakeChild.asked.wait()
    gated(at).gate.set()
    with pytest.raises(Released):
        await asyncio.wait_for(handling, 30)
    work = (await at.trial()).work
    assert (work.state, work.charged.total_seconds()) == (WorkState.QUEUED, 0.002)
    assert work.checkpoint_key.endswith("/checkpoint-2/")
