"""Messages between a worker and its training child; `framing` puts them on a pipe.

The child sends Ready once torch is imported, reads exactly one task from stdin, sends any number of Progress,
Checkpoint and Offer, and finishes with exactly one of Result, EvaluationResult, Probed, Exported and Failed, after
which it exits with status 0. A child that sends Unusable instead of Ready exits at once. A child that ends in any other
way has died. When its stdin closes, it exits. After the task the worker may send any number of SaveNow and
CheckpointDone; only fine-tuning acts on them.

Imports no torch, asyncio or grpc: both sides import this module.
"""

from datetime import timedelta

import msgspec

from services.kit.errors import Failure
from services.trainer.estimate import Probe
from services.trainer.feature_blocks import FeatureUse
from services.trainer.insight import NO_INSIGHT, Insight
from services.trainer.name_use import NameUse
from services.trainer.performance import Finding, Interval, Performance
from services.trainer.recipe import BoxStatistics, Recipe, Split, is_linear
from services.trainer.used_weights import UsedWeights
from services.vision.card import WeightsSource
from services.vision.exports.formats import ExportFormat

MANIFEST_FILE = "manifest.json"  # in a task's `directory`, with packs and indexes named by `local_name`


class TrainTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Train one trial. Paths are absolute; directories exist, and all but `directory` are writable."""

    trial: str  # resource name, for messages
    dataset: str  # resource name, for messages
    directory: str  # the snapshot: manifest, packs and indexes
    recipe: Recipe
    allowance: timedelta  # of this attempt, from the task's arrival to its Result: a hard limit
    output_directory: str
    cache_directory: str  # shared by the trials of a snapshot; may be lost or written by others at any time
    graphs_directory: str = ""  # of traced networks, see `vision.graphs`; empty: torch runs all, bundles get no graphs
    weights_directory: str | None = None
    installed_weights: bool = False  # those in installed packages too, if neither that directory nor the cache has them
    download_weights: bool = False  # if nothing on this machine has them
    weights: tuple[UsedWeights, ...] = ()  # packs that differ from these are refused
    base_directory: str | None = None  # the bundle of the model that it continues
    checkpoint_path: str | None = None  # of an earlier attempt: continue from there
    checkpoint_seconds: float = 5.0  # minimum time between two checkpoints
    split: Split = Split()
    seed: int = 0
    threads: int = 1
    device: str = "cpu"  # as the child's Ready names it
    batch_size_limit: int = 0  # maximum images per micro-batch, to save memory; 0: no limit
    frugal: bool = False  # earlier attempts may have used up the machine's memory
    charge: float = 1.0  # seconds of the budget for one second of the allowance
    thresholds: dict[str, float] = {}  # by category, of the trial that a refit repeats; a refit cannot measure its own


class EvaluateTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Measure a bundle on a snapshot."""

    evaluation: str  # resource name, for messages
    dataset: str  # resource name, for messages
    bundle_directory: str
    directory: str
    output_directory: str
    allowance: timedelta = timedelta.max
    charge: float = 1.0
    threads: int = 1
    device: str = "cpu"


class ProbeTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Measure what recipes take on samples of a snapshot's images, and what accuracy they promise."""

    estimate: str  # resource name, for messages
    dataset: str  # resource name, for messages
    directory: str  # of the sample for the first recipe
    small_directory: str  # of the sample for the others; may be the same
    index_directory: str  # the whole snapshot's manifest and indexes
    recipes: tuple[Recipe, ...]
    images_per_category: float | None  # of the whole snapshot; None if the sample lacks categories
    output_directory: str
    cache_directory: str
    graphs_directory: str = ""
    weights_directory: str | None = None
    installed_weights: bool = False
    download_weights: bool = False
    allowance: timedelta = timedelta.max
    charge: float = 1.0
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    base_directory: str | None = None  # the bundle that the training would continue
    stored_blocks: tuple[str, ...] = ()  # of the whole snapshot's features, by name


class ExportTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Write a bundle in another format."""

    export: str  # resource name, for messages
    model: str  # `models/{model}`, as callers see it
    model_version: str
    bundle_directory: str
    bundle_digest: str
    format: ExportFormat
    output_directory: str
    allowance: timedelta = timedelta.max
    charge: float = 1.0
    threads: int = 1
    device: str = "cpu"  # as the child's Ready names it; the work is done on the CPU


Task = TrainTask | EvaluateTask | ProbeTask | ExportTask


def has_checkpoints(task: Task) -> bool:
    """Whether the task can resume from checkpoints; what is short (a head, last stages, an evaluation) starts over."""
    return isinstance(task, TrainTask) and not (is_linear(task.recipe) or task.recipe.stored_maps)


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Everything is imported; the child waits for its task."""

    device: str  # "cpu" or "cuda"
    import_seconds: float
    devices: int = 1  # how many of them compute a training together
    memory_bytes: int = 0  # of a GPU
    problem: str = ""  # why it does not use a GPU that is there
    network: str = "shared"  # `none` if it has left it, `refused` if the system did not let it
    files: str = "all"  # `own` if it opens no others, `refused` if the system cannot keep it from them
    memory_limit_bytes: int = 0  # 0: none


class Unusable(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Sent instead of Ready: the required device cannot be used. The child exits."""

    problem: str


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Sent at most a few times a second."""

    fraction: float  # 0..1 of the whole task; never falls
    phase: str  # "features", "fit", "train", "calibrate", "evaluate", "bundle", "probe", "export"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A complete checkpoint is at `path`, a directory that stays unchanged until its CheckpointDone."""

    path: str
    step: int  # increases with every checkpoint of a task
    used: timedelta  # since the task's arrival; resuming repeats nothing up to here


class Result(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A trained model.

    `selection_score` is measured on images that training has not seen, out of fold or the first fold: a classifier's
    top-1 accuracy, a detector's mAP at IoU 0.50. A refit has trained on all of them: its score is 0, it has no
    predictions, and its parent trial's count. Its performance is measured on the hold-out; without one, on 0 images.
    """

    bundle_directory: str
    selection_score: float
    standard_error: float
    selection_log_loss: float
    selection_interval: Interval | None = None  # of the score, at 95 %
    predictions_path: str  # see `services.trainer.predictions`: per image, to compare trials on paired images
    performance: Performance  # of the hold-out, or cross-validated
    used: timedelta  # since the task's arrival
    stop_reason: str  # "converged": the recipe ran to its end; "allowance": it was cut to fit
    weights_source: WeightsSource
    weights: tuple[UsedWeights, ...] = ()  # the packs that its networks started from
    resolution: int
    image_count: int
    category_count: int
    networks: tuple[str, ...] = ()  # of a classifier: those that it is built on
    backbones: tuple[
        str, ...
    ] = ()  # whose weights the worker has or can fetch, preferred first; none measured too slow
    warnings: tuple[str, ...] = ()  # shown to people: random weights, unreadable images, few images
    unreadable: tuple[str, ...] = ()  # file names, at most 100
    epochs: int = 0
    steps: int = 0
    boxes: BoxStatistics | None = None  # of a detector's training images
    insight: Insight = NO_INSIGHT
    prediction_seconds: float = 0.0  # of the reference device, for one image
    numerics: str = ""  # of a fine-tuning's steps, such as "float32-channels-last"
    batch_size_limit: int = 0  # images per micro-batch that fit into memory; 0: as many as the recipe asks for
    mirror: bool = True  # mirrored images show the same category, as far as a classifier's mirrored views tell
    features: FeatureUse | None = None  # of a classifier that read features of frozen networks
    names: NameUse | None = None  # of a classifier


class Offer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A complete result, used if the allowance ends before a better one. Its files outlive the next offer."""

    result: Result


class EvaluationResult(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The result of an evaluation."""

    performance: Performance
    used: timedelta  # since the task's arrival
    predictions_path: str
    unreadable: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


class Probed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The result of a probe."""

    probe: Probe
    used: timedelta  # since the task's arrival


class Exported(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The result of an export."""

    path: str  # the archive
    sha256: str
    max_difference: float  # from the predictor's scores, on drawn pictures
    used: timedelta  # since the task's arrival


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The task cannot succeed; the resource's record keeps `failure`."""

    failure: Failure
    traceback: str = ""  # for the log only


Message = Ready | Unusable | Progress | Checkpoint | Offer | Result | EvaluationResult | Probed | Exported | Failed


class SaveNow(msgspec.Struct, frozen=True, tag=True):
    """Save a checkpoint as soon as possible, even before the last one's CheckpointDone; then continue."""


class CheckpointDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker no longer reads the checkpoint of `step` or any before it: it is stored, or was skipped."""

    step: int
    seconds: float  # since the checkpoint arrived


Signal = SaveNow | CheckpointDone


def local_name(key: str) -> str:
    """The file name, in a task's `directory`, of the pack or index stored at `key`."""
    return key.rsplit("/", 1)[-1]
