"""The trials of a training."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from sightline.client.errors import SightlineError
from sightline.client.results.convert import failure, given, moment, span
from sightline.client.results.kinds import TrialState, name_of, word
from sightline.v1 import trial_pb2


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a trial trains, and how. A number that does not apply is None."""

    backbones: tuple[str, ...]  # the pretrained networks
    head: str  # how the head is fitted: `logistic`, `linear`, `detection`
    depth: str  # the part that is trained: `HEAD`, `LAST_STAGES`, `ALL`
    resolution: int  # the side to which images are scaled, in pixels
    augmentation: str
    learning_rate: float | None
    weight_decay: float | None
    batch_size: int | None
    epochs: int | None
    seed: int
    refit: bool  # whether it trains on all images; such a trial has no score


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureUse:
    """The blocks of features that a trial read, of frozen networks; computing a block is charged once per dataset."""

    reused: int  # blocks that an earlier trial computed
    computed: int
    saved: timedelta  # that computing the reused ones took; not part of the trial's cost


@dataclass(frozen=True, slots=True, kw_only=True)
class NameUse:
    """What a classifier's trial made of the names of its categories."""

    effect: str  # `NONE`: they did not help; `CENTRE`: the head starts from them; `ALONE`: they are the head
    network: str  # whose text tower read them
    scale: float  # how far they reach, relative to the network's own logits


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A file of pretrained weights."""

    network: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One try of a training to find better weights."""

    name: str  # `models/birds/trials/t001`
    state: TrialState
    rung: int  # 0: a head on frozen features, 1: fine-tuning
    recipe: Recipe
    score: float | None  # in `score_metric`; higher is better
    score_metric: str  # a field of Performance
    standard_error: float | None  # of the score
    cost: timedelta  # charged to the budget so far
    prediction_cost: timedelta | None  # of one image with the result, on one core of the reference device
    attempts: int  # above 1 if a worker died
    progress: float  # 0..1
    weights: tuple[WeightsFile, ...]  # that its networks started from, of the store or the worker's folder
    features: FeatureUse | None  # None of a detector, and without a result
    category_names: NameUse | None  # None if no network could read them, and without a result
    error: SightlineError | None  # why it is FAILED
    start_time: datetime | None
    end_time: datetime | None
    message: trial_pb2.Trial = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: trial_pb2.Trial) -> Self:
        """The content of the message."""
        return cls(
            name=message.name,
            state=word(TrialState, trial_pb2.Trial.State, message.state),
            rung=message.rung,
            recipe=_recipe(message.recipe),
            score=given(message, "score"),
            score_metric=message.score_metric,
            standard_error=given(message, "standard_error"),
            cost=span(message.cost),
            prediction_cost=span(message.prediction_cost) if message.HasField("prediction_cost") else None,
            attempts=message.attempts,
            progress=message.progress,
            weights=tuple(WeightsFile(network=one.network, sha256=one.sha256) for one in message.weights),
            features=_features(message.features) if message.HasField("features") else None,
            category_names=_names(message.category_names) if message.HasField("category_names") else None,
            error=failure(message),
            start_time=moment(message.start_time),
            end_time=moment(message.end_time),
            message=message,
        )


def _features(use: trial_pb2.FeatureUse) -> FeatureUse:
    return FeatureUse(reused=use.reused_blocks, computed=use.computed_blocks, saved=span(use.saved))


def _names(use: trial_pb2.NameUse) -> NameUse:
    return NameUse(effect=name_of(trial_pb2.NameUse.Effect, use.effect), network=use.network, scale=use.scale)


def _recipe(recipe: trial_pb2.Recipe) -> Recipe:
    return Recipe(
        backbones=tuple(recipe.backbones),
        head=recipe.head,
        depth=name_of(trial_pb2.Recipe.Depth, recipe.depth) if recipe.depth else "",
        resolution=recipe.resolution,
        augmentation=recipe.augmentation,
        learning_rate=given(recipe, "learning_rate"),
        weight_decay=given(recipe, "weight_decay"),
        batch_size=given(recipe, "batch_size"),
        epochs=given(recipe, "epochs"),
        seed=recipe.seed,
        refit=recipe.refit,
    )
