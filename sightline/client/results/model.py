"""Models, their training and its ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from sightline.client.errors import SightlineError
from sightline.client.results.convert import failure, moment, span
from sightline.client.results.insight import Doubt, LeaderboardEntry, LearningCurve, Mistake
from sightline.client.results.kinds import DatasetKind, ModelKind, ModelState, StopReason, word
from sightline.client.results.performance import Performance
from sightline.client.results.progress import Progress
from sightline.v1 import model_pb2

KINDS = {
    ModelKind.CLASSIFIER: model_pb2.TrainingParameters.GENERIC_CLASSIFIER,
    ModelKind.DETECTOR: model_pb2.TrainingParameters.GENERIC_DETECTOR,
}
KIND_FOR = {DatasetKind.CLASSIFICATION: ModelKind.CLASSIFIER, DatasetKind.DETECTION: ModelKind.DETECTOR}
_KIND_OF = {number: kind for kind, number in KINDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """Narrows the search of a training; the defaults suit nearly every dataset."""

    seed: int = 0  # the same seed, data and device type give the same plan
    backbones: tuple[str, ...] = ()  # the pretrained networks to try; by default a choice that fits the budget
    max_rung: int | None = None  # the highest rung: 0 trains a head on frozen features, 1 fine-tunes
    max_trials: int | None = None
    resolution: int | None = None  # the side to which images are scaled, in pixels
    # The most that predicting one image may cost, on one core of the reference device: `50ms`, seconds or a timedelta.
    max_prediction_cost: str | float | timedelta | None = None
    ignore_category_names: bool = False  # do not start a classifier from the names of its categories


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What a part of the budget was spent on."""

    trial: str
    attempt: int  # from 1
    duration: timedelta  # compute, in seconds of the reference device
    charged: bool
    reason: str  # how the attempt ended, or why it is not charged
    end_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelData:
    """A custom model: its datasets, the progress and cost of its training, and its performance."""

    name: str  # `models/birds`
    state: ModelState
    kind: ModelKind
    display_name: str
    dataset: str  # that it is trained on, `datasets/birds`
    test_dataset: str  # that it is measured on; empty if images are held out from `dataset`
    base_model: str  # that it continues, `models/finches`; empty if none
    base_model_version: str  # of its weights, which this training started from
    budget: timedelta  # the most compute that it may use
    cost: timedelta  # charged so far, never above the budget
    progress: Progress
    performance: Performance  # of the weights that are served; has no metrics until there are any
    stop_reason: StopReason | None  # None until it has ended
    error: SightlineError | None  # why it is FAILED
    version: str  # of the weights that are served; empty until there are any
    best_trial: str  # the one that produced them
    prediction_cost: timedelta | None  # of one image with them, on one core of the reference device
    categories: tuple[str, ...]  # in the order of the model's outputs
    warnings: tuple[str, ...]
    ledger: tuple[LedgerEntry, ...]  # only from `get`
    suggested_thresholds: Mapping[str, float]  # by category, only from `get`
    leaderboard: tuple[LeaderboardEntry, ...]  # every trial, the served one first; only from `get`
    worst_mistakes: tuple[Mistake, ...]  # on training images, at most 50, the worst first; only from `get`
    doubts: tuple[Doubt, ...]  # of a detector: regions to check, at most 100, the surest first; only from `get`
    learning_curve: LearningCurve | None  # only from `get`, and only if it could be measured
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    message: model_pb2.Model = field(repr=False, compare=False)
    owner: Any = field(default=None, repr=False, compare=False)  # `models` of the client that returned it

    @classmethod
    def of(cls, message: model_pb2.Model, owner: Any = None) -> Self:
        """The content of the message."""
        wanted, reason = message.training_parameters, message.stop_reason
        return cls(
            name=message.name,
            state=word(ModelState, model_pb2.Model.State, message.state),
            kind=_KIND_OF.get(wanted.model_kind, ModelKind.UNKNOWN),
            display_name=message.display_name,
            dataset=wanted.training_dataset,
            test_dataset=message.evaluation_parameters.test_dataset,
            base_model=wanted.base_model,
            base_model_version=message.base_model_version,
            budget=span(wanted.time_budget),
            cost=span(message.training_cost),
            progress=Progress.of(message.progress),
            performance=Performance.of(message.performance),
            stop_reason=word(StopReason, model_pb2.Model.StopReason, reason) if reason else None,
            error=failure(message),
            version=message.model_version,
            best_trial=message.best_trial,
            prediction_cost=span(message.prediction_cost) if message.HasField("prediction_cost") else None,
            categories=tuple(message.categories),
            warnings=tuple(message.warnings),
            ledger=tuple(
                LedgerEntry(e.trial, e.attempt, span(e.duration), e.charged, e.reason, moment(e.end_time))
                for e in message.ledger
            ),
            suggested_thresholds=dict(message.suggested_thresholds),
            leaderboard=tuple(map(LeaderboardEntry.of, message.leaderboard)),
            worst_mistakes=tuple(map(Mistake.of, message.worst_mistakes)),
            doubts=tuple(map(Doubt.of, message.doubts)),
            learning_curve=LearningCurve.of(message.learning_curve) if message.learning_curve.points else None,
            create_time=moment(message.create_time),
            start_time=moment(message.start_time),
            end_time=moment(message.end_time),
            message=message,
            owner=owner,
        )


class Model(ModelData):
    """A model that a `Client` returned."""

    __slots__ = ()

    def wait(self) -> "Model":
        """Waits until its training has ended and returns it whole; raises the error of one that ends as FAILED."""
        waited: Model = self.owner.wait(self)
        return waited


class AsyncModel(ModelData):
    """A model that an `AsyncClient` returned."""

    __slots__ = ()

    async def wait(self) -> "AsyncModel":
        """Waits until its training has ended and returns it whole; raises the error of one that ends as FAILED."""
        waited: AsyncModel = await self.owner.wait(self)
        return waited
