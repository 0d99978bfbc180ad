"""The trainer worker as a pod runs it: one job, a SIGTERM at any moment, no disk except its own folders."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.dataset.domain import CHECK
from services.infra import jetstream
from services.infra.files import FolderBlobs
from services.infra.jetstream_queue import JetStreamQueue
from services.infra.jetstream_records import JetStreamRecords
from services.kit import consume
from services.kit.clock import SystemClock
from services.kit.records import Table
from services.kit.telemetry import MemoryTelemetry
from services.trainer.datasets import Snapshot
from services.trainer.domain import Evaluation, Trial
from services.trainer.recipe import Recipe
from services.trainer.reconcile import jobs
from services.trainer.work import Work, WorkState
from services.trainer.worker.workspace import Workspace
from services.vision.bundle import write as write_bundle
from services.vision.card import ModelKind
from services.vision.detector import Detector
from services.vision.snapshot import read_manifest
from tests.support.detectors import detector
from tests.support.servers import ACK_WAIT, NatsServer
from tests.unit.trainer.engine.scenes import detector_recipe, write_scenes
from tests.unit.trainer.engine.shapes import linear_recipe, tuning_recipe, write_snapshot

NAME = "models/m/trials/t000"
EVALUATION = "models/m/evaluations/e"
END_SECONDS = 60.0  # after a SIGTERM, at most
START_SECONDS = 150.0  # until a worker trains, on a busy machine
# Reports every file or folder that Python creates, or opens for writing, outside the folders that a pod may write to.
AUDIT_HOOK = """
import os, sys
allowed = tuple(os.environ["WRITABLE"].split(":")) + ("/dev/", "/proc/self/")
changes = ("os.mkdir", "os.rename", "os.link", "os.symlink")
def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    elif event in changes:
        path, writes = arguments[0], True
    else:
        return
    if writes and isinstance(path, (str, bytes)) and not os.path.abspath(os.fsdecode(path)).startswith(allowed):
        os.write(2, f"WROTE OUTSIDE: {event} {os.fsdecode(path)}\\n".encode())
