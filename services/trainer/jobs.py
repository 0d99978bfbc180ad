"""Job messages for trials and evaluations: hints on the queue, made again whenever work is due and nobody is at it."""

from dataclasses import dataclass

from services.kit import codec
from services.kit.errors import Unavailable
from services.kit.log import Log
from services.kit.queue import Queue
from services.trainer.work import Work

KIND = "trainer"

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What a message says: this resource has work due. `generation` is the number of its attempts so far."""

    name: str
    generation: int


def read(body: bytes) -> Job:
    """The job in a message; ValueError for anything else."""
    return codec.decode(body, Job)


def occasion(name: str, work: Work) -> str:
    """Why work is due, as a word: it was planned, its lease ran out at that moment, or it was given back."""
    expires = work.lease.expires.isoformat() if work.lease.expires else "free"
    return f"{name}/{work.create_time.isoformat()}/{work.lease.epoch}/{expires}"


async def announce(queue: Queue, name: str, work: Work) -> None:
    """Publishes the job of work that is due; repeats within two minutes for the same reason are one.

    An outage is no failure: the next reconciliation announces it again.
    """
    try:
        await queue.publish(KIND, codec.encode(Job(name, work.attempt)), occasion(name, work))
    except Unavailable as error:
        _log.warning("job_not_announced", name=name, problem=str(error))
