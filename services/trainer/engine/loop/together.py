"""A fine-tuning by a group: what the leader orders. `follow` carries the orders out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from torch import nn

from services.trainer.engine.data import Images, Indices
from services.trainer.engine.group import Group
from services.trainer.engine.loop.numerics import Numerics
from services.trainer.engine.loop.task import Batch, BatchRequest, Outputs, VisionTask
from services.trainer.engine.session import Session
from services.vision.backbones import Network

PREDICTED_AT_ONCE = 8  # batches of each process between two checks of the time


@dataclass(frozen=True, slots=True)
class Begin:
    """Open the snapshot and load the network."""


@dataclass(frozen=True, slots=True)
class LookAt:
    """Decode your share of the rows; then the unreadable ones are gathered."""

    rows: Indices
    keep: Indices


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget the batches that were announced."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Your share of this batch will be needed next but a few."""

    request: BatchRequest


@dataclass(frozen=True, slots=True)
class Step:
    """Compute the gradients of your share of the next batch; or again of the last, in smaller micro-batches.

    First the weights are broadcast: all of the state if `whole`, otherwise what trains.
    """

    number: int
    micro_batch: int
    numerics: Numerics
    normalised: bool
    modes: tuple[bool, ...]  # of the network's modules: which are in training mode
    whole: bool
    again: bool


@dataclass(frozen=True, slots=True)
class Load:
    """Receive the state of a network that will predict."""

    normalised: bool


@dataclass(frozen=True, slots=True)
class Predict:
    """Outputs of your share of the rows; then they are gathered."""

    rows: Indices
    size: int


def look_at(
    session: Session, images: Images, look: Callable[[Indices, Indices], None], rows: Indices, keep: Indices
) -> None:
    """Has every process decode its share of the rows; afterwards the leader knows which are unreadable."""
    group = session.group
    if not group.leads:
        return  # it is ordered to
    group.order(LookAt(rows, keep))
    look(group.share(rows), keep)
    for unreadable in group.gather(None)[1:]:
        images.unreadable.update(unreadable)


class Together:
    """A training's group: the leader's side. Alone, it does what the vision task does."""

    def __init__(self, group: Group, vision_task: VisionTask) -> None:
        self._group = group
        self._task = vision_task
        self._has_state = False  # the followers have all of the network's; steps change a part of it
        self._announced = -1  # the last step that they computed

    def batches(self, requests: list[BatchRequest]) -> Iterator[Batch]:
        """The leader's share of each batch, in order; followers are told of each when its preparation begins."""
        if self._group.size == 1:
            return self._task.batches(requests)
        self._group.order(Discard())
        self._announced = -1

        def announced() -> Iterator[BatchRequest]:
            for request in requests:
                self._group.order(Prepare(request))
                yield request._replace(rows=self._group.share(request.rows))

        return self._task.batches(announced())

    def announce_step(self, network: nn.Module, number: int, micro_batch: int) -> None:
        """Orders a step and broadcasts the weights, if there are followers; the network is ready to train."""
        if self._group.size == 1:
            return
        whole, self._has_state = not self._has_state, True
        modes = tuple(module.training for module in network.modules())
        again, self._announced = self._announced == number, number
        self._group.order(Step(number, micro_batch, self._task.numerics, is_normalised(network), modes, whole, again))
        share_state(self._group, network, whole=whole)

    def predict(self, network: nn.Module, rows: Indices, size: int, before_each: Callable[[], None]) -> Outputs:
        """The network's outputs for the rows, each process predicting its share; `before_each` may raise."""
        group = self._group
        if group.size == 1 or not len(rows):
            return self._task.predict(network, rows, size, before_each)
        group.order(Load(is_normalised(network)))
        share_state(group, network, whole=True)
        self._has_state = False
        found: list[Outputs] = []
        at_once = PREDICTED_AT_ONCE * size * group.size
        for start in range(0, len(rows), at_once):
            before_each()
            piece = rows[start : start + at_once]
            group.order(Predict(piece, size))
            found += group.gather(self._task.predict(network, group.share(piece), size, _nothing))
        return joined(found)


def share_state(group: Group, network: nn.Module, *, whole: bool) -> None:
    """Makes the followers' network equal to the leader's: all of it, or what trains."""
    tensors = network.state_dict().values() if whole else [p for p in network.parameters() if p.requires_grad]
    group.broadcast(list(tensors))


def joined(parts: list[Outputs]) -> Outputs:
    """Outputs of consecutive rows, one after another."""
    names = dict.fromkeys(chain.from_iterable(parts))
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def is_normalised(network: nn.Module) -> bool:
    """Whether the head of a classifier's network reads features of unit length."""
    return isinstance(network, Network) and network.normalised


def _nothing() -> None:
    """Before a batch of a share: the leader checks the time between shares."""
