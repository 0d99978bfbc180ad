"""Jobs on the queue: what they contain, how work is announced, and how a worker reads them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.kit import codec, tracing
from services.kit.consume import Handler
from services.kit.errors import InvalidName, Unavailable
from services.kit.log import Log
from services.kit.names import parent, parse
from services.kit.queue import Queue
from services.kit.records import check_record_key

CHUNKS = "chunks"

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A hint that the named resource may have work due; `generation` tells hints apart when inspecting the queue."""

    name: str
    generation: int = 0
    uid: str = ""  # which resource of the name is meant, for jobs that clean up after it


def chunk_name(name: str, number: int) -> str:
    """What the job of a chunk of the named resource is called."""
    return f"{name}/{CHUNKS}/{number}"


def parse_chunk(name: str, collection: str) -> tuple[str, int]:
    """The name of the resource, one of the collection, and the number of its chunk; InvalidName for any other name."""
    _, number = parse(name, collection, CHUNKS)
    if not number.isdecimal():
        raise InvalidName(field="name", value=name, expected="a chunk number at the end")
    return parent(name), int(number)


async def publish(queue: Queue, kind: str, job: Job, dedup_id: str = "", traceparent: str = "") -> None:
    """Announces work; Unavailable.

    `traceparent` is of the call that asked for it, from its record, for whoever announces it later than that.
    """
    with tracing.within(tracing.current() or tracing.TraceContext(traceparent)):
        await queue.publish(kind, codec.encode(job), dedup_id)


async def announce(queue: Queue, kind: str, job: Job, dedup_id: str = "", traceparent: str = "") -> bool:
    """Announces work that is already on record, so an outage is no failure: a reconciler announces it again.

    Returns whether the queue has the job.
    """
    try:
        await publish(queue, kind, job, dedup_id, traceparent)
    except Unavailable as error:
        _log.warning("job_not_announced", name=job.name, problem=error.message)
        return False
    return True


def handler(work: Callable[[str], Awaitable[object]]) -> Handler:
    """Does the work for the name in a job. A job that cannot be read is dropped: retrying would not help."""
    return job_handler(lambda job: work(job.name))


def job_handler(work: Callable[[Job], Awaitable[object]]) -> Handler:
    """The same for work that needs more than the name."""

    async def handle(body: bytes) -> None:
        try:
            job = codec.decode(body, Job)
            check_record_key(job.name)
        except ValueError as error:
            _log.error("job_unreadable", error)
            return
        try:
            await work(job)
        except InvalidName as error:
            _log.error("job_unreadable", error)

    return handle
