"""What the trainer's tests share: datasets, running stores, results of trials, and a worker that trains nothing."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
import numpy as np

from services.kit import codec
from services.kit.blobs import Blobs
from services.kit.clock import Clock
from services.kit.errors import BlobNotFound, DatasetNotFound, SightlineError, Unavailable
from services.kit.jobs import Job
from services.kit.queue import Queue
from services.kit.records import Records, Table
from services.trainer.coverage import findings
from services.trainer.datasets import Dataset, DatasetState, Snapshot
from services.trainer.domain import Evaluation, Hyperparameters, Model, ModelState, Served, Trial, TrialResult
from services.trainer.estimate import Estimate, Expectation, Observation, Probe
from services.trainer.export import Archive, Export
from services.trainer.insight import Insight
from services.trainer.performance import CalibrationBin, Coverage, Interval, Performance, Source, TagPerformance
from services.trainer.planner.costs import FIXED_SECONDS, scaling_seconds
from services.trainer.planner.needs import minimum_seconds, suggested_seconds
from services.trainer.planner.prospect import Prospect
from services.trainer.prediction_cost import recipe_seconds
from services.trainer.predictions import AnyPredictions, DetectorPredictions, Predictions, found, image_ids, truths
from services.trainer.recipe import BoxStatistics, Recipe
from services.trainer.reconcile import jobs
from services.trainer.store import Store
from services.trainer.worker.attempt import Attempt
from services.vision.card import (
    CARD_FILE,
    DIGESTS_FILE,
    WEIGHTS_FILE,
    CardBackbone,
    CardCategory,
    ModelCard,
    ModelKind,
    WeightsSource,
    write_card,
)
from services.vision.catalogue import NETWORKS
from services.vision.snapshot import AnnotationKind, SnapshotDigest

START = datetime(2026, 1, 1, tzinfo=UTC)
TTL = timedelta(seconds=15)
IMAGES = 100
DIGEST = SnapshotDigest(AnnotationKind.IMAGE_CLASSIFICATION, ()).hexdigest()  # of a snapshot without images


def sealed(card: bytes = b"{}") -> dict[str, bytes]:
    """The files of a bundle, as training writes them."""
    files = {CARD_FILE: card, WEIGHTS_FILE: b"weights"}
    digests = {name: sha256(data).hexdigest() for name, data in files.items()}
    return {**files, DIGESTS_FILE: msgspec.json.encode(digests)}


def seal_of(files: dict[str, bytes]) -> str:
    """The bundle's digest, as its model's record has it."""
    return f"sha256:{sha256(files[DIGESTS_FILE]).hexdigest()}"


def dataset(name: str = "datasets/birds", **changes: Any) -> Dataset:
    """READY, with 100 images of two categories, unless changed; the state may be a name of the contract."""
    ready = Dataset(
        name=name,
        state=DatasetState.READY,
        annotation_kind="IMAGE_CLASSIFICATION",
        image_count=IMAGES,
        categories=(("owl", 50, 50), ("wren", 50, 50)),
        digest=DIGEST,
        manifest_key=f"{name}/uid/manifest.json",
    )
    return replace(ready, **{**changes, "state": DatasetState(changes.get("state", ready.state))})


class FakeDatasets:
    """The dataset service as a dictionary; `away` simulates an outage."""

    def __init__(self, *present: Dataset) -> None:
        self.present = {found.name: found for found in present}
        self.away = False
        self.asked = 0

    def put(self, changed: Dataset) -> None:
        self.present[changed.name] = changed

    async def get(self, name: str) -> Dataset:
        self.asked += 1
        if self.away:
            raise Unavailable(what="The dataset service", problem="it is down")
        if name not in self.present:
            raise DatasetNotFound(name=name)
        return self.present[name]


def snapshot(name: str = "datasets/birds", count: int = IMAGES) -> Snapshot:
    return Snapshot(dataset=name, digest=DIGEST, manifest_key=f"{name}/uid/manifest.json", image_count=count)


def model(name: str = "models/m", **changes: Any) -> Model:
    """A classifier in NOT_STARTED with a budget of ten minutes, unless changed."""
    fresh = Model(
        name=name,
        uid="uid1",
        training_dataset="datasets/birds",
        budget=timedelta(minutes=10),
        model_kind=ModelKind.GENERIC_CLASSIFIER,
        create_time=START,
        update_time=START,
        hyperparameters=Hyperparameters(),
    )
    return msgspec.structs.replace(fresh, **changes)


def training(**changes: Any) -> Model:
    """A model whose training has begun."""
    return model(state=ModelState.TRAINING, training=snapshot(), start_time=START, **changes)


def performance(accuracy: float = 0.8, source: Source = Source.HOLD_OUT, tags: int = 2) -> Performance:
    names = [f"category {number}" for number in range(tags)]
    tag = TagPerformance(support=10, accuracy=accuracy, precision=0.5, recall=0.5, f1=0.5, suggested_threshold=0.5)
    return Performance(
        source=source,
        image_count=IMAGES,
        accuracy_top1=accuracy,
        tag_performance=dict.fromkeys(names, tag),
        categories=tuple(names),
        calibration_bins=(CalibrationBin(0.9, accuracy, IMAGES, Interval(0.7, 0.95)),),
    )


def predictions(right: int, count: int = IMAGES) -> Predictions:
    """The first `right` images are classified correctly, and with more confidence."""
    correct = tuple(number < right for number in range(count))
    return Predictions(
        categories=("owl", "wren"),
        image_ids=tuple(range(count)),
        labels=(0,) * count,
        predicted=tuple(int(not good) for good in correct),
        correct=correct,
        log_losses=tuple(0.1 if good else 1.5 for good in correct),
    )


def detections(right: int, count: int = IMAGES) -> DetectorPredictions:
    """One object per image; detections are right in the first `right` images and misplaced in the others."""
    numbers = np.arange(count)
    boxes = np.tile([10.0, 10.0, 50.0, 40.0], (count, 1))
    missed = np.where(numbers[:, None] < right, boxes, boxes + 200)
    labels = numbers % 2
    return DetectorPredictions(
        categories=("owl", "wren"),
        image_ids=image_ids(numbers),
        truths=truths(numbers, labels, boxes, np.zeros(count, bool)),
        found=found(numbers, labels, missed, 0.9 - numbers / 1000),
    )


def boxes(**changes: Any) -> BoxStatistics:
    """Many large objects in images of 640 pixels, unless changed."""
    many = BoxStatistics(count=400, fewest=200, small_size=0.2, longer_side=640)
    return msgspec.structs.replace(many, **changes)


def detector_performance(score: float = 0.8, source: Source = Source.HOLD_OUT, images: int = IMAGES) -> Performance:
    if not images:
        return Performance(source=source, image_count=0)
    tag = TagPerformance(support=10, average_precision_50=score, precision=0.5, recall=0.5, suggested_threshold=0.5)
    return Performance(
        source=source,
        image_count=images,
        mean_average_precision_30=score,
        mean_average_precision_50=score,
        mean_average_precision_75=score / 2,
        tag_performance={"owl": tag, "wren": tag},
    )


def detector_result(trial: Trial, right: int = 80, **changes: Any) -> TrialResult:
    """The result of a detector's trial that found `right` of a hundred objects; a refit has no score."""
    refit = trial.recipe.refit
    described = {
        "score": 0.0 if refit else right / IMAGES,
        "performance": detector_performance(right / IMAGES, Source.CROSS_VALIDATION, 0 if refit else IMAGES),
        "resolution": trial.recipe.resolution,
        "backbones": ("yolox_nano",),
        "epochs": trial.recipe.max_epochs,
        "boxes": boxes(),
    }
    return result(trial, right, **(described | changes))


