"""The trainer's nouns: models, their trials and evaluations, and the life cycle of a model.

  create        a              b
─────────▶ NOT_STARTED ───▶ TRAINING ───▶ SUCCEEDED
             │    │           │   │  c
             │    │ e         │ e └─────▶ FAILED
             │    └────┬──────┘             ▲
             │ c       ▼           f        │
             │     CANCELLING ───▶ CANCELLED│
             └──────────────────────────────┘
"""

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self, TypeVar

import msgspec
from msgspec.structs import replace

from services.kit.errors import Failure, WrongState
from services.trainer.base_model import BaseModel
from services.trainer.datasets import Snapshot
from services.trainer.feature_blocks import FeatureUse
from services.trainer.ledger import ZERO, total
from services.trainer.name_use import NameUse
from services.trainer.origin import NO_ORIGIN, Origin
from services.trainer.performance import Finding, Interval, Performance
from services.trainer.recipe import BoxStatistics, Recipe
from services.trainer.used_weights import UsedWeights
from services.trainer.work import Work, WorkState
from services.vision.card import ModelKind, WeightsSource

FINAL_EVALUATION = "final"  # id of the evaluation that is part of a training and paid by its budget
MAX_BUDGET = timedelta(hours=288)
MAX_TRIALS = 1000  # per model: t000 to t999, so that names sort in the order of planning


class ModelState(StrEnum):
    """Where a model is in its life."""

    NOT_STARTED = "NOT_STARTED"
    TRAINING = "TRAINING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"


NEXT: dict[ModelState, frozenset[ModelState]] = {
    ModelState.NOT_STARTED: frozenset({ModelState.TRAINING, ModelState.FAILED, ModelState.CANCELLING}),
    ModelState.TRAINING: frozenset({ModelState.SUCCEEDED, ModelState.FAILED, ModelState.CANCELLING}),
    ModelState.CANCELLING: frozenset({ModelState.CANCELLED}),
    ModelState.SUCCEEDED: frozenset(),
    ModelState.FAILED: frozenset(),
    ModelState.CANCELLED: frozenset(),
}


