"""What a follower does: it carries out the leader's orders, on its share, until there are no more."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from services.kit.errors import SightlineError
from services.trainer.engine.classification.features import Extract, Extractor
from services.trainer.engine.data import open_images
from services.trainer.engine.group import Processes
from services.trainer.engine.loop.step import follow_step
from services.trainer.engine.loop.task import Batch, BatchRequest, Truths
from services.trainer.engine.loop.together import Begin, Discard, Load, LookAt, Predict, Prepare, Step, share_state
from services.trainer.engine.loop.training import Training
from services.trainer.engine.pretrained import load_backbones
from services.trainer.engine.run import STARTS, with_share_of_threads
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import Message, Task, TrainTask
from services.vision.backbones import Network


def follow(task: Task, group: Processes) -> None:
    """Returns once the leader has closed; an evaluation leaves nothing to do.

    An error that the leader meets too, such as an unsuitable dataset, is the leader's to report.
    """
    task = with_share_of_threads(task, group)
    torch.set_num_threads(task.threads)
    follower = Follower(task, group) if isinstance(task, TrainTask) else None
    fault: SightlineError | None = None
    while (order := group.next_order()) is not None:
        if fault is not None:
            raise fault  # the leader went on
        assert follower is not None, "only trainings give orders"
        try:
            follower.carry_out(order)
        except SightlineError as error:
            fault = error


@dataclass
class Follower:
    """Loads what an order needs when it first comes."""

    task: TrainTask
    group: Processes
    _announced: deque[BatchRequest] = field(default_factory=deque[BatchRequest])
    _batches: Iterator[Batch] | None = None
    _shares: deque[bool] = field(default_factory=deque[bool])  # of the batches to come: whether there is one
    _batch: tuple[Tensor | None, Truths] = (None, ())
    _extractor: Extractor | None = None

    @cached_property
    def session(self) -> Session:
        """Without a worker, and without a limit of time: both are the leader's."""
        return Session(Meter(timedelta.max), _unsaid, None, self.group)

    @cached_property
    def training(self) -> Training:
        """The leader's, without a head on frozen features and without its checkpoint: its weights will come."""
        recipe = msgspec.structs.replace(self.task.recipe, linear_head=False)
        task = msgspec.structs.replace(self.task, recipe=recipe, checkpoint_path=None)
        return Training.begin(task, self.session, STARTS[recipe.kind](task, self.session))

    def extractor(self, networks: tuple[str, ...]) -> Extractor:
        """The leader's, which reads the same images with the same networks."""
        if self._extractor is None:
            images = open_images(Path(self.task.directory), self.task.dataset)
            recipe = msgspec.structs.replace(self.task.recipe, backbones=networks, choose=False)
            backbones = load_backbones(msgspec.structs.replace(self.task, recipe=recipe), images)
            for backbone in backbones:
                backbone.network.to(self.task.device).eval()
            self._extractor = Extractor(self.task, self.session, images, backbones, recipe.views)
        return self._extractor

    def carry_out(self, order: object) -> None:
        """One order; makes the same calls of the group as the leader."""
        match order:
            case Extract(which, rows, networks):
                self.group.gather(self.extractor(networks).share(which, rows))
            case Begin():
                _ = self.training
            case LookAt(rows, keep):
                self.training.vision_task.look_at(self.group.share(rows), keep)
                self.group.gather(self.training.images.unreadable)
            case Discard():
                self._announced.clear()
                self._shares.clear()
                self._batches = self.training.vision_task.batches(self._requests())
            case Prepare(request):
                rows = self.group.share(request.rows)
                self._shares.append(len(rows) > 0)
                if len(rows):
                    self._announced.append(request._replace(rows=rows))
            case Step():
                self._step(order)
            case Load(normalised):
                _set_normalised(self.training.state.average, normalised)
                share_state(self.group, self.training.state.average, whole=True)
            case Predict(rows, size):
                share, average = self.group.share(rows), self.training.state.average
                self.group.gather(self.training.vision_task.predict(average, share, size, _nothing))
            case _:
                raise TypeError(f"{type(order).__name__} is no order")

    def _step(self, order: Step) -> None:
        training, network = self.training, self.training.state.network
        training.vision_task.numerics = order.numerics
        _set_normalised(network, order.normalised)
        for module, mode in zip(network.modules(), order.modes, strict=True):
            module.training = mode
        share_state(self.group, network, whole=order.whole)
        if not order.again:
            assert self._batches is not None, "batches are announced before steps"
            self._batch = next(self._batches) if self._shares.popleft() else (None, ())
        follow_step(training, order, *self._batch)

    def _requests(self) -> Iterator[BatchRequest]:
        """What has been announced; the leader announces as far ahead as this asks."""
        while self._announced:
            yield self._announced.popleft()


def _set_normalised(network: nn.Module, normalised: bool) -> None:
    if isinstance(network, Network):
        network.normalised = normalised


def _unsaid(_: Message) -> None:
    """A follower says nothing."""


def _nothing() -> None:
    """The leader checks the time."""