def result(trial: Trial, right: int = 80, **changes: Any) -> TrialResult:
    """The result of a trial that classified `right` of a hundred images correctly."""
    prefix = f"{trial.blob_prefix}{trial.work.attempt}/"
    brought = TrialResult(
        score=right / IMAGES,
        standard_error=0.04,
        score_interval=Interval(right / IMAGES - 0.08, right / IMAGES + 0.08),
        log_loss=0.5,
        bundle_key=f"{prefix}bundle/",
        predictions_key=f"{prefix}predictions.msgpack",
        performance_key=f"{prefix}performance.json",
        insight_key=f"{prefix}insight.json",
        performance=performance(right / IMAGES),
        weights_source=WeightsSource.FOLDER,
        resolution=224,
        backbones=("mobilenet_v2", "resnet18"),
        prediction_seconds=recipe_seconds(trial.recipe),
    )
    return replace(brought, **changes)


@asynccontextmanager
async def running(records: Records) -> AsyncGenerator[Store]:
    """A store whose views are running."""
    store = Store.over(records)
    task = asyncio.create_task(store.run())
    try:
        await store.synced()
        yield store
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class QuickWorker:
    """Takes jobs and ends their work at once, by records alone: `score(trial)` images are right."""

    def __init__(
        self,
        records: Records,
        blobs: Blobs,
        queue: Queue,
        clock: Clock,
        *,
        spends: timedelta = timedelta(seconds=1),
        score: Callable[[Trial], int] = lambda trial: 80,
    ) -> None:
        self.trials: Table[Trial] = Table(records, Trial)
        self.evaluations: Table[Evaluation] = Table(records, Evaluation)
        self.estimates: Table[Estimate] = Table(records, Estimate)
        self.exports: Table[Export] = Table(records, Export)
        self.blobs, self.queue, self.clock = blobs, queue, clock
        self.spends, self.score = spends, score
        self.coverage: Coverage | None = None  # of evaluations
        self.right: dict[str, int] = {}  # by evaluation: images that are predicted correctly, 90 unless given
        self.insight = Insight()  # of trials
        self.archive = b"archive" * 300_000  # of exports
        self.failure: SightlineError | None = None  # that ends exports
        self.exported = 0

    async def work_off(self) -> int:
        """Handles all queued jobs; returns how many had anything to do."""
        done = 0
        while (delivery := await self.queue.fetch(jobs.KIND, timedelta(0))) is not None:
            done += await self.handle(codec.decode(delivery.body, Job).name)
            await delivery.ack()
        return done

    async def handle(self, name: str) -> bool:
        table: Any = self.trials if "/trials/" in name else self.evaluations
        table = self.estimates if name.startswith("estimates/") else table
        table = self.exports if "/exports/" in name else table
        attempt = await Attempt[Any].begin(table, name, "quick", self.clock, TTL, 1.0)
        if attempt is None:
            return False
        used = min(self.spends, attempt.allowance)
        if isinstance(attempt.record, Estimate):
            await attempt.succeed(used, probe=probe(attempt.record.recipes), device_factor=attempt.factor)
            return True
        if isinstance(attempt.record, Export):
            await self._export(attempt, used)
            return True
        if isinstance(attempt.record, Evaluation):
            key = f"{attempt.record.blob_prefix}performance.json"
            detects = attempt.record.model_kind is ModelKind.GENERIC_DETECTOR
            measured = (detector_performance if detects else performance)(0.9, Source.TEST_DATASET)
            measured = replace(measured, coverage=self.coverage)
            await self.blobs.put(key, codec.encode(measured))
            predicted = (detections if detects else predictions)(self.right.pop(attempt.record.name, 90))
            await self.blobs.put(attempt.record.blob_prefix + "predictions.msgpack", msgspec.msgpack.encode(predicted))
            found = findings(attempt.record.test_dataset, self.coverage, ()) if self.coverage else ()
            await attempt.succeed(used, performance=measured, performance_key=key, findings=found)
            return True
        brought, predicted = self._brought(attempt.record)
        await self.blobs.put(brought.predictions_key, msgspec.msgpack.encode(predicted))
        await self.blobs.put(brought.performance_key, codec.encode(brought.performance))
        await self.blobs.put(brought.insight_key, codec.encode(self.insight))
        files = sealed(write_card(card(attempt.record)))
        for file, data in files.items():
            await self.blobs.put(brought.bundle_key + file, data)
        await attempt.succeed(used, result=replace(brought, bundle_digest=seal_of(files)))
        return True

    async def _export(self, attempt: Attempt[Export], used: timedelta) -> None:
        self.exported += 1
        if self.failure:
            failure = self.failure.failure()
            await attempt.end(lambda work: work.failed(self.clock.now(), failure))
            return
        digest, key = sha256(self.archive).hexdigest(), f"{attempt.record.blob_prefix}1/archive.zip"
        await self.blobs.put(key, self.archive)
        archive = Archive(key=key, file_name="m.zip", size_bytes=len(self.archive), sha256=digest, max_difference=1e-7)
        await attempt.succeed(used, archive=archive)

    def _brought(self, trial: Trial) -> tuple[TrialResult, AnyPredictions]:
        right = self.score(trial)
        if trial.recipe.kind is ModelKind.GENERIC_CLASSIFIER:
            return result(trial, right), predictions(right)
        return detector_result(trial, right), detections(right, 0 if trial.recipe.refit else IMAGES)


