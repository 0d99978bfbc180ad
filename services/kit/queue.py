"""The port to the job queue: at-least-once hints that work is due."""

import re
from datetime import timedelta
from typing import Protocol

from services.kit.tracing import Attributes, TraceContext

MAX_DELIVERIES = 5
DUPLICATE_WINDOW = timedelta(minutes=2)
_KIND = re.compile(r"[A-Za-z0-9_-]+")


class Delivery(Protocol):
    """One job delivered to one consumer, invisible to others until it is settled or its lease expires.

    Law: settling never raises; what the queue misses in an outage is delivered again when the lease expires.
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
        """How often this job has been delivered, including this time; more than MAX_DELIVERIES means poison."""
        ...

    @property
    def trace(self) -> TraceContext:
        """The span in which the job was published."""
        ...

    @property
    def age(self) -> timedelta:
        """How long ago it was published, by this machine's clock and the queue's."""
        ...

    async def ack(self) -> None:
        """The work is done and recorded: removes the job."""
        ...

    async def nak(self, delay: timedelta = timedelta(0)) -> None:
        """Not now: the job is delivered again after the delay."""
        ...

    async def extend(self) -> None:
        """Still working: renews the lease from now."""
        ...


class Queue(Protocol):
    """Jobs by kind.

    Law: a published job is delivered until it is acked; an unsettled one is delivered again, to any consumer, when its
    lease expires. The order is not guaranteed, and a job may be delivered twice at the same time: a late ack is not
    fenced, so a handler goes by the record, never by the delivery. Publishing with an id that was used for the same
    kind within two minutes does nothing. A job carries the current trace. A kind consists of letters, digits, `_` and
    `-` (ValueError). If the queue is unreachable, publish (which may have stored the job), depth and waiting raise
    Unavailable.
    """

    @property
    def ack_wait(self) -> timedelta:
        """The lease of a delivery."""
        ...

    async def publish(self, kind: str, body: bytes, dedup_id: str = "") -> None:
        """Returns once the job is stored."""
        ...

    async def fetch(self, kind: str, wait: timedelta) -> Delivery | None:
        """The next job of the kind, or None if none arrives in time. An outage counts as no job."""
        ...

    async def depth(self, kind: str) -> int:
        """How many jobs of the kind are waiting or in flight; what was just published or acked may not show yet."""
        ...

    async def waiting(self, kind: str) -> int:
        """How many fetches of the kind are waiting for a job, in all processes; the last ones may not show yet."""
        ...


def is_poison(delivery: Delivery) -> bool:
    """Whether the job has been delivered too often to be tried again."""
    return delivery.deliveries > MAX_DELIVERIES


def check_kind(kind: str) -> str:
    """The kind itself; ValueError if it is malformed."""
    if not _KIND.fullmatch(kind):
        raise ValueError(f"{kind!r} is not a kind of job: letters, digits, '_' and '-' only")
    return kind


def span_of(operation: str, kind: str) -> tuple[str, Attributes]:
    """Name and attributes of a span, as OpenTelemetry's conventions for messaging have them."""
    about = {"messaging.system": "nats", "messaging.destination.name": f"jobs.{kind}"}
    return f"{operation} jobs.{kind}", about | dict.fromkeys(
        ("messaging.operation.name", "messaging.operation.type"), operation
    )
