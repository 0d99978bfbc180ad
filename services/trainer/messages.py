"""What a worker and its training child say to each other: typed messages; `framing` puts them on a pipe.

The child sends Ready once torch is imported, takes exactly one task from its stdin, answers with any number of
Progress, Checkpoint and Offer, and ends with exactly one of Result, EvaluationResult and Failed, after which it exits
with status 0. One that sends Unusable instead of Ready exits at once. Any other that ends without one of those three
died. A stdin that closes means, at any time: exit.
After the task the worker may send any number of SaveNow and CheckpointDone, which only a fine-tuning heeds.

No torch, asyncio or grpc here: both sides import it, and the child must not hold what the worker holds.
"""

from datetime import timedelta

import msgspec

from services.kit.errors import Failure
from services.trainer.performance import Finding, Performance
from services.trainer.recipe import BoxStatistics, Recipe, Split, Throughput, is_linear
from services.vision.card import WeightsSource

MANIFEST_FILE = "manifest.json"  # in a task's `directory`; packs and indexes lie beside it by `local_name`


class TrainTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Train one trial. Paths are absolute; every directory exists and is the child's to write in, but `directory`."""

    trial: str  # resource name, for messages
    dataset: str  # resource name, for messages
    directory: str  # the snapshot: manifest, packs and indexes
    recipe: Recipe
    allowance: timedelta  # of this attempt, from the task's arrival to its Result; never exceeded
    output_directory: str
    cache_directory: str  # shared by the trials of a snapshot; may be lost, empty or written by others at any time
    weights_directory: str | None = None
    download_weights: bool = False  # from torchvision's site, where neither that nor the cache has them
    checkpoint_path: str | None = None  # from a Checkpoint of an earlier attempt: continue there
    checkpoint_seconds: float = 5.0  # work between two checkpoints, at least
    split: Split = Split()
    seed: int = 0
    threads: int = 1
    device: str = "cpu"  # the child's, as its Ready names it
    batch_size_limit: int = 0  # images in a micro-batch, at most, and little else in memory; 0: no limit
    thresholds: dict[str, float] = {}  # by category, of the trial that a refit repeats: what it cannot measure itself


class EvaluateTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Measure a bundle on a snapshot."""

    evaluation: str  # resource name, for messages
    dataset: str  # resource name, for messages
    bundle_directory: str
    directory: str
    output_directory: str
    allowance: timedelta = timedelta.max
    threads: int = 1
    device: str = "cpu"


Task = TrainTask | EvaluateTask


def has_checkpoints(task: Task) -> bool:
    """Whether the task's child can save where it is; a linear head and an evaluation begin anew."""
    return isinstance(task, TrainTask) and not is_linear(task.recipe)


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Everything is imported; a task may come."""

    device: str  # "cpu" or "cuda"
    import_seconds: float
    problem: str = ""  # why not on the GPU, where there is one that cannot be used


class Unusable(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """In place of Ready: the device that the child must use cannot be used. It exits."""

    problem: str


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How far it is; at most a few a second."""

    fraction: float  # 0..1 of the whole task, never falling
    phase: str  # "features", "fit", "train", "calibrate", "evaluate", "bundle"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A complete checkpoint lies at `path`, a directory that stays unchanged until its CheckpointDone."""

    path: str
    step: int  # of one task's checkpoints, each is greater than the one before
    used: timedelta  # since the task's arrival: up to here nothing need be repeated


class Result(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A trained model.

    `selection_score` is of images that training has not seen, out of fold or the first fold: a classifier's top-1
    accuracy, a detector's mAP at IoU 0.50. A refit has trained on all of them: it has a score of 0 and no predictions,
    and stands on its parent trial's. Its performance is of the hold-out; without one it has no numbers, of 0 images.
    """

    bundle_directory: str
    selection_score: float
    standard_error: float
    selection_log_loss: float
    predictions_path: str  # `services.trainer.predictions`: per image, for paired comparison between trials
    performance: Performance  # of the hold-out, or cross-validated
    used: timedelta  # since the task's arrival
    stop_reason: str  # "converged": the recipe ran to its end; "allowance": it was cut to fit
    weights_source: WeightsSource
    resolution: int
    image_count: int
    category_count: int
    throughput: Throughput
    backbones: tuple[str, ...] = ()  # whose pretrained weights lie within this worker's reach
    warnings: tuple[str, ...] = ()  # for a person: random weights, unreadable images, few images
    unreadable: tuple[str, ...] = ()  # file names, at most 100
    epochs: int = 0
    steps: int = 0
    boxes: BoxStatistics | None = None  # of a detector's training images


class Offer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A whole result, which stands if the allowance ends before a better one. Its files stay until the next but one."""

    result: Result


class EvaluationResult(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A measured model."""

    performance: Performance
    used: timedelta  # since the task's arrival
    predictions_path: str
    unreadable: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The task cannot succeed as it is; `failure` is what the resource's record keeps."""

    failure: Failure
    traceback: str = ""  # for the log only


Message = Ready | Unusable | Progress | Checkpoint | Offer | Result | EvaluationResult | Failed


class SaveNow(msgspec.Struct, frozen=True, tag=True):
    """Save a checkpoint as soon as possible, even if the worker is not done with the last one; then go on."""


class CheckpointDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker no longer reads the checkpoint of `step`, nor any before it: it is stored, or was skipped."""

    step: int
    seconds: float  # from its arrival until now


Signal = SaveNow | CheckpointDone


def local_name(key: str) -> str:
    """The file name in a task's `directory` of the shard or index that the store holds at `key`."""
    return key.rsplit("/", 1)[-1]