sys.addaudithook(watch)
"""


@dataclass(frozen=True, slots=True)
class Pods:
    """Workers with only a nats-server, a store, and a work folder and a temporary one each."""

    root: Path
    nats_url: str
    blobs: FolderBlobs
    trials: Table[Trial]
    evaluations: Table[Evaluation]
    queue: JetStreamQueue

    async def plan(self, recipe: Recipe, allowance: timedelta = timedelta(minutes=10)) -> None:
        """Creates and announces a trial on thirty-six drawn shapes, or on eighteen scenes with boxes."""
        detects = recipe.kind is ModelKind.GENERIC_DETECTOR
        folder = write_scenes(self.root / "snapshot") if detects else write_snapshot(self.root / "snapshot")
        now = datetime.now(UTC)
        trial = Trial(
            name=NAME,
            model_uid="uid1",
            number=0,
            training=await self._stored(folder),
            recipe=recipe,
            holdout_fraction=0.0,
            seed=7,
            work=Work(create_time=now, allowance=allowance),
            update_time=now,
        )
        await self.trials.create(NAME, trial)
        await jobs.announce(self.queue, NAME, trial.work)

    async def plan_evaluation(self, model: Detector, scenes: int) -> None:
        """Creates and announces an evaluation of the detector on `scenes` scenes."""
        write_bundle(self.root / "bundle", model)
        await Workspace(self.root, self.blobs).upload(self.root / "bundle", "b/")
        names = tuple(category.name for category in model.card.categories)
        now = datetime.now(UTC)
        evaluation = Evaluation(
            name=EVALUATION,
            model_uid="uid1",
            test_dataset="datasets/d",
            test=await self._stored(write_scenes(self.root / "snapshot", scenes, names)),
            model_version="v",
            bundle_key="b/",
            model_kind=ModelKind.GENERIC_DETECTOR,
            work=Work(create_time=now, allowance=timedelta(minutes=10)),
            update_time=now,
        )
        await self.evaluations.create(EVALUATION, evaluation)
        await jobs.announce(self.queue, EVALUATION, evaluation.work)

    async def _stored(self, folder: Path) -> Snapshot:
        await Workspace(self.root, self.blobs).upload(folder, "d/")
        manifest = read_manifest(await self.blobs.get("d/manifest.json"))
        return Snapshot(
            dataset="datasets/d",
            digest=manifest.digest,
            manifest_key="d/manifest.json",
            image_count=manifest.image_count,
        )

    async def work(self, name: str = NAME) -> Work:
        return (await (self.trials if name == NAME else self.evaluations).get(name)).value.work

    async def until(self, holds: Callable[[Work], bool], name: str = NAME) -> Work:
        async with asyncio.timeout(START_SECONDS):
            while not holds(work := await self.work(name)):  # noqa: ASYNC110 - it waits for a record
                await asyncio.sleep(0.05)
        return work

    @contextmanager
    def worker(self, name: str, *arguments: str, **settings: str) -> Generator[subprocess.Popen[bytes]]:
        """A worker process; it is killed at the end of the block if it still runs."""
        folders = {kind: self.root / name / kind for kind in ("work", "tmp")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        (self.root / "audit").mkdir(exist_ok=True)
        (self.root / "audit" / "sitecustomize.py").write_text(AUDIT_HOOK)
        environment = {
            **{
                key: value for key, value in os.environ.items() if not key.startswith("TORCH")
            },  # torch's settings of this machine
            "PYTHONPATH": f"{self.root / 'witness'}:{Path.cwd()}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "WRITABLE": ":".join(f"{folder}" for folder in folders.values()),
            "HOME": "/nonexistent",
            "TMPDIR": str(folders["tmp"]),
            "SIGHTLINE_WORK_DIR": str(folders["work"]),
            "SIGHTLINE_NATS_URL": self.nats_url,
            "SIGHTLINE_STORE_DIRECTORY": str(self.root / "store"),
            "SIGHTLINE_DOWNLOAD_WEIGHTS": "false",
            "SIGHTLINE_INSTALLED_WEIGHTS": "false",
            "SIGHTLINE_CHECKPOINT_SECONDS": "1000",  # only when it is stopped
            "SIGHTLINE_HEARTBEAT_SECONDS": "0.3",
            "SIGHTLINE_THREADS": "1",
            **{f"SIGHTLINE_{key.upper()}": value for key, value in settings.items()},
        }
        with (self.root / name / "log").open("wb") as log:
            command = [sys.executable, "-m", "services.trainer", "worker", *arguments]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.root / name / "log").read_text()

    def wrote_outside(self, name: str) -> list[str]:
        """What the worker wrote outside a pod's folders; the store stands in for S3."""
        lines = [line for line in self.log(name).splitlines() if line.startswith("WROTE OUTSIDE")]
        return [line for line in lines if str(self.root / "store") not in line]


@pytest.fixture
async def pods(own_nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Pods]:
    connection = await jetstream.connect(own_nats_server.url, "test")
    blobs = FolderBlobs(tmp_path / "store")
    await blobs.ensure_bucket()
    records = JetStreamRecords(connection)
    tables = Table(records, Trial), Table(records, Evaluation)
    yield Pods(tmp_path, own_nats_server.url, blobs, *tables, JetStreamQueue(connection, ACK_WAIT))
    await connection.close()


