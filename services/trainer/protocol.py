"""What a worker and its training child say to each other: typed messages in length-prefixed msgpack frames.

The child says Ready once torch is imported, takes exactly one task from its stdin, answers with Started, any number
of Progress, Checkpoint and Offer, and ends with exactly one of Result, EvaluationResult and Failed, after which it
exits with status 0. One that says Unusable in place of Ready exits at once. Any other that ends without one of those
three died. A stdin that closes means, at any time: exit.
After the task the worker may send any number of SaveNow and CheckpointDone, which only a fine-tuning heeds.

No torch, asyncio or grpc here: both sides import it, and the child must not hold what the worker holds.
"""

import struct
from collections.abc import Awaitable
from enum import StrEnum
from typing import BinaryIO, Protocol, TypeVar

import msgspec

from services.kit.errors import Failure
from services.trainer.performance import Finding, Performance

MAX_FRAME_BYTES = 64 * 1024 * 1024
MANIFEST_FILE = "manifest.json"  # in a task's `directory`; packs and indexes lie beside it by `local_name`

_HEADER = struct.Struct("!I")


class Depth(StrEnum):
    """Which layers a fine-tuning changes."""

    HEAD = "HEAD"
    NECK = "NECK"  # of a detector: the head and the feature pyramid
    LAST_STAGES = "LAST_STAGES"
    ALL = "ALL"


class ModelKind(StrEnum):
    """What is trained."""

    GENERIC_CLASSIFIER = "GENERIC_CLASSIFIER"
    GENERIC_DETECTOR = "GENERIC_DETECTOR"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial trains. Rung 0 fits a linear head on frozen features; rung 1 changes the backbone too."""

    name: str  # for people: "mobilenet_v2 linear"
    rung: int
    kind: ModelKind = ModelKind.GENERIC_CLASSIFIER
    backbones: tuple[str, ...]  # several: rung 0 only, features concatenated
    pretrained: bool = True  # False: random weights on purpose, even where a file is at hand
    views: int = 1  # of each training image: 1 plain, 2 mirrored too, 3 and more closer crops as well
    resolution: int = 0  # pixels, the whole picture; 0: the backbone's own rule, or less for small images, untrained
    depth: Depth = Depth.ALL  # from here on rung 1 only
    learning_rate: float = 1e-3  # of the changed layers; the peak of the schedule
    weight_decay: float = 1e-4
    batch_size: int = 32  # the effective one, whatever micro-batch fits in memory
    max_epochs: int = 40
    min_epochs: int = 2  # fewer than these in the allowance: refused as notEnoughBudget, nothing trained
    patience: int = 0  # epochs without a better validation loss before it stops; 0: never stops early
    label_smoothing: float = 0.1
    augmentation: float = 0.5  # 0 none .. 1 strong
    mirror: bool = True  # training pictures may be mirrored; not where left and right differ, as in text
    average_decay: float = 0.98  # of the moving average of the weights, per step; 0: the last weights

    linear_head: bool = True  # start from the head that rung 0 would fit on the training folds alone (LP-FT)
    multi_scale: float = 0.0  # detectors: each step's input side is drawn from resolution x (1 - this .. 1 + this)
    refit: bool = False  # train on the first fold too, once a trial has shown what to do; nothing then validates


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How a snapshot is divided; the same values give every trial of a model the same images.

    The hold-out is drawn first, stratified, only where every category keeps 20 images; 0 says that there is none
    because a test dataset is given. The rest falls into stratified folds, at most `folds`, at most the images
    of the smallest category. Rung 1 trains on all folds but the first, and validates on the first.
    """

    seed: int = 0
    folds: int = 5
    holdout_fraction: float = 0.0


class TrainTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Train one trial. Paths are absolute; every directory exists and is the child's to write in, but `directory`."""

    trial: str  # resource name, for messages
    dataset: str  # resource name, for messages
    directory: str  # the snapshot: manifest, packs and indexes
    recipe: Recipe
    allowance_seconds: float  # for this attempt, from the task's arrival to its Result; never exceeded
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
    allowance_seconds: float = float("inf")
    threads: int = 1
    device: str = "cpu"


Task = TrainTask | EvaluateTask


def has_checkpoints(task: Task) -> bool:
    """Whether the task's child can save where it is; a linear head and an evaluation begin anew."""
    return isinstance(task, TrainTask) and not is_linear(task.recipe)


def is_linear(recipe: Recipe) -> bool:
    """Whether it fits a classifier's head on features and changes no network."""
    return recipe.kind is ModelKind.GENERIC_CLASSIFIER and recipe.rung == 0


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Everything is imported; a task may come."""

    device: str  # "cpu" or "cuda"
    device_name: str
    import_seconds: float
    problem: str = ""  # why not on the GPU, where there is one that cannot be used


class Unusable(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """In place of Ready: the device that the child must use cannot be used. It exits."""

    problem: str


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The task was read and its snapshot opened; the allowance counts since the task's arrival."""

    image_count: int
    seconds_used: float


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How far it is; at most a few a second."""

    fraction: float  # 0..1 of the whole task, never falling
    phase: str  # "features", "fit", "train", "calibrate", "evaluate", "bundle"
    seconds_used: float  # since the task's arrival
    metric_name: str | None = None
    metric: float | None = None


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A complete checkpoint lies at `path`, a directory that stays unchanged until its CheckpointDone."""

    path: str
    step: int  # of one task's checkpoints, each is greater than the one before
    seconds_used: float  # since the task's arrival: up to here nothing need be repeated


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Measured in this task, for the next one's estimate; None where it was not measured."""

    forward_images_per_second: float | None = None  # decode, preprocess and forward, of all backbones together
    train_images_per_second: float | None = None  # forward, backward, step and augmentation
    fixed_seconds: float = 0.0  # everything that does not grow with the images


class BoxStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How many and how large the regions of a snapshot's training images are, crowds left out.

    A box's size is the square root of its area by the longer side of its image: times the side of the input it is
    its size in the network's pixels.
    """

    count: int
    fewest: int  # of the category that has the fewest
    small_size: float  # the median box's, of the category with the smallest
    median_size: float
    longer_side: int  # of the median image, in pixels as stored


class Result(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A trained model.

    `selection_score` is of images that training has not seen, out of fold or the first fold: a classifier's top-1
    accuracy, a detector's mAP at IoU 0.50. A refit has trained on all of them: it has a score of 0 and no predictions,
    and stands on its forerunner's. Its performance is of the hold-out; without one it has no numbers, of 0 images.
    """

    bundle_directory: str
    selection_score: float
    standard_error: float
    selection_log_loss: float
    predictions_path: str  # `services.trainer.predictions`: per image, for paired comparison between trials
    performance: Performance  # of the hold-out, or cross-validated
    seconds: float  # since the task's arrival
    stop_reason: str  # "converged": the recipe ran to its end; "allowance": it was cut to fit
    weights_source: str  # a WeightsSource
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
    seconds: float
    predictions_path: str
    unreadable: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The task cannot succeed as it is; `failure` is what the resource's record keeps."""

    failure: Failure
    seconds_used: float
    traceback: str = ""  # for the log only


Message = Ready | Unusable | Started | Progress | Checkpoint | Offer | Result | EvaluationResult | Failed


class SaveNow(msgspec.Struct, frozen=True, tag=True):
    """Save a checkpoint as soon as possible, even if the worker is not done with the last one; then go on."""


class CheckpointDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker no longer reads the checkpoint of `step`, nor any before it: it is stored, or was skipped."""

    step: int
    seconds: float  # from its arrival until now


Signal = SaveNow | CheckpointDone

T = TypeVar("T")


class Connection(Protocol):
    """The reading half of an asyncio stream, without importing it."""

    def readexactly(self, n: int, /) -> Awaitable[bytes]:
        """So many bytes; raises EOFError (IncompleteReadError) at the end."""
        ...


def local_name(key: str) -> str:
    """The file name in a task's `directory` of the shard or index that the store holds at `key`."""
    return key.rsplit("/", 1)[-1]


def frame(message: Task | Message | Signal) -> bytes:
    """The message as bytes for the pipe: its length in four bytes, big-endian, then msgpack."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is more than {MAX_FRAME_BYTES}")
    return _HEADER.pack(len(body)) + body


def send(stream: BinaryIO, message: Task | Message) -> None:
    """Writes and flushes one frame."""
    stream.write(frame(message))
    stream.flush()


def receive_task(stream: BinaryIO) -> Task | None:
    """The next task, None at the end of the stream; ValueError or EOFError for anything else."""
    return _receive(stream, _tasks)


def receive_signal(stream: BinaryIO) -> Signal | None:
    """The next signal, None at the end of the stream; ValueError or EOFError for anything else."""
    return _receive(stream, _signals)


def receive_message(stream: BinaryIO) -> Message | None:
    """The next message, None at the end of the stream; ValueError or EOFError for anything else."""
    return _receive(stream, _messages)


async def receive_message_async(connection: Connection) -> Message:
    """The next message; EOFError at the end of the stream, ValueError for bytes that are none."""
    size = _size(await connection.readexactly(_HEADER.size))
    return _messages.decode(await connection.readexactly(size))


_tasks = msgspec.msgpack.Decoder(Task)
_messages = msgspec.msgpack.Decoder(Message)
_signals = msgspec.msgpack.Decoder(Signal)


def _receive(stream: BinaryIO, decoder: "msgspec.msgpack.Decoder[T]") -> T | None:
    header = _read_exactly(stream, _HEADER.size)
    if not header:
        return None
    if len(header) < _HEADER.size:
        raise EOFError("the stream ended inside a frame's header")
    size = _size(header)
    body = _read_exactly(stream, size)
    if len(body) < size:
        raise EOFError("the stream ended inside a frame")
    return decoder.decode(body)


def _size(header: bytes) -> int:
    (size,) = _HEADER.unpack(header)
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes is more than {MAX_FRAME_BYTES}")
    return size


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    """So many bytes, fewer only at the end; a pipe's read may return less at a time."""
    parts: list[bytes] = []
    while count:
        part = stream.read(count)
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
