"""What a fine-tuning is about, as far as its loop must not know: classification or detection."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from services.trainer.engine.data import Floats, Images, Indices
from services.trainer.engine.split import Partition
from services.trainer.messages import Result
from services.trainer.recipe import Throughput
from services.vision.detector_network import Targets

Outputs = Mapping[str, Floats]  # what a network says about rows of images: arrays by name, as a checkpoint keeps them
Truths = Tensor | Sequence[Targets]  # of a batch: labels [n], or the targets of each image
Batch = tuple[Tensor, Truths]  # inputs [n, 3, h, w] and what is true of them


class BatchRequest(NamedTuple):
    """A batch to be made: all that is random in it follows from the seed, these numbers, and the image."""

    step: int
    epoch: int
    rows: Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A network that could ship, and what it said about images on which it was not trained."""

    network: nn.Module  # in evaluation mode, nobody else's
    selection: Outputs  # of the first fold
    held_out: Outputs
    notes: tuple[str, ...]  # warnings for people
    throughput: Throughput
    epochs: int
    steps: int


class VisionTask(Protocol):
    """One snapshot, divided, and one kind of network; the loop owns networks, time, memory and checkpoints."""

    @property
    def images(self) -> Images:
        """Of the snapshot."""
        ...

    @property
    def partition(self) -> Partition:
        """Those that could be read, divided."""
        ...

    @property
    def max_epochs(self) -> int:
        """Beyond which training on is of no use here: as the recipe has it, or fewer; 0 asks for one step only."""
        ...

    @property
    def report_seconds(self) -> float:
        """That the first report may take, for want of a measurement."""
        ...

    def batches(self, requests: Sequence[BatchRequest]) -> Iterator[Batch]:
        """The training batch of each request, in order, prefetched."""
        ...

    def start_training(self, network: nn.Module) -> None:
        """Training mode for what trains, evaluation mode for what stands still."""
        ...

    def loss(self, network: nn.Module, inputs: Tensor, truths: Truths) -> Tensor:
        """The mean loss of a part of a batch, which lies on the CPU."""
        ...

    def effort(self, inputs: Tensor) -> float:
        """The work of a step with these inputs against that of a mean one."""
        ...

    def predict(self, network: nn.Module, rows: Indices, size: int, before_each: Callable[[], None]) -> Outputs:
        """What the network says about the images as serving would show them, so many at a time."""
        ...

    def validation_loss(self, outputs: Outputs) -> float | None:
        """The loss of the predictions for the first fold, lower is better; None while there is nothing to compare."""
        ...

    def finish(self, found: Found, directory: Path) -> Result:
        """Writes bundle and predictions into the folder; seconds and stop reason are as of now, "allowance"."""
        ...


def freeze_norms(network: nn.Module) -> None:
    """Batch statistics stand still: of few images they are worse than those of the pretraining."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
