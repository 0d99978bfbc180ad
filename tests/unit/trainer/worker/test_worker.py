"""The worker: whatever dies or fails at any moment, a trial is done once, charged once, and by one worker."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from pydantic import SecretStr

from services.kit import codec
from services.kit.clock import SystemClock
from services.kit.consume import Released
from services.kit.errors import BlobDamaged, Diverged, LeaseLost, RecordNotFound, Unavailable
from services.kit.memory import MemoryBlobs, MemoryRecords
from services.kit.records import Record, Table
from services.kit.telemetry import MemoryTelemetry
from services.trainer import metrics
from services.trainer.domain import Evaluation, Model, Trial
from services.trainer.evaluation_wire import evaluation_message
from services.trainer.ledger import ZERO, total
from services.trainer.messages import (
    Checkpoint,
    CheckpointDone,
    EvaluateTask,
    EvaluationResult,
    Failed,
    Message,
    Progress,
    Ready,
    Result,
    SaveNow,
    Signal,
    Task,
    TrainTask,
)
from services.trainer.performance import Source
from services.trainer.planner.plan import plan
from services.trainer.planner.steps import StartTrial
from services.trainer.recipe import Recipe
from services.trainer.settings import TrainerSettings
from services.trainer.store import Store
from services.trainer.used_weights import UsedWeights
from services.trainer.work import MAX_ATTEMPTS_WITHOUT_COMMIT, Work, WorkState
from services.trainer.worker import supervision
from services.trainer.worker.attempt import Attempt
from services.trainer.worker.child_pool import (
    Child,
    ChildDied,
    ChildHung,
    ChildNotStarted,
    ChildPool,
    DeviceUnusable,
)
from services.trainer.worker.worker import Worker
from services.trainer.worker.workspace import Workspace
from services.vision.card import ModelKind, WeightsSource
from services.vision.signatures import BUNDLE_SIGNATURES, SignatureRule
from services.vision.signing import Signer, SigningKeyUnusable, Verifier
from services.vision.snapshot import AnnotationKind, Manifest
from sightline.client.signing_keys import make as pair
from sightline.client.signing_keys import public_keys
from tests.support.status import failure_of
from tests.support.waiting import jump
from tests.unit.trainer.support import (
    DIGEST,
    START,
    TTL,
    exists,
    performance,
    predictions,
    seal_of,
    sealed,
    snapshot,
    training,
)

M = "models/m"
T0 = "models/m/trials/t000"
E0 = "models/m/evaluations/e"
FINE_TUNING = Recipe(name="tuned", rung=1, backbones=("mobilenet_v2",))

Script = Callable[[Task], AsyncGenerator[Message]]


class FastClock(SystemClock):
    """The machine's clock plus `ahead`; sleeps are short."""

    def __init__(self, ahead: timedelta = timedelta(0)) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        return super().now() + self._ahead

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead.total_seconds()

    def advance(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.005))


class FakeChild(Child):
    """Sends what its script yields."""

    asked = asyncio.Event()  # of the current test: a checkpoint was requested
    done = asyncio.Queue[CheckpointDone]()  # of the current test: answers to saved checkpoints

    def __init__(self, script: Script, device: str, devices: int) -> None:
        self.script = script
        self.ready = Ready(device=device, import_seconds=0.1, devices=devices)
        self.ended = False

    @property
    def alive(self) -> bool:
        return not self.ended

    async def run(self, task: Task) -> AsyncGenerator[Message]:
        async for message in self.script(task):
            yield message

    def tell(self, signal: Signal) -> None:
        match signal:
            case SaveNow():
                FakeChild.asked.set()
            case CheckpointDone():
                FakeChild.done.put_nowait(signal)

    async def end(self) -> int:
        self.ended = True
        return 0


class FakePool(ChildPool):
    """Each child gets the next script; the last one is repeated."""

    def __init__(self, *scripts: Script, device: str = "cpu", devices: int = 1) -> None:
        self.scripts = list(scripts)
        self.device = device
        self.devices = devices
        self.children: list[FakeChild] = []

    def prepare(self, delay_seconds: float = 0.0) -> None:
        pass

    async def take(self) -> Child:
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.children.append(FakeChild(script, self.device, self.devices))
        return self.children[-1]


def outcome(task: Task, seconds: float) -> Message:
    """A child's result, with its files written."""
    output = Path(task.output_directory)
    (output / "predictions.msgpack").write_bytes(msgspec.msgpack.encode(predictions(80)))
    if isinstance(task, EvaluateTask):
        return EvaluationResult(
            performance=performance(0.7, Source.TEST_DATASET),
            used=timedelta(seconds=seconds),
            predictions_path=str(output / "predictions.msgpack"),
        )
    (output / "bundle").mkdir(exist_ok=True)
    for name, data in sealed().items():
        (output / "bundle" / name).write_bytes(data)
    return Result(
        bundle_directory=str(output / "bundle"),
        selection_score=0.8,
        standard_error=0.04,
        selection_log_loss=0.5,
        predictions_path=str(output / "predictions.msgpack"),
        performance=performance(0.8, tags=120),
        used=timedelta(seconds=seconds),
        stop_reason="converged",
        weights_source=WeightsSource.FOLDER,
        resolution=224,
        image_count=100,
        category_count=2,
        backbones=("mobilenet_v2",),
        warnings=("Few images.",),
    )


def checkpoint(task: Task, step: int, seconds: float) -> Checkpoint:
    folder = Path(task.output_directory) / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "state").write_text(str(step))
    return Checkpoint(path=str(folder), step=step, used=timedelta(seconds=seconds))


async def succeeds(task: Task) -> AsyncGenerator[Message]:
    yield Progress(fraction=0.0, phase="fit")
    yield Progress(fraction=0.5, phase="fit")
    yield outcome(task, 0.004)


async def checkpoints(task: Task) -> AsyncGenerator[Message]:
    """Continues from its checkpoint for two more, then delivers."""
    path = task.checkpoint_path if isinstance(task, TrainTask) else None
    first = int((Path(path) / "state").read_text()) if path else 0
    for step in range(first + 1, 3):
        yield checkpoint(task, step, 0.001 * (step - first))
        while (await FakeChild.done.get()).step != step:
            pass
    yield outcome(task, 0.001 * (3 - first))