def minimum_budget(kind: ModelKind, wanted: Hyperparameters, images: int, tests: int) -> float:
    """CreateModel's, in seconds."""
    return minimum_seconds(Prospect.tabled(model(model_kind=kind, hyperparameters=wanted), images, tests))


def suggested_budget(kind: ModelKind, wanted: Hyperparameters, images: int, tests: int) -> float:
    """CreateModel's, in seconds."""
    prospect = Prospect.tabled(model(model_kind=kind, hyperparameters=wanted), images, tests)
    return suggested_seconds(prospect, minimum_seconds(prospect))


def observed(recipe: Recipe, pace: float = 1.0, value: float | None = None) -> Observation:
    """The recipe on forty images, at a multiple of the table's time; `value` is the accuracy that it promises."""
    short = msgspec.structs.replace(recipe, max_epochs=2)
    scaling = pace * scaling_seconds(short, 40, 256)
    known = None if value is None else Expectation(value=value, interval=Interval(value - 0.1, value + 0.1))
    return Observation(
        recipe=short,
        image_count=40,
        seconds=FIXED_SECONDS + scaling,
        scaling_seconds=scaling,
        resolution=recipe.resolution or 256,
        expectation=known,
    )


def probe(recipes: tuple[Recipe, ...], pace: float = 1.0, **changes: Any) -> Probe:
    """What a worker with pretrained weights found, at a multiple of the table's times."""
    found = Probe(
        device="cpu, 2 threads",
        observations=tuple(observed(recipe, pace, 0.7) for recipe in recipes),
        weights_source=WeightsSource.FOLDER,
        backbones=recipes[-1].backbones,
    )
    return msgspec.structs.replace(found, **changes)


