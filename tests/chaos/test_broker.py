"""A training survives repeated and lost jobs, and a worker that wakes up after its lease has expired."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from services.infra import jetstream
from services.infra.jetstream_queue import STREAM, JetStreamQueue
from services.infra.jetstream_records import JetStreamRecords
from services.kit import codec
from services.kit.jobs import Job
from services.kit.records import Table
from services.trainer.domain import Trial as TrialRecord
from services.trainer.reconcile import jobs
from sightline.local.stack import Stack
from sightline.v1.model_pb2 import Model
from sightline.v1.trial_pb2 import Trial
from tests.chaos.observer import Observer, audit
from tests.chaos.suite import ENDED, Caller, eventually, stack_in, write_digits
from tests.support import processes
from tests.support.servers import ACK_WAIT

DATASET = "datasets/digits"
BUDGET_SECONDS = 60  # compute; enough for checkpoints before the end, on a busy machine too
WAIT_SECONDS = 60.0

# The campaign of `test_faults` has the same faults.
pytestmark = [pytest.mark.long, pytest.mark.timeout(200), pytest.mark.asyncio(loop_scope="module")]


@dataclass(frozen=True, slots=True)
class Scene:
    """A suite with two workers, a dataset, and access to its broker."""

    stack: Stack
    caller: Caller
    queue: JetStreamQueue
    trials: Table[TrialRecord]
    image: Path

    def observer(self, model: str) -> Observer:
        return Observer(self.stack.addresses, model, DATASET, self.image)

    @property
    def workers(self) -> list[int]:
        return [pid for name, pid in self.stack.pids.items() if name.startswith("trainer-worker")]

    async def start(self, model: str) -> None:
        await asyncio.to_thread(self.caller.train, model, BUDGET_SECONDS, DATASET)

    async def fine_tuning(self, model: str) -> Trial:
        """The fine-tuning trial, once it has committed its first checkpoint."""

        def charged() -> Trial | None:
            trial = self.caller.fine_tuning(model)
            return trial if trial and trial.cost.ToTimedelta() else None

        return await eventually(charged, WAIT_SECONDS, f"the fine-tuning of {model}")

    async def end(self, model: str) -> Model:
        def ended() -> Model | None:
            found = self.caller.model(model)
            return found if found.state in ENDED else None

        return await eventually(ended, 2 * WAIT_SECONDS, f"the end of {model}")

    async def announce(self, trial: Trial, times: int) -> None:
        """Publishes the trial's job `times` times."""
        for _ in range(times):
            await self.queue.publish(jobs.KIND, codec.encode(Job(trial.name)))

    async def drained(self) -> None:
        """Returns once no job is waiting or in flight."""
        async with asyncio.timeout(WAIT_SECONDS):
            while await self.queue.depth(jobs.KIND):  # noqa: ASYNC110 - the queue is in another process
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("broker")
    train, test = write_digits(folder / "images", per_digit=30, count=5)
    async with stack_in(folder, 2) as stack:
        caller = Caller(stack)
        uri = await asyncio.to_thread(caller.upload, train.coco)
        await asyncio.to_thread(caller.register, DATASET, uri)
        await asyncio.to_thread(caller.await_dataset, DATASET)
        connection = await jetstream.connect(stack.nats_url, "chaos")
        trials = Table(JetStreamRecords(connection), TrialRecord)
        yield Scene(stack, caller, JetStreamQueue(connection, ACK_WAIT), trials, next(iter(test.truth)))
        await connection.close()
        caller.close()


async def test_repeated_and_late_jobs_change_nothing(scene: Scene) -> None:
    model = "models/repeated"
    await scene.start(model)
    with scene.observer(model) as observer:
        trial = await scene.fine_tuning(model)
        await scene.announce(trial, 5)
        ended = await scene.end(model)
        before = scene.caller.trials(model)
        await scene.announce(trial, 5)
        await scene.drained()
    assert scene.caller.trials(model) == before
    assert scene.caller.model(model) == ended
    assert [one.attempts for one in before] == [1] * len(before)
    audit(ended, scene.caller.trials(model), observer)
    assert not observer.faults, "\n".join(observer.faults)


async def test_a_training_survives_the_loss_of_the_job_stream(scene: Scene) -> None:
    model = "models/forgotten"
    stream = scene.queue._js  # an operator's mistake, not a service's call
    for pid in scene.workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        await scene.start(model)
        await eventually(lambda: scene.caller.trials(model), WAIT_SECONDS, "a trial that waits")
        await asyncio.sleep(1)  # its job is in the queue, and no worker takes it
        await stream.delete_stream(STREAM)
    finally:
        for pid in scene.workers:
            os.kill(pid, signal.SIGCONT)
    with scene.observer(model) as observer:
        await scene.fine_tuning(model)
        await stream.delete_stream(STREAM)
        ended = await scene.end(model)
    audit(ended, scene.caller.trials(model), observer)
    assert not observer.faults, "\n".join(observer.faults)


async def test_a_worker_frozen_beyond_its_lease_stops_when_resumed_and_writes_nothing(scene: Scene) -> None:
    model = "models/frozen"
    await scene.start(model)
    with scene.observer(model) as observer:
        trial = await scene.fine_tuning(model)
        holder = (await scene.trials.get(trial.name)).value.work.lease.holder.split("-")
        stale = next(pid for pid in scene.workers if str(pid) in holder)
        child = processes.training_child(stale)
        assert child is not None
        os.kill(stale, signal.SIGSTOP)
        try:
            frozen = (await scene.trials.get(trial.name)).value.work
            taken = await eventually(lambda: second_attempt(scene, model), WAIT_SECONDS, "a second attempt")
        finally:
            os.kill(stale, signal.SIGCONT)
        assert taken.name == trial.name
        await eventually(lambda: not processes.is_alive(child), WAIT_SECONDS, "the end of the stale child")
        ended = await scene.end(model)
    work = (await scene.trials.get(trial.name)).value.work
    assert [segment for segment in work.segments if segment.attempt == 1 and segment.charged] == [
        segment for segment in frozen.segments if segment.charged
    ]
    assert [(segment.attempt, segment.reason) for segment in work.segments if not segment.charged] in (
        [],
        [(1, "workerLost")],
    )
    assert work.attempt == 2
    assert stale in scene.workers, "the stale worker died"
    audit(ended, scene.caller.trials(model), observer)
    assert not observer.faults, "\n".join(observer.faults)


def second_attempt(scene: Scene, model: str) -> Trial | None:
    """The fine-tuning trial, if it is in its second attempt."""
    trial = scene.caller.fine_tuning(model)
    return trial if trial and trial.attempts == 2 else None
