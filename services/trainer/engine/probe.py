"""A probe: the trials of a ladder in miniature, run by the very code that will run them, and timed."""

from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from pathlib import Path

import msgspec
import torch

from services.trainer import feature_blocks
from services.trainer.engine.classification.features import block_name
from services.trainer.engine.classification.few_shot import expected_accuracy
from services.trainer.engine.data import open_images
from services.trainer.engine.detection.data import open_scenes
from services.trainer.engine.pretrained import load_backbones
from services.trainer.engine.session import Meter, Session
from services.trainer.estimate import Observation, Probe
from services.trainer.feature_blocks import FeaturePass
from services.trainer.messages import MANIFEST_FILE, Probed, ProbeTask, Result, TrainTask
from services.trainer.recipe import Framing, Recipe, Split, is_linear
from services.vision.card import ModelKind, WeightsSource
from services.vision.snapshot import read_manifest
from sightline.plurals import counted

ENOUGH_SECONDS = 45.0  # after which no further recipe is tried
AMPLE = timedelta(hours=1)  # for a miniature, so that no schedule is cut
EPOCHS = 2
SCALING_PHASES = ("features", "train")  # what of a trial grows with images and epochs

Train = Callable[[TrainTask, Session], Result]


def probe(task: ProbeTask, session: Session, train: Train) -> Probed:
    """Runs the recipes in order; the first always, the others while it takes seconds.

    Without pretrained weights only the first, as all others would train the same random network.
    """
    first, observations = None, list[Observation]()
    for number, recipe in enumerate(task.recipes):
        if first is not None and (session.meter.used() > ENOUGH_SECONDS or _is_random(first)):
            break
        session.progress("probe", number / len(task.recipes))
        small = _miniature(task, _with_chosen(recipe, first) if task.recipes[0].choose else recipe, number)
        observed, result = _observed(small, train)
        first = first or result
        if task.images_per_category and is_linear(recipe) and small.directory == task.directory:
            expectation = expected_accuracy(small, _silent(), task.images_per_category)
            observed = msgspec.structs.replace(observed, expectation=expectation)
        observations.append(observed)
    assert first is not None, "a ladder has a first recipe"
    found = Probe(
        device=_device_name(task),
        observations=tuple(observations),
        weights_source=first.weights_source,
        backbones=first.backbones,
        mirror=first.mirror,
        by_graph=bool(first.features and first.features.by_graph),
        stored=_stored(task, [observed.recipe for observed in observations]),
    )
    if task.recipes[0].kind is ModelKind.GENERIC_DETECTOR:
        boxes = open_scenes(Path(task.index_directory), task.dataset).statistics()
        found = msgspec.structs.replace(found, boxes=boxes)
    return Probed(probe=found, used=session.meter.elapsed())


def _stored(task: ProbeTask, recipes: list[Recipe]) -> tuple[FeaturePass, ...]:
    """The passes of these recipes whose features of all images are stored."""
    if not task.stored_blocks:
        return ()
    names, digest = set(task.stored_blocks), read_manifest((Path(task.index_directory) / MANIFEST_FILE).read_bytes())
    images = open_images(Path(task.directory), task.dataset)
    found: set[FeaturePass] = set()
    for recipe in filter(is_linear, recipes):
        small = _miniature(task, recipe, 0)
        for backbone, view in product(load_backbones(small, images), range(recipe.views)):
            blocks = feature_blocks.rows_of_blocks(digest.image_count)
            if all(block_name(small, backbone, view, digest.digest, rows) in names for rows in blocks):
                found.add(FeaturePass(backbone.name, Framing(backbone.rule.fit), recipe.resolution, view))
    return tuple(sorted(found))


class Stopwatch(Session):
    """A session that notes when each phase had progressed how far, and sends nothing."""

    def __init__(self) -> None:
        super().__init__(Meter(AMPLE), lambda _: None)
        self._marks = defaultdict[str, list[tuple[float, float]]](list)  # (share done, seconds used) by phase

    def progress(self, phase: str, done: float, low: float = 0.0, high: float = 1.0) -> None:
        self._marks[phase].append((done, self.meter.used()))

    def scaling_seconds(self, *, linear: bool) -> float:
        """How long the phases that scale take at the pace after their first report, which includes warming up.

        For a linear head, also everything after its features: the fits and the measurements.
        """
        features = self._marks["features"]
        total = self.meter.used() - features[-1][1] if linear and features else 0.0
        for marks in (self._marks[phase] for phase in SCALING_PHASES):
            if len(marks) > 1 and marks[-1][0] > marks[0][0]:
                total += (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])
        return total


def _observed(task: TrainTask, train: Train) -> tuple[Observation, Result]:
    watch = Stopwatch()
    result = train(task, watch)
    seconds, scaling = watch.meter.used(), watch.scaling_seconds(linear=is_linear(task.recipe))
    if is_linear(task.recipe) and result.features:  # on the sample of an earlier recipe
        seconds, scaling = (each + result.features.saved.total_seconds() for each in (seconds, scaling))
    ran = task.recipe
    if ran.choose and result.networks:
        ran = msgspec.structs.replace(ran, backbones=result.networks)
    observed = Observation(
        recipe=ran,
        image_count=result.image_count,
        seconds=seconds,
        scaling_seconds=min(seconds, scaling or seconds),
        resolution=result.resolution,
        score=result.selection_score,
    )
    return observed, result


def _with_chosen(recipe: Recipe, first: Result | None) -> Recipe:
    """The recipe with the networks that the first trial prefers of those with weights, as the ladder will have it."""
    if first is None or not first.backbones:
        return recipe
    return msgspec.structs.replace(recipe, backbones=first.backbones[: len(recipe.backbones)])


def _miniature(task: ProbeTask, recipe: Recipe, number: int) -> TrainTask:
    """The recipe on a sample; a training has few epochs."""
    output = Path(task.output_directory) / str(number)
    output.mkdir(parents=True, exist_ok=True)
    epochs = min(EPOCHS, recipe.max_epochs)
    return TrainTask(
        trial=task.estimate,
        dataset=task.dataset,
        directory=task.small_directory if number else task.directory,
        recipe=msgspec.structs.replace(recipe, max_epochs=epochs, min_epochs=1, patience=0),
        allowance=AMPLE,
        output_directory=str(output),
        cache_directory=task.cache_directory,
        graphs_directory=task.graphs_directory,
        weights_directory=task.weights_directory,
        installed_weights=task.installed_weights,
        download_weights=task.download_weights,
        split=Split(seed=task.seed),
        seed=task.seed,
        threads=task.threads,
        device=task.device,
        base_directory=task.base_directory,
    )


def _silent() -> Session:
    return Session(Meter(AMPLE), lambda _: None)


def _is_random(result: Result) -> bool:
    return result.weights_source is WeightsSource.RANDOM


def _device_name(task: ProbeTask) -> str:
    return torch.cuda.get_device_name() if task.device == "cuda" else f"cpu, {counted(task.threads, 'thread')}"