async def dies(task: Task) -> AsyncGenerator[Message]:
    yield Progress(fraction=0.0, phase="fit")
    raise ChildDied("the training process ended with status -9")


async def never_ends(task: Task) -> AsyncGenerator[Message]:
    yield Progress(fraction=0.1, phase="train")
    await asyncio.Event().wait()


async def diverges(task: Task) -> AsyncGenerator[Message]:
    error = Diverged(trial=T0, loss="nan", step=3, learning_rate=0.1, retries=3)
    yield Failed(failure=error.failure())


class FlakyRecords(MemoryRecords):
    """Fails at the n-th call, before or after its effect."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.after = False

    def _fails(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left == -1

    async def get(self, key: str) -> Record:
        if self._fails():
            raise Unavailable(what="the records", problem="it is down")
        return await super().get(key)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        fails = self._fails()
        if fails and not self.after:
            raise Unavailable(what="the records", problem="it is down")
        written = await super().update(key, value, revision)
        if fails:
            raise Unavailable(what="the records", problem="it is down")
        return written


class FlakyBlobs(MemoryBlobs):
    """Fails at the n-th call."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None

    def _call(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == -1:
                raise Unavailable(what="the store", problem="it is down")

    async def put(self, key: str, data: bytes) -> None:
        self._call()
        await super().put(key, data)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._call()
        return await super().get(key, start, length)

    async def get_file(self, key: str, path: Path) -> None:
        self._call()
        await super().get_file(key, path)

    async def delete(self, key: str) -> None:
        self._call()
        await super().delete(key)


@dataclass
class World:
    """The trial t000 of a model, and workers for it."""

    root: Path
    records: FlakyRecords = field(default_factory=FlakyRecords)
    blobs: FlakyBlobs = field(default_factory=FlakyBlobs)
    telemetry: MemoryTelemetry = field(default_factory=MemoryTelemetry)
    clock: FastClock = field(default_factory=FastClock)
    lease_seconds: float = 15.0

    async def begin(self, allowance: float = 100.0, **changes: Any) -> None:
        manifest = Manifest(
            kind=AnnotationKind.IMAGE_CLASSIFICATION, categories=(), shards=(), image_count=100, digest=DIGEST
        )
        await self.blobs.put(snapshot().manifest_key, manifest.encode())
        step = plan(training(), [], None)
        assert isinstance(step, StartTrial)
        trial = Trial(
            name=T0,
            model_uid="uid1",
            number=0,
            training=snapshot(),
            recipe=changes.pop("recipe", step.recipe),
            holdout_fraction=0.2,
            seed=7,
            work=Work(create_time=START, allowance=timedelta(seconds=allowance)),
            update_time=START,
        )
        await self.table.create(T0, replace(trial, **changes))
        await self.models.create(M, training())

    async def begin_evaluation(self, *, bundle: bool = True) -> None:
        await self.begin()
        files = sealed()
        for name, data in files.items() if bundle else ():
            await self.blobs.put(f"models/m/uid1/trials/t000/1/bundle/{name}", data)
        evaluation = Evaluation(
            name=E0,
            model_uid="uid1",
            test_dataset="datasets/test",
            test=snapshot(),
            model_version="v1",
            bundle_key="models/m/uid1/trials/t000/1/bundle/",
            bundle_digest=seal_of(files),
            model_kind=ModelKind.GENERIC_CLASSIFIER,
            work=Work(create_time=START, allowance=timedelta(seconds=100)),
            update_time=START,
        )
        await self.evaluations.create(E0, evaluation)

    @property
    def models(self) -> Table[Model]:
        return Table(self.records, Model)

    @property
    def table(self) -> Table[Trial]:
        return Table(self.records, Trial)

    @property
    def evaluations(self) -> Table[Evaluation]:
        return Table(self.records, Evaluation)

    def worker(
        self,
        *scripts: Script,
        name: str = "w1",
        pool: ChildPool | None = None,
        stop: asyncio.Event | None = None,
        **changes: Any,
    ) -> Worker:
        chosen: dict[str, Any] = {"lease_seconds": self.lease_seconds, "heartbeat_seconds": 0.005, **changes}
        return Worker(
            name,
            Store.over(self.records),
            Workspace(self.root / name, self.blobs),
            pool or FakePool(*scripts),
            TrainerSettings(**chosen),
            self.clock,
            self.telemetry,
            stop,
        )

    async def trial(self) -> Trial:
        """The stored trial, even during a simulated outage."""
        return codec.decode((await MemoryRecords.get(self.records, T0)).value, Trial)

    async def change(self, decide: Callable[[Work], Work]) -> None:
        await self.table.change(T0, lambda trial: trial.with_work(decide(trial.work), START))

    async def until(self, holds: Callable[[Trial], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds(await self.trial()):  # noqa: ASYNC110 - what is waited for is a record
                await asyncio.sleep(0.002)


def adds_up(work: Work) -> bool:
    charged = total(segment.duration for segment in work.segments if segment.charged)
    return charged == work.charged <= work.allowance


@pytest.fixture(autouse=True)
def _short_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "OUTAGE_SECONDS", 0.001)
    monkeypatch.setattr(FakeChild, "asked", asyncio.Event())
    monkeypatch.setattr(FakeChild, "done", asyncio.Queue())


@pytest.fixture
def at(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_trial_that_succeeds_leaves_bundle_predictions_performance_and_its_result(at: World) -> None:
    await at.begin()
    pool = FakePool(succeeds)
    await at.worker(pool=pool).handle(T0)
    trial = await at.trial()
    assert trial.work.state is WorkState.SUCCEEDED
    assert trial.work.charged.total_seconds() == 0.004
    assert trial.work.progress == 1
    assert trial.result is not None
    assert trial.result.backbones == ("mobilenet_v2",)
    assert trial.result.warnings == ("Few images.",)
    assert await exists(at.blobs, f"{trial.result.bundle_key}card.json")
    assert await exists(at.blobs, trial.result.predictions_key)
    whole = codec.decode(await at.blobs.get(trial.result.performance_key), type(trial.result.performance))
    assert len(whole.tag_performance) == 120
    assert trial.result.performance.tag_performance == {}
    assert pool.children[0].ended
    assert list((at.root / "w1" / "attempts").iterdir()) == []
    assert trial.work.ends == {"succeeded": 1}
    assert trial.work.tally.charged.total_seconds() == 0.004


@pytest.mark.parametrize("device", ["cpu", "cuda"])
async def test_a_task_names_its_dataset_and_its_child_s_device(at: World, device: str) -> None:
    told: list[tuple[str, str]] = []

    async def listens(task: Task) -> AsyncGenerator[Message]:
        assert isinstance(task, TrainTask)
        told.append((task.device, task.dataset))
        async for message in succeeds(task):
            yield message

    await at.begin()
    await at.worker(pool=FakePool(listens, device=device)).handle(T0)
    assert told == [(device, snapshot().dataset)]
    assert at.telemetry.value(metrics.DEVICE, device=device) == 1


def told_thresholds() -> tuple[list[dict[str, float]], Callable[[Task], AsyncGenerator[Message]]]:
    """A child that notes the thresholds that it is given, and those."""
    told: list[dict[str, float]] = []

    async def listens(task: Task) -> AsyncGenerator[Message]:
        assert isinstance(task, TrainTask)
        told.append(task.thresholds)
        yield outcome(task, 0.001)

    return told, listens


async def test_a_refit_gets_the_thresholds_of_the_trial_that_it_repeats(at: World) -> None:
    told, listens = told_thresholds()
    await at.begin()
    await at.worker(listens).handle(T0)
    done = await at.trial()
    assert done.result is not None
    assert done.result.performance.tag_performance == {}, "too many for its record, not for the refit"
    again = replace(done, result=None, work=Work(create_time=START, allowance=timedelta(seconds=9.0)), parent_trial=T0)
    refit = msgspec.structs.replace(done.recipe, refit=True)
    for number, (parent, recipe) in enumerate([(T0, refit), ("models/m/trials/t009", refit), (T0, done.recipe)], 1):
        name = f"models/m/trials/t{number:03d}"
        await at.table.create(name, replace(again, name=name, number=number, parent_trial=parent, recipe=recipe))
        await at.worker(listens).handle(name)
    assert told == [{}, {f"category {number}": 0.5 for number in range(120)}, {}, {}]


async def test_a_refit_beside_the_trial_that_it_repeats_gets_the_thresholds_of_the_one_before(at: World) -> None:
    told, listens = told_thresholds()
    await at.begin()
    await at.worker(listens).handle(T0)
    done = await at.trial()
    queued = Work(create_time=START, allowance=timedelta(seconds=9.0))
    long, refit = (T0.replace("t000", f"t00{number}") for number in (1, 2))
    runs = replace(done, name=long, number=1, result=None, parent_trial=T0, work=queued)
    repeats = msgspec.structs.replace(done.recipe, refit=True)
    await at.table.create(long, runs)
    await at.table.create(refit, replace(runs, name=refit, number=2, recipe=repeats, parent_trial=long))
    await at.worker(listens).handle(refit)
    assert told == [{}, {f"category {number}": 0.5 for number in range(120)}]


async def test_a_trial_gets_the_digests_of_the_packs_to_use_and_keeps_those_that_it_used(
    at: World,
) -> None:
    told: list[tuple[UsedWeights, ...]] = []
    used = UsedWeights(network="squeezenet1_1", source=WeightsSource.STORE, sha256="aa")

    async def listens(task: Task) -> AsyncGenerator[Message]:
        assert isinstance(task, TrainTask)
        told.append(task.weights)
        yield msgspec.structs.replace(outcome(task, 0.001), weights=(used,))

    await at.begin()
    first = await at.trial()
    await at.worker(listens).handle(T0)
    done = await at.trial()
    assert done.result
    assert done.result.weights == (used,)
    later = "models/m/trials/t001"
    await at.table.create(later, replace(first, name=later, number=1, weights=(used,)))
    await at.worker(listens).handle(later)
    assert told == [(), (used,)]


def names_in(directory: str) -> list[str]:
    return [path.name for path in Path(directory).iterdir()]


async def test_a_trial_that_continues_a_model_gets_its_bundle(at: World) -> None:
    given: list[str] = []

    async def listens(task: Task) -> AsyncGenerator[Message]:
        assert isinstance(task, TrainTask)
        assert task.base_directory is not None
        given.extend(names_in(task.base_directory))
        yield outcome(task, 0.001)

    await at.begin()
    for file, data in sealed().items():
        await at.blobs.put(f"models/m/uid1/base/{file}", data)
    found = await at.trial()
    for number, key in enumerate(("models/m/uid1/base/", "models/m/uid1/gone/"), 1):
        name = f"models/m/trials/t{number:03d}"
        await at.table.create(name, replace(found, name=name, number=number, base_key=key))
        await at.worker(listens).handle(name)
    assert sorted(given) == ["card.json", "digests.json", "weights.safetensors"]
    failed = (await at.table.get("models/m/trials/t002")).value
    assert failed.work.error is not None
    assert failed.work.error.reason == "ModelNotFound"


async def test_an_evaluation_that_succeeds_leaves_its_performance(at: World) -> None:
    told: list[str] = []

    async def listens(task: Task) -> AsyncGenerator[Message]:
        assert isinstance(task, EvaluateTask)
        told.append(task.dataset)
        async for message in succeeds(task):
            yield message

    await at.begin_evaluation()
    await at.worker(listens).handle(E0)
    assert told == ["datasets/test"]
    evaluation = (await at.evaluations.get(E0)).value
    assert evaluation.work.state is WorkState.SUCCEEDED
    assert evaluation.performance is not None
    assert evaluation.performance.accuracy_top1 == 0.7
    assert await exists(at.blobs, evaluation.performance_key)


async def test_an_evaluation_of_a_deleted_bundle_fails_with_the_model_s_name(at: World) -> None:
    await at.begin_evaluation(bundle=False)
    await at.worker(succeeds).handle(E0)
    error = (await at.evaluations.get(E0)).value.work.error
    assert error is not None
    assert (error.reason, error.metadata["name"]) == ("ModelNotFound", "models/m")
    message = evaluation_message(await at.evaluations.get(E0))
    assert failure_of(message.error).reason == "modelNotFound"


async def tampered(at: World, key: str) -> None:
    """Swaps a label in the card, and makes `digests.json` agree."""
    for name, data in sealed(card=b'{"categories": []}').items():
        await at.blobs.put(f"{key}{name}", data)


async def test_an_evaluation_of_a_changed_bundle_fails_and_says_what_differs(at: World) -> None:
    await at.begin_evaluation()
    await tampered(at, "models/m/uid1/trials/t000/1/bundle/")
    await at.worker(succeeds).handle(E0)
    error = (await at.evaluations.get(E0)).value.work.error
    assert error is not None
    assert error.reason == "bundleUnusable"
    assert "digests.json is sha256:" in error.message
    assert "the model's record says sha256:" in error.message


async def test_a_trial_that_continues_a_changed_bundle_fails_until_it_is_restored(at: World) -> None:
    await at.begin()
    await tampered(at, "models/m/uid1/base/")
    found = await at.trial()
    for name in ("models/m/trials/t001", "models/m/trials/t002"):
        trial = replace(found, name=name, base_key="models/m/uid1/base/", base_digest=seal_of(sealed()))
        await at.table.create(name, trial)
    worker = at.worker(succeeds)
    await worker.handle("models/m/trials/t001")
    failed = (await at.table.get("models/m/trials/t001")).value.work.error
    assert failed is not None
    assert failed.reason == "bundleUnusable"
    for file, data in sealed().items():
        await at.blobs.put(f"models/m/uid1/base/{file}", data)
    await worker.handle("models/m/trials/t002")
    assert (await at.table.get("models/m/trials/t002")).value.work.state is WorkState.SUCCEEDED


async def test_a_bundle_of_an_earlier_version_has_no_digest_and_is_used_with_a_warning(
    at: World, caplog: pytest.LogCaptureFixture
) -> None:
    await at.begin_evaluation()
    evaluation = await at.evaluations.get(E0)
    await at.evaluations.change(E0, lambda now: replace(now, bundle_digest=""))
    assert evaluation.value.bundle_digest
    await at.worker(succeeds).handle(E0)
    assert (await at.evaluations.get(E0)).value.work.state is WorkState.SUCCEEDED
    assert "bundle_without_digest" in caplog.text


async def test_a_trial_s_result_has_the_digest_the_size_and_the_signature_of_its_bundle(at: World) -> None:
    await at.begin()
    private, public = pair()
    await at.worker(succeeds, signing_key=SecretStr(private)).handle(T0)
    result = (await at.trial()).result
    assert result is not None
    assert result.bundle_digest == seal_of(sealed())
    assert result.bundle_bytes == sum(map(len, sealed().values()))
    verifier = Verifier(public_keys(public.encode()), SignatureRule.REQUIRE, at.telemetry)
    verifier.check("models/m", "v", result.bundle_digest, result.bundle_signature)


async def test_a_worker_measures_and_continues_only_bundles_that_the_installation_signed(
    at: World, tmp_path: Path
) -> None:
    (private, public), (stranger, _) = pair(), pair()
    keys = tmp_path / "bundle-key.pem"
    keys.write_text(public)
    by_whom, digest = {key: signer_of(key) for key in (private, stranger)}, seal_of(sealed())
    worker = at.worker(succeeds, signing_key=SecretStr(private), bundle_key=keys)
    await at.begin_evaluation()
    for file, data in sealed().items():
        await at.blobs.put(f"models/m/uid1/base/{file}", data)
    evaluation, trial = (await at.evaluations.get(E0)).value, await at.trial()
    cases = (
        (private, "models/m", "models/b", WorkState.SUCCEEDED),
        (stranger, "models/m", "models/b", WorkState.FAILED),
        (private, "models/b", "models/m", WorkState.FAILED),  # the signature of another model's bundle
        ("", "", "", WorkState.FAILED),
    )
    for number, (key, measured, continued, state) in enumerate(cases, 1):
        signatures = [by_whom[key].sign(model, digest) if key else "" for model in (measured, continued)]
        name = f"models/m/evaluations/e{number}"
        await at.evaluations.create(name, replace(evaluation, name=name, bundle_signature=signatures[0]))
        await worker.handle(name)
        work = (await at.evaluations.get(name)).value.work
        assert (work.state, work.error and work.error.reason) == (state, _reason(state))
        name = f"models/m/trials/t{number:03d}"
        base = {"base_key": "models/m/uid1/base/", "base_digest": digest, "base_model": "models/b"}
        await at.table.create(name, replace(trial, name=name, base_signature=signatures[1], **base))
        await worker.handle(name)
        work = (await at.table.get(name)).value.work
        assert (work.state, work.error and work.error.reason) == (state, _reason(state))
    assert at.telemetry.value(BUNDLE_SIGNATURES, result="valid") == 2
    assert at.telemetry.value(BUNDLE_SIGNATURES, result="refused") == 6


def _reason(state: WorkState) -> str | None:
    return None if state is WorkState.SUCCEEDED else "bundleUnusable"


def signer_of(private: str) -> Signer:
    signer = Signer.of(private)
    assert signer
    return signer


async def test_a_worker_whose_bundles_would_be_refused_does_not_start(at: World, tmp_path: Path) -> None:
    (private, public), (stranger, _) = pair(), pair()
    keys = tmp_path / "bundle-key.pem"
    keys.write_text(public)
    with pytest.raises(SigningKeyUnusable, match="SIGHTLINE_BUNDLE_KEY lacks the public key"):
        at.worker(succeeds, signing_key=SecretStr(stranger), bundle_key=keys)
    with pytest.raises(SigningKeyUnusable, match="SIGHTLINE_SIGNING_KEY is not set"):
        at.worker(succeeds, bundle_key=keys)
    at.worker(succeeds, bundle_key=keys, bundle_signatures=SignatureRule.ACCEPT)
    at.worker(succeeds, signing_key=SecretStr(private), bundle_key=keys)


async def test_a_folder_is_fetched_whatever_the_length_of_its_model_s_name(tmp_path: Path) -> None:
    blobs, prefix = MemoryBlobs(), f"models/{'m' * 255}/uid/trials/t000/1/bundle/"
    await blobs.put(f"{prefix}card.json", b"{}")
    fetched = await Workspace(tmp_path, blobs).folder(prefix)
    assert (fetched / "card.json").read_bytes() == b"{}"


async def test_a_slower_device_is_charged_by_its_factor(at: World) -> None:
    await at.begin()
    await at.worker(succeeds, device_factor=0.5).handle(T0)
    assert (await at.trial()).work.charged.total_seconds() == 0.002


@pytest.mark.parametrize(("factor", "devices", "charge"), [(1.0, 1, 1.0), (4.0, 1, 4.0), (0.5, 8, 4.0)])
async def test_a_child_knows_what_its_time_is_charged_as(at: World, factor: float, devices: int, charge: float) -> None:
    tasks: list[Task] = []

    async def notes(task: Task) -> AsyncGenerator[Message]:
        tasks.append(task)
        yield outcome(task, 0.001)

    await at.begin(allowance=60.0)
    await at.worker(pool=FakePool(notes, devices=devices), device_factor=factor).handle(T0)
    assert [(task.charge, task.allowance.total_seconds()) for task in tasks] == [(charge, 60.0 / charge)]


async def test_a_trial_whose_child_dies_resumes_from_its_checkpoint(at: World) -> None:
    async def dies_after_a_checkpoint(task: Task) -> AsyncGenerator[Message]:
        yield checkpoint(task, 1, 0.002)
        at.clock.advance(0.02)  # recorded by a heartbeat, then lost
        await at.until(lambda trial: trial.work.pending > ZERO)
        raise ChildDied("the training process ended with status -9")

    await at.begin()
    await at.worker(dies_after_a_checkpoint, checkpoints).handle(T0)
    trial = await at.trial()
    assert trial.work.state is WorkState.SUCCEEDED
    assert trial.work.attempt == 2
    lines = [(line.attempt, line.reason, line.charged) for line in trial.work.segments]
    assert lines == [
        (1, "checkpoint", True),
        (1, "workerLost", False),
        (2, "checkpoint", True),
        (2, "finished", True),
    ]
    assert trial.work.charged.total_seconds() == 0.004
    assert not [blob async for blob in at.blobs.list("models/") if "checkpoint" in blob.key]


async def test_a_trial_whose_checkpoint_is_missing_starts_over(at: World) -> None:
    await at.begin()
    await at.change(
        lambda work: (
            work.taken(T0, "w0", START, TTL)
            .committed(
                START, TTL, used=timedelta(seconds=0.5), checkpoint_key="models/m/uid1/trials/t000/1/checkpoint-9/"
            )
            .released(START)
        )
    )
    await at.worker(checkpoints).handle(T0)
    work = (await at.trial()).work
    assert work.state is WorkState.SUCCEEDED
    assert work.charged.total_seconds() == 0.503


async def test_a_trial_whose_child_dies_five_times_fails_with_the_problem(at: World) -> None:
    await at.begin()
    pool = FakePool(dies)
    await at.worker(pool=pool).handle(T0)
    work = (await at.trial()).work
    assert len(pool.children) == MAX_ATTEMPTS_WITHOUT_COMMIT
    assert work.state is WorkState.FAILED
    assert work.error is not None
    assert "status -9" in work.error.message
    assert work.charged == ZERO
    assert work.ends == {"died": MAX_ATTEMPTS_WITHOUT_COMMIT}
    assert work.given_up


async def test_a_trial_whose_workers_all_died_is_given_up_by_the_next_one(at: World) -> None:
    await at.begin()
    for number in range(MAX_ATTEMPTS_WITHOUT_COMMIT):
        moment = START + (number + 1) * TTL
        await at.change(lambda work, number=number, moment=moment: work.taken(T0, f"w{number}", moment - TTL, TTL / 2))
    await at.worker(succeeds).handle(T0)
    await at.worker(succeeds).handle(T0)
    work = (await at.trial()).work
    assert work.state is WorkState.FAILED
    assert work.given_up
    assert work.ends == {"lease_lost": MAX_ATTEMPTS_WITHOUT_COMMIT}


async def test_a_worker_counts_what_its_children_report(at: World) -> None:
    await at.begin()
    await at.worker(succeeds).handle(T0)
    seconds = {dict(labels)["phase"] for name, labels in at.telemetry.values if name == metrics.PHASE_SECONDS.name}
    assert {"preparing", "fit"} <= seconds
    assert at.telemetry.value(metrics.DEVICE, device="cpu") == 1
    assert at.telemetry.observed[metrics.CHILD_START_SECONDS.name, ()] == [0.1]


async def test_a_defect_ends_an_attempt_like_a_death(at: World) -> None:
    async def breaks(task: Task) -> AsyncGenerator[Message]:
        yield Progress(fraction=0.0, phase="fit")
        raise KeyError("no such thing")

    await at.begin()
    await at.worker(breaks, succeeds).handle(T0)
    assert (await at.trial()).work.state is WorkState.SUCCEEDED


async def test_a_named_failure_ends_the_trial_at_once(at: World) -> None:
    await at.begin()
    await at.worker(diverges).handle(T0)
    work = (await at.trial()).work
    assert (work.state, work.attempt, work.charged.total_seconds()) == (WorkState.FAILED, 1, 0)
    assert work.error is not None
    assert work.error.reason == "diverged"


async def test_a_trial_that_uses_up_its_allowance_is_stopped_and_charged_exactly_that(at: World) -> None:
    await at.begin(allowance=0.05)
    pool = FakePool(never_ends)
    await at.worker(pool=pool).handle(T0)
    work = (await at.trial()).work
    assert work.state is WorkState.STOPPED
    assert work.charged.total_seconds() == 0.05
    assert pool.children[0].ended


async def test_a_timeout_of_the_store_does_not_count_as_a_used_up_allowance(at: World) -> None:
    class Slow(FlakyBlobs):
        async def put_file(self, key: str, path: Path) -> None:
            raise TimeoutError("too slow")

    at.blobs = Slow()
    await at.begin()
    await at.worker(checkpoints).handle(T0)
    work = (await at.trial()).work
    assert work.state is WorkState.FAILED
    assert work.charged == ZERO


async def test_the_time_of_a_slow_store_is_not_charged(at: World) -> None:
    class Slow(FlakyBlobs):
        async def put_file(self, key: str, path: Path) -> None:
            at.clock.advance(0.5)
            await jump(0.5)
            await super().put_file(key, path)

    async def saves_and_delivers(task: Task) -> AsyncGenerator[Message]:
        yield checkpoint(task, 1, 0.001)
        yield outcome(task, 0.003)

    at.blobs = Slow()
    await at.begin(allowance=0.4)
    await at.worker(saves_and_delivers).handle(T0)
    work = (await at.trial()).work
    assert work.state is WorkState.SUCCEEDED
    assert work.charged.total_seconds() == 0.003


class BlindPool(FakePool):
    """The GPU has failed."""

    async def take(self) -> Child:
        raise DeviceUnusable("the GPU is gone")


async def test_a_worker_whose_device_fails_gives_its_work_back_and_takes_no_more(at: World) -> None:
    await at.begin()
    stop = asyncio.Event()
    worker = at.worker(pool=BlindPool(never_ends), stop=stop)
    for _ in range(2):
        with pytest.raises(Released):
            await worker.handle(T0)
    assert stop.is_set()
    work = (await at.trial()).work
    assert (work.state, work.attempt, work.attempts_without_commit) == (WorkState.QUEUED, 1, 0)
    assert work.is_due(FastClock().now())


async def test_a_worker_whose_children_do_not_start_gives_its_work_back_however_often(at: World) -> None:
    class BrokenPool(FakePool):
        async def take(self) -> Child:
            raise ChildNotStarted("the training process did not start; it ended with status 1")

    await at.begin()
    worker = at.worker(pool=BrokenPool(never_ends))
    for _ in range(2 * MAX_ATTEMPTS_WITHOUT_COMMIT):
        with pytest.raises(Unavailable, match="status 1"):
            await worker.handle(T0)
    work = (await at.trial()).work
    assert (work.state, work.attempts_without_commit) == (WorkState.QUEUED, 0)
    await at.worker(succeeds, name="w2").handle(T0)
    assert (await at.trial()).work.state is WorkState.SUCCEEDED


async def hangs_after_a_checkpoint(task: Task) -> AsyncGenerator[Message]:
    yield checkpoint(task, 1, 0.002)
    await FakeChild.done.get()
    await asyncio.sleep(0.02)  # of which a heartbeat reports a part
    raise ChildHung("the training process sent nothing for 300 s and was ended")


async def test_a_hanging_child_s_trial_goes_to_any_worker_from_its_checkpoint_uncharged_since(at: World) -> None:
    await at.begin()
    pool = FakePool(hangs_after_a_checkpoint, checkpoints)
    with pytest.raises(Released):
        await at.worker(pool=pool).handle(T0)
    assert len(pool.children) == 1, "the worker does not try again before others could"
    work = (await at.trial()).work
    assert (work.state, work.charged.total_seconds(), work.ends) == (WorkState.QUEUED, 0.002, {"hung": 1})
    assert work.is_due(FastClock().now())
    await at.worker(checkpoints, name="w2").handle(T0)
    work = (await at.trial()).work
    assert (work.state, work.attempt) == (WorkState.SUCCEEDED, 2)
    assert {line.reason for line in work.segments if not line.charged} == {"workerLost"}


async def hangs(task: Task) -> AsyncGenerator[Message]:
    yield Progress(fraction=0.0, phase="features")
    raise ChildHung("the training process sent nothing for 300 s and was ended")


async def test_a_trial_that_hangs_every_time_is_given_up(at: World) -> None:
    await at.begin()
    worker = at.worker(hangs)
    for _ in range(MAX_ATTEMPTS_WITHOUT_COMMIT - 1):
        with pytest.raises(Released):
            await worker.handle(T0)
    await worker.handle(T0)
    work = (await at.trial()).work
    assert (work.state, work.charged, work.given_up) == (WorkState.FAILED, ZERO, True)
    assert work.ends == {"hung": MAX_ATTEMPTS_WITHOUT_COMMIT}


async def test_a_result_whose_child_cannot_be_killed_is_kept_and_the_worker_takes_no_more(at: World) -> None:
    class Unkillable(FakePool):
        async def take(self) -> Child:
            child = await super().take()
            child.end = self.fail
            return child

        async def fail(self) -> int:
            raise DeviceUnusable("process 7 cannot be killed")

    await at.begin()
    stop = asyncio.Event()
    worker = at.worker(pool=Unkillable(succeeds), stop=stop)
    with pytest.raises(Released):
        await worker.handle(T0)
    assert stop.is_set()
    assert (await at.trial()).work.state is WorkState.SUCCEEDED


async def test_cancelling_stops_the_child_and_charges_what_it_did(at: World) -> None:
    await at.begin()
    pool = FakePool(never_ends)
    task = asyncio.create_task(at.worker(pool=pool).handle(T0))
    await at.until(lambda trial: trial.work.pending > ZERO)
    await at.change(lambda work: replace(work, cancel_requested=True))
    await asyncio.wait_for(task, 30)
    work = (await at.trial()).work
    assert work.state is WorkState.CANCELLED
    assert 0 < work.charged.total_seconds() < 5
    assert pool.children[0].ended


async def test_work_that_was_cancelled_while_it_waited_does_not_start(at: World) -> None:
    await at.begin()
    await at.change(lambda work: replace(work, cancel_requested=True))
    pool = FakePool(never_ends)
    await at.worker(pool=pool).handle(T0)
    assert (await at.trial()).work.state is WorkState.CANCELLED
    assert not pool.children


async def test_a_worker_that_lost_its_lease_stops_its_child_and_writes_nothing(at: World) -> None:
    await at.begin()
    pool = FakePool(never_ends)
    task = asyncio.create_task(at.worker(pool=pool).handle(T0))
    await at.until(lambda trial: trial.work.pending > ZERO)
    rival = await Attempt[Trial].begin(at.table, T0, "w2", FastClock(timedelta(seconds=60)), TTL, 1.0)
    assert rival is not None
    await asyncio.wait_for(task, 30)
    trial = await at.trial()
    assert (trial.work.lease.holder, trial.work.state, trial.work.attempt) == ("w2", WorkState.RUNNING, 2)
    assert pool.children[0].ended
    assert trial.work.ends == {"lease_lost": 1}


async def test_an_attempt_at_a_deleted_trial_writes_nothing_into_another_models_trial_of_the_same_name(
    at: World,
) -> None:
    await at.begin()
    old, fresh = await Attempt[Trial].begin(at.table, T0, "w1", FastClock(), TTL, 1.0), await at.trial()
    assert old is not None
    await at.table.delete(T0)
    await at.table.create(T0, replace(fresh, model_uid="another"))
    used = timedelta(seconds=1)
    for report in (old.beat(used, 0.5, "fit"), old.commit(used, "c/"), old.end(lambda work: work.stopped(START))):
        with pytest.raises(LeaseLost):
            await report
    assert (await at.trial()).work == fresh.work


async def test_an_attempt_at_a_deleted_evaluation_writes_nothing_into_a_later_one_of_the_same_name(at: World) -> None:
    await at.begin_evaluation()
    begun = await Attempt[Evaluation].begin(at.evaluations, E0, "w1", FastClock(), TTL, 1.0)
    assert begun is not None
    await at.evaluations.delete(E0)
    await at.evaluations.create(E0, replace(begun.record, uid="another"))
    with pytest.raises(LeaseLost):
        await begun.beat(timedelta(seconds=1), 0.5, "predict")


async def test_an_evaluation_that_an_earlier_version_stored_keeps_its_place_among_the_blobs(at: World) -> None:
    await at.begin_evaluation()
    old = (await at.evaluations.get(E0)).value
    assert old.blob_prefix == "models/m/uid1/evaluations/e/"
    assert replace(old, uid="uid2").blob_prefix == "models/m/uid1/evaluations/uid2/"


async def test_a_deleted_trial_stops_its_worker(at: World) -> None:
    await at.begin()
    task = asyncio.create_task(at.worker(never_ends).handle(T0))
    await at.until(lambda trial: trial.work.pending > ZERO)
    await at.table.delete(T0)
    await asyncio.wait_for(task, 30)
    with pytest.raises(RecordNotFound):
        await at.trial()


async def saves_and_waits(task: Task) -> AsyncGenerator[Message]:
    yield checkpoint(task, 1, 0.001)
    await asyncio.Event().wait()


async def test_what_a_worker_stored_of_a_deleted_model_is_removed_when_it_loses_its_lease(at: World) -> None:
    await at.begin()
    task = asyncio.create_task(at.worker(saves_and_waits).handle(T0))
    await at.until(lambda trial: bool(trial.work.checkpoint_key))
    await at.models.delete(M)
    await at.table.delete(T0)
    await asyncio.wait_for(task, 30)
    assert [blob.key async for blob in at.blobs.list("models/")] == []


async def test_what_a_worker_stored_of_a_deleted_evaluation_is_removed_when_it_loses_its_lease(
    at: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at.begin_evaluation()
    put = at.blobs.put_file

    async def late(key: str, path: Path) -> None:
        await at.evaluations.delete(E0)
        await put(key, path)

    monkeypatch.setattr(at.blobs, "put_file", late)
    await at.worker(succeeds).handle(E0)
    assert (await at.models.get(M)).value.uid == "uid1"
    assert [blob.key async for blob in at.blobs.list("models/m/uid1/evaluations/")] == []


async def test_a_damaged_checkpoint_starts_the_trial_over(at: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await at.begin(recipe=FINE_TUNING)
    task = asyncio.create_task(at.worker(saves_and_waits).handle(T0))
    await at.until(lambda trial: bool(trial.work.checkpoint_key))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    async def damaged(key: str, path: Path) -> None:
        raise BlobDamaged(name=key, found="a", expected="b")

    monkeypatch.setattr(at.blobs, "get_file", damaged)
    seen: list[Task] = []

    async def notes(task: Task) -> AsyncGenerator[Message]:
        seen.append(task)
        yield outcome(task, 0.001)

    await at.worker(notes, name="w2").handle(T0)
    assert [task.checkpoint_path for task in seen if isinstance(task, TrainTask)] == [None]
    assert (await at.trial()).work.state is WorkState.SUCCEEDED


async def test_a_superseded_worker_leaves_what_its_successor_continues_from(at: World) -> None:
    await at.begin()
    task = asyncio.create_task(at.worker(saves_and_waits).handle(T0))
    await at.until(lambda trial: bool(trial.work.checkpoint_key))
    rival = await Attempt[Trial].begin(at.table, T0, "w2", FastClock(timedelta(seconds=60)), TTL, 1.0)
    assert rival is not None
    await asyncio.wait_for(task, 30)
    assert [blob.key async for blob in at.blobs.list(rival.record.work.checkpoint_key)]


async def test_a_stopped_worker_gives_its_work_back_at_once(at: World) -> None:
    await at.begin()
    pool = FakePool(never_ends)
    task = asyncio.create_task(at.worker(pool=pool).handle(T0))
    await at.until(lambda trial: trial.work.pending > ZERO)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    work = (await at.trial()).work
    assert work.state is WorkState.QUEUED
    assert work.is_due(FastClock().now())
    assert (work.charged.total_seconds(), work.attempts_without_commit) == (0, 0)
    assert [line.reason for line in work.segments] == ["released"]
    assert pool.children[0].ended


async def saves_when_asked(task: Task) -> AsyncGenerator[Message]:
    """Works until a checkpoint is requested, sends it, and never ends."""
    yield Progress(fraction=0.1, phase="train")
    await FakeChild.asked.wait()
    yield checkpoint(task, 5, 0.003)
    await asyncio.Event().wait()


async def test_a_stop_waits_for_a_last_checkpoint_and_gives_the_work_back(at: World) -> None:
    await at.begin(recipe=FINE_TUNING)
    stop = asyncio.Event()
    handling = asyncio.create_task(at.worker(saves_when_asked, stop=stop).handle(T0))
    await at.until(lambda trial: trial.work.pending.total_seconds() > 0.005)
    stop.set()
    with pytest.raises(Released):
        await handling
    work = (await at.trial()).work
    assert (work.state, work.attempts_without_commit, work.lease.holder) == (WorkState.QUEUED, 0, "")
    assert [(line.duration.total_seconds(), line.reason) for line in work.segments if line.charged] == [
        (0.003, "checkpoint")
    ]
    assert await exists(at.blobs, f"{work.checkpoint_key}state")
    await at.worker(checkpoints, name="w2").handle(T0)
    assert (await at.trial()).work.state is WorkState.SUCCEEDED


async def test_a_stop_gives_work_without_checkpoints_back_at_once(at: World) -> None:
    await at.begin()
    stop = asyncio.Event()
    handling = asyncio.create_task(at.worker(never_ends, stop=stop).handle(T0))
    await at.until(lambda trial: trial.work.pending > ZERO)
    stop.set()
    with pytest.raises(Released):
        await asyncio.wait_for(handling, 5)
    work = (await at.trial()).work
    assert (work.state, work.charged.total_seconds(), work.attempts_without_commit) == (WorkState.QUEUED, 0, 0)


async def test_a_stop_waits_only_briefly_for_a_child_that_never_saves(
    at: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "LAST_SECONDS", 0.05)
    await at.begin(recipe=FINE_TUNING)
    stop = asyncio.Event()
    handling = asyncio.create_task(at.worker(never_ends, stop=stop).handle(T0))
    await at.until(lambda trial: trial.work.pending > ZERO)
    stop.set()
    with pytest.raises(Released):
        await asyncio.wait_for(handling, 5)
    assert (await at.trial()).work.state is WorkState.QUEUED


async def test_a_result_that_is_being_stored_when_the_stop_comes_is_kept(at: World) -> None:
    stop = asyncio.Event()

    class Slow(FlakyBlobs):
        async def put_file(self, key: str, path: Path) -> None:
            stop.set()
            await jump(0)
            await super().put_file(key, path)

    at.blobs = Slow()
    await at.begin(recipe=FINE_TUNING)
    assert await at.worker(succeeds, stop=stop).handle(T0)
    assert (await at.trial()).work.state is WorkState.SUCCEEDED


async def test_a_stopped_worker_starts_nothing(at: World) -> None:
    await at.begin()
    stop = asyncio.Event()
    stop.set()
    with pytest.raises(Released):
        await at.worker(succeeds, stop=stop).handle(T0)
    assert (await at.trial()).work.attempt == 0


async def test_handling_a_job_tells_whether_there_was_anything_to_do(at: World) -> None:
    await at.begin()
    assert await at.worker(succeeds).handle(T0)
    assert not await at.worker(succeeds).handle(T0)


async def test_a_job_that_is_delivered_twice_is_done_once(at: World) -> None:
    await at.begin()
    pool = FakePool(checkpoints)
    one, two = at.worker(pool=pool), at.worker(pool=pool, name="w2")
    await asyncio.gather(one.handle(T0), two.handle(T0))
    await one.handle(T0)
    assert len(pool.children) == 1
    work = (await at.trial()).work
    assert (work.state, work.attempt) == (WorkState.SUCCEEDED, 1)


async def test_jobs_for_deleted_resources_are_done(at: World) -> None:
    worker = at.worker(succeeds)
    await worker.handle("models/gone/trials/t000")
    await worker.handle("models/gone/evaluations/e")


async def finished_in_spite_of_outages(at: World) -> Trial:
    """Delivers the job repeatedly, as the queue does, until the trial has ended."""
    worker = at.worker(checkpoints)
    for _ in range(20):
        try:
            await asyncio.wait_for(worker.handle(T0), 30)
        except Unavailable:
            continue
        if (found := await at.trial()).work.ended:
            return found
    raise AssertionError(f"it never ended: {await at.trial()}")


@pytest.mark.parametrize("after", [False, True])
async def test_an_outage_of_the_records_at_any_call_costs_nothing(tmp_path: Path, after: bool) -> None:
    failed = 0
    for number in range(200):
        at = World(tmp_path / str(number))
        await at.begin()
        at.records.left, at.records.after = number, after
        trial = await finished_in_spite_of_outages(at)
        assert trial.work.state is WorkState.SUCCEEDED, number
        assert adds_up(trial.work), number
        # 3 ms of work; what is repeated after a lost commit was not charged before
        assert 0.003 <= trial.work.charged.total_seconds() <= 0.005, number
        assert trial.result is not None
        assert await exists(at.blobs, f"{trial.result.bundle_key}card.json")
        if at.records.left >= 0:  # no call failed any more
            break
        failed += 1
    assert failed > 5


async def test_an_outage_of_the_store_at_any_call_costs_nothing(tmp_path: Path) -> None:
    failed = 0
    for number in range(200):
        at = World(tmp_path / str(number))
        await at.begin()
        at.blobs.left = number
        trial = await finished_in_spite_of_outages(at)
        assert trial.work.state is WorkState.SUCCEEDED, number
        assert adds_up(trial.work), number
        assert trial.work.charged.total_seconds() == 0.003, number
        if at.blobs.left >= 0:
            break
        failed += 1
    assert failed > 5


async def test_a_long_outage_of_the_store_is_not_poison(at: World) -> None:
    await at.begin()

    class Away(FlakyBlobs):
        async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
            raise Unavailable(what="the store", problem="it is down")

    present, at.blobs = at.blobs, Away()
    worker = at.worker(succeeds)
    for _ in range(3 * MAX_ATTEMPTS_WITHOUT_COMMIT):
        with pytest.raises(Unavailable):
            await worker.handle(T0)
    at.blobs = present
    await at.worker(succeeds).handle(T0)
    assert (await at.trial()).work.state is WorkState.SUCCEEDED
