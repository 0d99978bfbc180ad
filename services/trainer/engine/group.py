"""The processes that compute one task together, each with its own GPU: one leads, the others follow its orders.

The leader alone talks to the worker, decides, keeps optimizer, average and checkpoints. A follower holds a copy of the
network, does its share of what is ordered, and keeps nothing. So the number of processes changes nothing but the speed,
and may differ from attempt to attempt.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from services.trainer.engine.data import Indices
from services.trainer.messages import Task

PATIENCE = timedelta(days=365)  # a dead process ends the group, and a hanging one is noticed by the worker
_TASK = "task"


class GroupBroken(Exception):
    """Another process of the group has died; torchrun is about to end this one too."""


class Group:
    """One process: does everything itself."""

    size = 1
    leads = True
    rank = 0

    def meet(self) -> None:
        """Returns once this process, or for the leader every process, is ready for a task."""

    def agree_on(self, task: Task | None) -> Task | None:
        """Gives the leader's task to every follower, which waits for it; None if there is none."""
        return task

    def share(self, rows: Indices) -> Indices:
        """This process's part of some rows; the parts of all processes in order are the rows."""
        return rows

    def order(self, order: object) -> None:
        """Leader: has every follower do something; both sides must then make the same calls below."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites the followers' tensors with the leader's."""

    def total(self, tensor: Tensor) -> None:
        """Replaces everybody's tensor by the sum of all."""

    def add_up(self, tensor: Tensor) -> None:
        """Adds the followers' tensors to the leader's; theirs are undefined afterwards."""

    def gather(self, values: Any) -> list[Any]:
        """Leader: everybody's values, in the order of shares. Follower: nothing."""
        return [values]

    def close(self) -> None:
        """Leader: lets the followers end."""


ALONE = Group()


class Processes(Group):
    """Several processes of one machine, started by torchrun."""

    def __init__(self) -> None:
        """Raises RuntimeError or TimeoutError if the others cannot be reached."""
        self._store, self.rank, self.size = next(rendezvous("env://"))
        self.leads = self.rank == 0

    def meet(self) -> None:
        """By the store that torchrun runs."""
        self._store.set(f"ready/{self.rank}", "")
        if self.leads:
            self._store.wait([f"ready/{rank}" for rank in range(self.size)], PATIENCE)

    def agree_on(self, task: Task | None) -> Task | None:
        """Connects all processes for the leader's task."""
        if self.leads:
            self._store.set(_TASK, msgspec.json.encode(task).decode())
        else:
            self._store.wait([_TASK], PATIENCE)
        agreed = msgspec.json.decode(self._store.get(_TASK), type=Task | None)
        if agreed is not None:
            self._connect()
        return agreed

    def _connect(self) -> None:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _connected():
            dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size, timeout=PATIENCE)

    def share(self, rows: Indices) -> Indices:
        """The parts differ by one row at most."""
        start, stop = (len(rows) * rank // self.size for rank in (self.rank, self.rank + 1))
        return rows[start:stop]

    def order(self, order: object) -> None:
        """Every follower gets it as its `next_order`."""
        with _connected():
            dist.broadcast_object_list([order], src=0, device=torch.device("cpu"))

    def next_order(self) -> object:
        """Follower: what to do next; None once the leader has closed."""
        order: list[object] = [None]
        with _connected():
            dist.broadcast_object_list(order, src=0, device=torch.device("cpu"))
        return order[0]

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """As one tensor per type, because many small ones take longer."""
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor.detach())
        for some in by_type.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in some])
            with _connected():
                dist.broadcast(flat, src=0)
            if not self.leads:
                for tensor, part in zip(some, flat.split([tensor.numel() for tensor in some]), strict=True):
                    tensor.copy_(part.view(tensor.shape))

    def total(self, tensor: Tensor) -> None:
        """By reduction to all."""
        with _connected():
            dist.all_reduce(tensor)

    def add_up(self, tensor: Tensor) -> None:
        """By reduction to the leader."""
        with _connected():
            dist.reduce(tensor, dst=0)

    def gather(self, values: Any) -> list[Any]:
        """By pickle, which is safe among processes of the same program."""
        everything: list[Any] | None = [None] * self.size if self.leads else None
        with _connected():
            dist.gather_object(values, everything, dst=0)
        return everything or []

    def close(self) -> None:
        """Followers' `next_order` is None."""
        if self.leads:
            self.order(None)
        dist.destroy_process_group()


@contextmanager
def _connected() -> Generator[None]:
    """Raises GroupBroken for what torch raises when a connection ends."""
    try:
        yield
    except RuntimeError as error:
        raise GroupBroken(str(error).strip().splitlines()[0]) from error
