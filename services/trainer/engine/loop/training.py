"""What a fine-tuning consists of, whatever its vision task: the live state, the pace, the micro-batch."""

import copy
import math
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import nn

from services.trainer.engine.data import Images, Indices
from services.trainer.engine.loop.checkpoint import Candidate, Position, State
from services.trainer.engine.loop.numerics import Numerics
from services.trainer.engine.loop.task import Outputs, VisionTask
from services.trainer.engine.loop.timing import Pace, Part
from services.trainer.engine.loop.together import Together
from services.trainer.engine.session import Session
from services.trainer.engine.split import Partition
from services.trainer.messages import TrainTask
from services.vision.detector_network import DetectorNetwork

FROZEN_NORM_BELOW = 5_000  # training images: batch statistics of fewer are worse than the pretrained ones
EVALUATION_BATCH = 16
PREPARED, TRAINED = 0.1, 0.95  # of the progress bar: where preparation and training end


@dataclass(frozen=True, slots=True)
class Start:
    """Where a training begins, before any checkpoint is restored; parameters that train require gradients."""

    vision_task: VisionTask
    network: nn.Module
    position: Position = field(default_factory=Position)
    candidate: Candidate | None = None


@dataclass(slots=True)
class Training:
    """A fine-tuning in progress."""

    task: TrainTask
    session: Session
    vision_task: VisionTask
    state: State
    pace: Pace
    micro_batch: int
    together: Together

    @classmethod
    def begin(cls, task: TrainTask, session: Session, start: Start) -> "Training":
        """The training before its first step."""
        pace, size = Pace(session.meter), task.recipe.batch_size
        pace.took(Part.DELIVER, start.vision_task.report_seconds)
        average = copy.deepcopy(start.network).requires_grad_(False)
        state = State(start.network, average, optimizer(start.network, task), start.position, start.candidate)
        micro_batch = min(size, task.batch_size_limit or size)
        return cls(
            task, session, start.vision_task, state, pace, micro_batch, Together(session.group, start.vision_task)
        )

    @property
    def images(self) -> Images:
        """The snapshot's images."""
        return self.vision_task.images

    @property
    def partition(self) -> Partition:
        """How the images are divided."""
        return self.vision_task.partition

    @property
    def batch_size(self) -> int:
        """The effective batch size."""
        return min(self.task.recipe.batch_size, len(self.partition.other_folds))

    @property
    def delivery_seconds(self) -> float:
        """The expected time to predict the hold-out and write a result."""
        return len(self.partition.held_out) * self.pace.expected(Part.PREDICT) + self.pace.expected(Part.DELIVER)

    @property
    def validation_seconds(self) -> float:
        """The expected time of a validation."""
        return len(self.partition.first_fold) * self.pace.expected(Part.PREDICT)

    @property
    def end_seconds(self) -> float:
        """The expected time after the last step: a validation and the delivery."""
        return self.validation_seconds + self.delivery_seconds

    def compute_in(self, numerics: Numerics) -> None:
        """Trains with these numerics from now on; must come before the optimizer has a state, which has that layout."""
        self.vision_task.numerics = numerics
        if self.task.device == "cpu":
            return  # there, a network stays in the layout in which it was built
        layout = torch.channels_last if numerics.channels_last else torch.contiguous_format
        for network in (self.state.network, self.state.average):
            network.to(memory_format=layout)

    def predict(self, network: nn.Module, rows: Indices, then_seconds: float = -math.inf) -> Outputs:
        """Outputs of the plain inputs; raises OutOfTime once less than `then_seconds` are left."""
        size = min(EVALUATION_BATCH, self.micro_batch)
        with self.pace.timed(Part.PREDICT, len(rows)):
            return self.together.predict(network, rows, size, lambda: self.pace.require(then_seconds))


def optimizer(network: nn.Module, task: TrainTask) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only. Each group has its `share` of the learning rate."""
    recipe = task.recipe
    slow = {id(p) for p in network.parts()[-1].parameters()} if isinstance(network, DetectorNetwork) else set[int]()
    groups = [
        {
            "params": [p for p in network.parameters() if p.requires_grad and (p.ndim > 1, id(p) in slow) == kind],
            "weight_decay": recipe.weight_decay if kind[0] else 0.0,
            "share": recipe.backbone_rate if kind[1] else 1.0,
        }
        for kind in product((True, False), repeat=2)
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
