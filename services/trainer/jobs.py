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


async def announce(queue: Queue, name: str, work: Work) -> None:
    """Publishes the job of work that is due, at most once in two minutes for each of its attempts.

    An outage is no failure: the next reconciliation announces it again.
    """
    job = Job(name, work.attempt)
    try:
        await queue.publish(KIND, codec.encode(job), f"{name}:{work.create_time.timestamp()}:{work.lease.epoch}")
    except Unavailable as error:
        _log.warning("job_not_announced", name=name, problem=str(error))
