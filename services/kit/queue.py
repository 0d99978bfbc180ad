"""The port to the job queue: at-least-once hints that some work is due."""

import re
from datetime import timedelta
from typing import Protocol

MAX_DELIVERIES = 5
DUPLICATE_WINDOW = timedelta(minutes=2)
_KIND = re.compile(r"[A-Za-z0-9_-]+")


class Delivery(Protocol):
    """One job handed to one consumer, invisible to the others until it is settled or its lease runs out.

    Law: settling never raises; what the queue did not hear in an outage comes again when the lease runs out.
    """

    @property
    def kind(self) -> str:
        """The kind of job."""
        ...

    @property
    def body(self) -> bytes:
        """What was published."""
        ...

    @property
    def deliveries(self) -> int:
        """How often this job has been handed out, this time included; more than MAX_DELIVERIES means poison."""
        ...

    async def ack(self) -> None:
        """The work is done and recorded: the job is gone."""
        ...

    async def nak(self, delay: timedelta = timedelta(0)) -> None:
        """Not now: the job comes again after the delay."""
        ...

    async def extend(self) -> None:
        """Still at work: the lease runs anew from now."""
        ...


class Queue(Protocol):
    """Jobs by kind.

    Law: a published job is delivered until somebody acks it; an unsettled delivery comes again, to any consumer,
    when its lease runs out. Nothing is promised about order, and a job may be delivered twice at the same time: a
    late ack is not fenced, so a handler decides by the record, never by the delivery. Publishing with an id that
    was used for the same kind within two minutes does nothing. A kind is made of letters, digits, `_` and `-`
    (ValueError). An unreachable queue raises Unavailable from publish, which may have stored the job, and depth.
    """

    async def publish(self, kind: str, body: bytes, dedup_id: str = "") -> None:
        """Returns once the job is stored."""
        ...

    async def fetch(self, kind: str, wait: timedelta) -> Delivery | None:
        """The next job of the kind, or None if none came in time. An outage counts as none having come."""
        ...

    async def depth(self, kind: str) -> int:
        """How many jobs of the kind are waiting or in hand."""
        ...


def is_poison(delivery: Delivery) -> bool:
    """Whether the job has been handed out too often to be tried again."""
    return delivery.deliveries > MAX_DELIVERIES


def check_kind(kind: str) -> str:
    """The kind itself; ValueError unless it has the form that the law asks for."""
    if not _KIND.fullmatch(kind):
        raise ValueError(f"{kind!r} is not a kind of job: letters, digits, '_' and '-' only")
    return kind
