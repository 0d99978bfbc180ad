"""What the training loop needs from a vision task, be it classification or detection."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from services.trainer.engine.data import Floats, Images, Indices
from services.trainer.engine.loop.numerics import Numerics
from services.trainer.engine.split import Partition
from services.trainer.messages import Result
from services.vision.detector_network import Targets

Outputs = Mapping[str, Floats]  # of a network for some images: arrays by name, as a checkpoint keeps them
Truths = Tensor | Sequence[Targets]  # of a batch: labels [n], or each image's targets
Batch = tuple[Tensor, Truths]  # inputs [n, 3, h, w] and their ground truth


class Loss(NamedTuple):
    """The loss of a micro-batch as a sum, so that those of a batch add up: divided by its objects, or by its images
    if those are more.
    """

    total: Tensor
    objects: int  # that a detector learns; 0 for a classifier
    images: int

    def mean(self) -> Tensor:
        """The loss of a batch that consists of this micro-batch only."""
        return self.total / max(self.objects, self.images, 1)


class BatchRequest(NamedTuple):
    """A batch to make: its randomness follows from the seed, the epoch and the image alone."""

    epoch: int
    rows: Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A network that could ship, and its outputs for images on which it was not trained."""

    network: nn.Module  # in evaluation mode; a copy
    selection: Outputs  # of the first fold
    held_out: Outputs
    notes: tuple[str, ...]  # warnings for people
    epochs: int
    steps: int


class VisionTask(Protocol):
    """A partitioned snapshot and a kind of network; the loop owns networks, time, memory and checkpoints."""

    @property
    def images(self) -> Images:
        """The snapshot's images."""
        ...

    @property
    def partition(self) -> Partition:
        """How the readable images are divided."""
        ...

    numerics: Numerics

    @property
    def max_epochs(self) -> int:
        """How many epochs are useful: the recipe's, or fewer; 0 means a single step."""
        ...

    @property
    def report_seconds(self) -> float:
        """An estimate of how long the first delivery takes, until it is measured."""
        ...

    def batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """The training batch of each request, in order, prefetched."""
        ...

    def start_training(self, network: nn.Module) -> None:
        """Sets training mode for what trains, evaluation mode for what is frozen."""
        ...

    def look_at(self, rows: Indices, keep: Indices) -> None:
        """Decodes the rows once, which finds the unreadable ones, and keeps those of `keep` in memory."""
        ...

    def loss(self, network: nn.Module, inputs: Tensor, truths: Truths) -> Loss:
        """The loss of a micro-batch; inputs and truths are on the CPU."""
        ...

    def predict(self, network: nn.Module, rows: Indices, size: int, before_each: Callable[[], None]) -> Outputs:
        """The network's outputs for images as serving would prepare them, `size` at a time; `before_each` may raise."""
        ...

    def validation_loss(self, outputs: Outputs) -> float | None:
        """The loss of the outputs for the first fold, lower is better; None if it is undefined."""
        ...

    def finish(self, found: Found, directory: Path) -> Result:
        """Writes bundle and predictions into the folder; the result has the seconds so far, stop reason "allowance"."""
        ...


def freeze_norms(network: nn.Module) -> None:
    """Freezes batch statistics: of few images they are worse than those of pretraining."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