def card(trial: Trial) -> ModelCard:
    """The card of the trial's bundle; detectors have no thresholds here."""
    kind = trial.recipe.kind
    return ModelCard(
        kind=kind,
        categories=(CardCategory(1, "owl"), CardCategory(2, "wren")),
        backbones=tuple(
            CardBackbone(name, NETWORKS[kind][name].rule, WeightsSource.FOLDER, tuned=trial.recipe.rung > 0)
            for name in trial.recipe.backbones
        ),
        thresholds=(0.25, 0.75) if kind is ModelKind.GENERIC_CLASSIFIER else (),
        created=START,
    )


async def exists(blobs: Blobs, key: str) -> bool:
    try:
        await blobs.stat(key)
    except BlobNotFound:
        return False
    return True


def served_by_score(model: Model, trials: list[Trial]) -> Model:
    """As in the coordinator, but by score alone; a refit wins if the trial that it repeats has won."""
    best: Trial | None = None
    for trial in trials:
        if trial.result is None:
            continue
        assert best is None or best.result is not None
        if trial.recipe.refit:
            best = trial if best and trial.parent_trial == best.name else best
        elif best is None or best.result is None or trial.result.score >= best.result.score:
            best = trial
    if best is None:
        return model
    shown = performance() if model.model_kind is ModelKind.GENERIC_CLASSIFIER else detector_performance()
    bundle = Served(trial=best.name, version="v", bundle_key="b/", performance=shown, performance_key="p")
    return msgspec.structs.replace(model, served=bundle)