class StopReason(StrEnum):
    """Why a training ended."""

    BUDGET_REACHED = "BUDGET_REACHED"
    CONVERGED = "CONVERGED"
    LADDER_COMPLETED = "LADDER_COMPLETED"
    CANCELLED_BY_CALLER = "CANCELLED_BY_CALLER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """The caller's limits on the search; 0, empty and None leave it open."""

    seed: int = 0
    backbones: tuple[str, ...] = ()
    max_rung: int | None = None
    max_trials: int | None = None
    resolution: int | None = None
    max_prediction_seconds: float | None = None  # seconds of the reference device that predicting one image may cost
    ignore_category_names: bool = False  # classifiers do not start from them


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The bundle that a model predicts with."""

    trial: str
    version: str
    bundle_key: str  # prefix, ending in "/"
    performance: Performance  # without curves and matrix
    performance_key: str  # of the full one
    bundle_digest: str = ""  # `sha256:...`; empty of earlier versions
    bundle_signature: str = ""  # empty without a signing key
    compared: int = 0  # results that it was chosen from: a choice from more replaces one from fewer
    prediction_seconds: float = 0.0  # of the reference device, for one image; 0 if not known


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model: what was asked for, and the outcome."""

    name: str
    uid: str
    training_dataset: str
    budget: timedelta = msgspec.field(name="budget_seconds")
    model_kind: ModelKind
    create_time: datetime
    update_time: datetime
    test_dataset: str = ""
    base_model: str = ""  # models/{model}, as requested
    base: BaseModel | None = None  # what it was then
    hyperparameters: Hyperparameters = Hyperparameters()
    display_name: str = ""
    custom_properties: dict[str, str] = {}
    request_id: str = ""
    state: ModelState = ModelState.NOT_STARTED
    training: Snapshot | None = None
    test: Snapshot | None = None
    categories: tuple[str, ...] = ()
    served: Served | None = None
    # The trial planned last, stored here before it gets its own record: one replica decides, any can create it.
    planned: "Trial | None" = None
    search_ended: bool = False  # no further trial is planned
    warnings: tuple[str, ...] = ()
    training_cost: timedelta = msgspec.field(name="training_cost_seconds", default=ZERO)  # zero until it has ended
    stop_reason: StopReason | None = None
    error: Failure | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    origin: Origin = NO_ORIGIN

    @property
    def ended(self) -> bool:
        """Whether its training is over."""
        return not NEXT[self.state]

    def moved(self, state: ModelState, now: datetime, **changes: Any) -> "Model":
        """The model in its next state; WrongState if there is no such transition."""
        if state not in NEXT[self.state]:
            allowed = ", ".join(s for s, following in NEXT.items() if state in following)
            raise WrongState(name=self.name, state=self.state, verb=f"going to {state}", allowed=allowed)
        if not NEXT[state]:
            changes.setdefault("end_time", now)
        return replace(self, state=state, update_time=now, **changes)

    def has_all_planned(self, trials: "list[Trial]") -> bool:
        """Whether these are all trials planned so far, so that a decision made from them holds."""
        return self.planned is None or self.planned.number < len(trials)

    @property
    def blob_prefix(self) -> str:
        """Prefix of all its blobs; a later model of the same name has another."""
        return f"{self.name}/{self.uid}/"

    @property
    def base_key(self) -> str:
        """Prefix of its copy of the base model's bundle."""
        return f"{self.blob_prefix}base/"

    @property
    def wanted(self) -> Hyperparameters:
        """The hyperparameters; what they leave open is as in the base model, if there is one."""
        given, base = self.hyperparameters, self.base
        if base is None:
            return given
        return dataclasses.replace(
            given,
            backbones=given.backbones or base.networks,
            resolution=given.resolution or base.resolution,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """The result of a trial that succeeded."""

    score: float  # top-1 accuracy, or mAP at IoU 0.50, on images that training has not seen; 0 of a refit
    standard_error: float
    score_interval: Interval | None = None  # of `score`, at 95 %; None of a refit, and of earlier versions
    log_loss: float | None = None  # of a classifier, on the images of `score`; None of earlier versions
    bundle_key: str
    bundle_digest: str = ""  # `sha256:...`; empty of earlier versions
    bundle_signature: str = ""  # empty without a signing key
    bundle_bytes: int = 0  # of all its files; 0 of earlier versions
    predictions_key: str
    performance_key: str
    insight_key: str = ""  # empty of earlier versions
    performance: Performance  # without curves and matrix
    weights_source: WeightsSource
    weights: tuple[UsedWeights, ...] = ()  # the packs that its networks started from; empty of earlier versions
    resolution: int
    networks: tuple[str, ...] = ()  # of a classifier: those that it is built on; may differ from the recipe's
    backbones: tuple[
        str, ...
    ] = ()  # whose weights the worker has or can fetch, preferred first; none measured too slow
    epochs: int = 0
    warnings: tuple[str, ...] = ()
    boxes: BoxStatistics | None = None
    prediction_seconds: float = 0.0  # of the reference device, for one image; 0 if not known
    mirror: bool = True  # a mirrored image shows the same category, as far as the trial could tell
    features: FeatureUse | None = None  # of frozen networks; what reuse saved is time on the reference device
    names: NameUse | None = None  # of a classifier; None of earlier versions


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """`models/{model}/trials/{trial}`: one recipe, run by one worker at a time."""

    name: str
    model_uid: str
    number: int
    training: Snapshot
    recipe: Recipe
    holdout_fraction: float
    seed: int
    base_key: str = ""  # prefix of the bundle that it continues; empty: none
    base_digest: str = ""  # of that bundle; empty of earlier versions
    base_model: str = ""  # whose bundle that is; empty of earlier versions
    base_signature: str = ""  # of that bundle, for that model
    weights: tuple[UsedWeights, ...] = ()  # what earlier trials used: packs that differ are refused
    expected_seconds: float = 0.0
    # Name of the trial whose settings it repeats, for longer or on more images; empty if it repeats none.
    parent_trial: str = msgspec.field(name="forerunner", default="")
    work: Work
    result: TrialResult | None = None
    update_time: datetime

    @property
    def blob_prefix(self) -> str:
        """Prefix of its blobs: under the model's, so that they are deleted with it."""
        model, _, id_ = self.name.partition("/trials/")
        return f"{model}/{self.model_uid}/trials/{id_}/"

    def with_work(self, work: Work, now: datetime) -> Self:
        """The trial with changed work; itself if the work is the same."""
        return self if work is self.work else replace(self, work=work, update_time=now)


_EVALUATION_STATES = {
    WorkState.QUEUED: "NOT_STARTED",
    WorkState.RUNNING: "RUNNING",
    WorkState.SUCCEEDED: "SUCCEEDED",
}


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """`models/{model}/evaluations/{evaluation}`: one bundle measured on one snapshot."""

    name: str
    uid: str = ""  # tells it from others that had its name; empty of earlier versions
    model_uid: str
    test_dataset: str
    test: Snapshot
    model_version: str
    bundle_key: str
    bundle_digest: str = ""  # empty of earlier versions
    bundle_signature: str = ""  # empty without a signing key
    model_kind: ModelKind
    work: Work
    update_time: datetime
    display_name: str = ""
    request_id: str = ""
    performance: Performance | None = None  # without curves and matrix
    performance_key: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether it is part of its model's training, and paid by the budget of that."""
        return self.name.endswith(f"/evaluations/{FINAL_EVALUATION}")

    @property
    def blob_prefix(self) -> str:
        """Prefix of its blobs: under the model's, so that they are deleted with it.

        A later evaluation of the same name has another.
        """
        model, _, id_ = self.name.partition("/evaluations/")
        return f"{model}/{self.model_uid}/evaluations/{self.uid or id_}/"

    @property
    def state(self) -> str:
        """The name of its state in the contract."""
        return _EVALUATION_STATES.get(self.work.state, "FAILED")

    @property
    def predictions_key(self) -> str:
        """The predictions for single images, which are beside the performance."""
        return self.performance_key.rpartition("/")[0] + "/predictions.msgpack"

    def with_work(self, work: Work, now: datetime) -> Self:
        """The evaluation with changed work; itself if the work is the same."""
        return self if work is self.work else replace(self, work=work, update_time=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An evaluation as requested."""

    id: str
    test_dataset: str
    display_name: str = ""
    request_id: str = ""


R = TypeVar("R", Trial, Evaluation)


def served_trial(model: Model, trials: list[Trial]) -> Trial | None:
    """The trial whose bundle the model predicts with; None before there is one."""
    return next((trial for trial in trials if model.served and trial.name == model.served.trial), None)


def scored_trial(trial: Trial, trials: list[Trial]) -> Trial:
    """The trial whose score counts for this one: itself, or for a refit the trial that it repeats."""
    if not trial.recipe.refit:
        return trial
    return next((other for other in trials if other.name == trial.parent_trial), trial)


def works_of(trials: list[Trial], final: Evaluation | None) -> list[Work]:
    """All work that a model's budget pays for."""
    return [trial.work for trial in trials] + ([final.work] if final else [])


def training_cost(trials: list[Trial], final: Evaluation | None) -> timedelta:
    """Time on the reference device that the budget has paid: the sum of the ledger's charged entries."""
    return total(work.charged for work in works_of(trials, final))


def granted(trials: list[Trial], final: Evaluation | None) -> timedelta:
    """What the budget has paid or, for work that has not ended, promised."""
    return total(work.charged if work.ended else work.allowance for work in works_of(trials, final))


def asked_to_stop(record: R, now: datetime) -> R:
    """The record with its work cancelled: at once without a live lease, else at the worker's next report."""
    work = record.work
    if work.ended:
        return record
    if not work.lease.is_live(now):
        return record.with_work(work.cancelled(now), now)
    return record if work.cancel_requested else record.with_work(replace(work, cancel_requested=True), now)
