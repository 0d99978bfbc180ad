"""Jobs for trials and evaluations: hints on the queue, published again whenever work is due without a live lease."""

from services.kit import jobs
from services.kit.queue import Queue
from services.trainer.work import Work

KIND = "trainer"


def dedup_key(name: str, work: Work) -> str:
    """One key per reason why work is due: it was planned, its lease expired at that moment, or it was given back."""
    expires = work.lease.expires.isoformat() if work.lease.expires else "free"
    return f"{name}/{work.create_time.isoformat()}/{work.lease.epoch}/{expires}"


async def announce(queue: Queue, name: str, work: Work) -> None:
    """Publishes the job of work that is due; repeats for the same reason within two minutes are dropped."""
    await jobs.announce(queue, KIND, jobs.Job(name, work.attempt), dedup_key(name, work))
