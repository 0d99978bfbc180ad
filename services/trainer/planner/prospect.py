"""A training that has not begun: what is asked for, and what its recipes cost, by a probe or by the table."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from services.trainer.datasets import Snapshot
from services.trainer.domain import MAX_BUDGET, Model
from services.trainer.estimate import Estimate, Observation, Probe
from services.trainer.feature_blocks import FeaturePass
from services.trainer.performance import Source
from services.trainer.planner import ladder
from services.trainer.planner.costs import (
    FIXED_SECONDS,
    PRETRAINED_RESOLUTION,
    as_run,
    evaluation_seconds,
    scaling_seconds,
)
from services.trainer.recipe import MIN_HELD_OUT_FROM, BoxStatistics, Recipe, is_linear
from services.vision.card import ModelKind, WeightsSource
from services.vision.catalogue import suited
from services.vision.timm_networks import DeviceClass

SCORE = 0.5  # of a trial: what it reaches is not known
USUAL_BOXES = BoxStatistics(count=0, fewest=0, small_size=0.2, longer_side=640)


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """What recipes cost on the device that was probed, in seconds of the reference device."""

    observations: tuple[Observation, ...]
    weights_source: WeightsSource
    factor: float
    by_graph: bool = False

    def seconds(
        self, recipe: Recipe, image_count: int, resolution: int, known: AbstractSet[FeaturePass] = frozenset()
    ) -> float:
        """The whole cost, without the passes whose features are known."""
        observed = self._closest(recipe)
        fixed = observed.seconds - observed.scaling_seconds
        scaling = scaling_seconds(self._as_run(recipe), image_count, resolution, known=known, by_graph=self.by_graph)
        return self.factor * (fixed + self._pace(observed) * scaling)

    def evaluation_seconds(self, recipe: Recipe, test_count: int, resolution: int) -> float:
        """Of a model of the recipe on the test dataset."""
        pace = self.factor * self._pace(self._closest(recipe))
        return evaluation_seconds(self._as_run(recipe), test_count, resolution, pace)

    def score(self, recipe: Recipe, image_count: int) -> float:
        """Of a classifier's head, if it was measured on all images: with a perfect one the training ends there."""
        observed = self._closest(recipe)
        known = is_linear(recipe) and is_linear(observed.recipe) and observed.image_count >= image_count
        return observed.score if known else SCORE

    def networks(self, recipe: Recipe) -> tuple[str, ...]:
        """The recipe's, or those that the worker chose if the recipe leaves that to the worker."""
        return self.observations[0].recipe.backbones if recipe.choose else recipe.backbones

    def _pace(self, observed: Observation) -> float:
        """Measured time divided by the table's, of what grows with the images."""
        ran, count, side = self._as_run(observed.recipe), observed.image_count, observed.resolution
        return observed.scaling_seconds / scaling_seconds(ran, count, side, by_graph=self.by_graph)

    def _as_run(self, recipe: Recipe) -> Recipe:
        return as_run(msgspec.structs.replace(recipe, backbones=self.networks(recipe)), self.weights_source)

    def _closest(self, recipe: Recipe) -> Observation:
        """The observation of the recipe that has most in common with this one; the first of several."""

        def differences(observed: Observation) -> tuple[bool, ...]:
            ran = observed.recipe
            return (
                is_linear(ran) != is_linear(recipe),
                ran.choose != recipe.choose or (not ran.choose and ran.backbones != recipe.backbones),
                ran.depth != recipe.depth,
                (ran.framings, ran.views) != (recipe.framings, recipe.views),
            )

        return min(self.observations, key=differences)


@dataclass(frozen=True, slots=True)
class Prospect:
    """The training and its costs."""

    model: Model  # with its snapshots
    probe: Probe
    costs: MeasuredCosts
    source: Source = Source.HOLD_OUT  # of its performance

    @classmethod
    def of(cls, estimate: Estimate) -> "Prospect":
        """By what a worker has measured; its probe has ended."""
        probe = estimate.probe
        assert probe is not None, "it has ended"
        costs = MeasuredCosts(probe.observations, probe.weights_source, estimate.device_factor, probe.by_graph)
        held_out = estimate.model.test is None and estimate.fewest >= MIN_HELD_OUT_FROM
        return cls(estimate.model, probe, costs, Source.HOLD_OUT if held_out else Source.CROSS_VALIDATION)

    @classmethod
    def tabled(cls, model: Model, image_count: int, test_count: int, pace: float = 1.0) -> "Prospect":
        """By the table, at this pace, on a small device with the weights of the usual networks."""
        begun = ladder.first(model.model_kind, model.wanted)
        side = begun.resolution or PRETRAINED_RESOLUTION
        scaling, fixed = pace * scaling_seconds(begun, image_count, side), max(1.0, pace) * FIXED_SECONDS
        seen = Observation(
            recipe=begun,
            image_count=image_count,
            seconds=fixed + scaling,
            scaling_seconds=scaling,
            resolution=side,
            score=SCORE,
        )
        probe = Probe(
            device="",
            observations=(seen,),
            weights_source=WeightsSource.FOLDER,
            backbones=_usual(begun),
            boxes=USUAL_BOXES if model.model_kind is ModelKind.GENERIC_DETECTOR else None,
        )
        with_snapshots = msgspec.structs.replace(
            model,
            training=_counted(model.training_dataset, image_count),
            test=_counted(model.test_dataset, test_count) if test_count else None,
            budget=MAX_BUDGET,
        )
        return cls(with_snapshots, probe, MeasuredCosts((seen,), probe.weights_source, 1.0))

    @property
    def image_count(self) -> int:
        """Of the training dataset."""
        assert self.model.training is not None, "it has its snapshots"
        return self.model.training.image_count

    @property
    def test_count(self) -> int:
        """Of the test dataset; 0 without one."""
        return self.model.test.image_count if self.model.test else 0

    def with_budget(self, budget: timedelta) -> Model:
        """The model with this budget."""
        return msgspec.structs.replace(self.model, budget=budget)


def _usual(first: Recipe) -> tuple[str, ...]:
    """The networks that suit a small device, from that of the first recipe on: earlier ones have no weights there."""
    names = suited(first.kind, DeviceClass.CORES_2)
    start = names.index(first.backbones[0]) if first.backbones[0] in names else 0
    return names[start:]


def _counted(dataset: str, image_count: int) -> Snapshot:
    return Snapshot(dataset=dataset, digest="", manifest_key="", image_count=image_count)