async def stopped(process: subprocess.Popen[bytes]) -> float:
    """Terminates the process; returns the seconds until it exits with status 0."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, END_SECONDS) == 0
    return time.monotonic() - began


async def test_a_pod_that_finds_no_work_exits_with_status_0(pods: Pods) -> None:
    with pods.worker("idle", "--once", once_seconds="1") as process:
        assert await asyncio.to_thread(process.wait, START_SECONDS) == 0, pods.log("idle")
    assert not pods.wrote_outside("idle")


@pytest.mark.parametrize("arguments", [("--once",), ()])
async def test_a_worker_that_requires_a_missing_gpu_exits_at_once_and_takes_no_work(
    pods: Pods, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    await pods.plan(linear_recipe())
    with pods.worker("blind", *arguments, device="cuda") as process:
        assert await asyncio.to_thread(process.wait, START_SECONDS) == 1, pods.log("blind")
    (failed,) = [line for line in pods.log("blind").splitlines() if '"process_failed"' in line]
    assert "SIGHTLINE_DEVICE is cuda" in json.loads(failed)["exception"]["message"]
    work = await pods.work()
    assert (work.state, work.attempt) == (WorkState.QUEUED, 0)
    assert await pods.queue.depth(jobs.KIND) == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_pod_runs_one_trial_and_exits(pods: Pods) -> None:
    await pods.plan(linear_recipe())
    with pods.worker("one", "--once", once_seconds="100") as process:
        assert await asyncio.to_thread(process.wait, 2 * START_SECONDS) == 0, pods.log("one")
    work = await pods.work()
    assert (work.state, work.attempt) == (WorkState.SUCCEEDED, 1), pods.log("one")
    assert await pods.queue.depth(jobs.KIND) == 0
    assert not pods.wrote_outside("one")


@pytest.mark.slow
@pytest.mark.timeout(500)
async def test_a_sigterm_saves_a_checkpoint_from_which_another_worker_resumes_at_once(pods: Pods) -> None:
    await pods.plan(tuning_recipe(max_epochs=100_000))
    with pods.worker("first", "--once") as process:
        await pods.until(lambda work: work.phase == "train" and work.progress > 0)
        assert await stopped(process) < END_SECONDS
    given_back = await pods.work()
    assert given_back.state is WorkState.QUEUED, pods.log("first")
    assert given_back.is_due(datetime.now(UTC))
    assert [(line.attempt, line.reason) for line in given_back.segments if line.charged] == [(1, "checkpoint")]
    assert given_back.attempts_without_commit == 0
    assert given_back.checkpoint_key
    with pods.worker("second", lease_seconds="60") as process:
        await pods.until(lambda work: work.attempt == 2)
        waited = [line for line in pods.log("second").splitlines() if "checkpoint_missing" in line]
        assert not waited
        again = await pods.until(lambda work: work.phase == "train" and work.pending > timedelta(seconds=1))
        assert await stopped(process) < END_SECONDS
    twice = await pods.work()
    assert (twice.state, twice.attempt, twice.attempts_without_commit) == (WorkState.QUEUED, 2, 0), pods.log("second")
    charged = [line for line in twice.segments if line.charged]
    assert [(line.attempt, line.reason) for line in charged] == [(1, "checkpoint"), (2, "checkpoint")]
    assert charged[0].duration == given_back.charged
    assert twice.checkpoint_key != given_back.checkpoint_key
    assert again.checkpoint_key == given_back.checkpoint_key
    assert not pods.wrote_outside("first") + pods.wrote_outside("second")


@pytest.mark.long
@pytest.mark.timeout(500)
async def test_a_detectors_training_resumes_after_a_sigterm_and_finishes(pods: Pods) -> None:
    began, allowance = time.monotonic(), timedelta(seconds=25)
    await pods.plan(detector_recipe(max_epochs=100_000), allowance)
    with pods.worker("first", "--once") as process:
        await pods.until(lambda work: work.phase == "train" and work.progress > 0.2)
        assert await stopped(process) < END_SECONDS
    given_back = await pods.work()
    assert (given_back.state, given_back.attempts_without_commit) == (WorkState.QUEUED, 0), pods.log("first")
    (saved,) = [line for line in given_back.segments if line.charged]
    state = json.loads(await pods.blobs.get(f"{given_back.checkpoint_key}state.json"))
    assert state["position"]["step"] > 1
    with pods.worker("second", "--once") as process:
        assert await asyncio.to_thread(process.wait, 2 * START_SECONDS) == 0, pods.log("second")
    trial = (await pods.trials.get(NAME)).value
    work, result = trial.work, trial.result
    assert (work.state, work.attempt) == (WorkState.SUCCEEDED, 2), pods.log("second")
    assert result is not None
    assert "checkpoint_missing" not in pods.log("second")
    assert (result.epochs + 1) * state["plan"]["steps_per_epoch"] > state["position"]["step"]
    charged = [line for line in work.segments if line.charged]
    assert [(line.attempt, line.number, line.reason) for line in charged] == [
        (1, saved.number, "checkpoint"),
        (2, 0, "finished"),
    ]
    assert charged[0] == saved
    assert work.charged == saved.duration + charged[1].duration
    assert work.charged <= min(allowance, timedelta(seconds=time.monotonic() - began))
    assert not pods.wrote_outside("first") + pods.wrote_outside("second")


@pytest.mark.long
@pytest.mark.timeout(500)
async def test_a_detectors_evaluation_ended_by_a_sigterm_costs_nothing_and_is_repeated_by_another_worker(
    pods: Pods,
) -> None:
    await pods.plan_evaluation(detector(categories=2, size=416), scenes=120)
    with pods.worker("first", "--once") as process:
        await pods.until(lambda work: work.phase == "evaluate" and work.progress > 0, EVALUATION)
        assert await stopped(process) < 15  # nothing to save
    given_back = await pods.work(EVALUATION)
    assert (given_back.state, given_back.attempts_without_commit) == (WorkState.QUEUED, 0), pods.log("first")
    assert [(line.charged, line.reason) for line in given_back.segments] == [(False, "released")]
    with pods.worker("second", "--once") as process:
        assert await asyncio.to_thread(process.wait, 2 * START_SECONDS) == 0, pods.log("second")
    evaluation = (await pods.evaluations.get(EVALUATION)).value
    assert (evaluation.work.state, evaluation.work.attempt) == (WorkState.SUCCEEDED, 2), pods.log("second")
    assert evaluation.performance is not None
    assert [line.attempt for line in evaluation.work.segments if line.charged] == [2]
    assert not pods.wrote_outside("first") + pods.wrote_outside("second")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [0.0, 1.5, 4.0])
async def test_a_sigterm_at_any_moment_gives_the_work_back(pods: Pods, seconds: float) -> None:
    await pods.plan(tuning_recipe(max_epochs=100_000))
    with pods.worker("stopped") as process:
        await pods.until(lambda work: work.state is WorkState.RUNNING)
        await asyncio.sleep(seconds)
        await stopped(process)
    work = await pods.work()
    assert (work.state, work.attempts_without_commit, work.lease.holder) == (WorkState.QUEUED, 0, ""), pods.log(
        "stopped"
    )
    assert all(line.reason in ("checkpoint", "released") for line in work.segments)
    async with asyncio.timeout(5):  # well before the queue's lease expires
        while not (delivery := await pods.queue.fetch(jobs.KIND, timedelta(seconds=1))):
            pass
    assert delivery.deliveries == 2


async def test_a_job_that_a_stopping_ingest_worker_cannot_finish_is_redelivered_at_once(pods: Pods) -> None:
    stop, begun = asyncio.Event(), asyncio.Event()

    async def stuck(_body: bytes) -> None:
        begun.set()
        await asyncio.Event().wait()

    job = consume.Job(CHECK, stuck, stuck)
    await pods.queue.publish(CHECK, b"chunk")
    loop = consume.consume(
        pods.queue, job, clock=SystemClock(), telemetry=MemoryTelemetry(), stop=stop, grace=timedelta(seconds=0.2)
    )
    worker = asyncio.create_task(loop)
    await begun.wait()
    stop.set()
    delivery = await pods.queue.fetch(CHECK, timedelta(seconds=5))  # the queue's lease is 30 s
    assert delivery is not None
    assert (delivery.body, delivery.deliveries) == (b"chunk", 2)
    await delivery.ack()
    await worker
