"""Jobs for trials and evaluations: hints in the queue that work is due, which may be repeated."""

from services.kit import jobs
from services.kit.queue import Queue
from services.trainer.work import Work

KIND = "trainer"


def dedup_key(name: str, work: Work) -> str:
    """One key per reason why work is due: it was planned, its lease expired at a certain time, or it was given back."""
    expires = work.lease.expires.isoformat() if work.lease.expires else "free"
    return f"{name}/{work.create_time.isoformat()}/{work.lease.epoch}/{expires}"


async def announce(queue: Queue, name: str, work: Work) -> bool:
    """Publishes a job for due work; the queue drops repeats with the same key within two minutes.

    Returns whether the queue has the job.
    """
    return await jobs.announce(
        queue, KIND, jobs.Job(name, work.attempt), dedup_key(name, work), work.origin.traceparent
    )
