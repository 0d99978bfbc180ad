"""A predictor worker: the two kinds of jobs that it takes from the queue."""

import asyncio

from services.kit import consume
from services.kit.jobs import Job, job_handler, parse_chunk
from services.predictor.batch.advance import advance, give_up
from services.predictor.batch.chunk import predict_chunk
from services.predictor.batch.context import WorkerContext
from services.predictor.batch.domain import ADVANCE, COLLECTION, PREDICT


def job_handlers(context: WorkerContext) -> list[consume.Job]:
    """How to handle each kind of job."""

    async def on_advance(job: Job) -> None:
        await advance(context, job.name, job.uid)

    async def on_chunk(job: Job) -> None:
        await predict_chunk(context, *parse_chunk(job.name, COLLECTION), job.uid)

    async def on_poison_advance(job: Job) -> None:
        last = "listing its images, or writing its results"
        await give_up(context, job.name, last, uid=job.uid, write_results=False)

    async def on_poison_chunk(job: Job) -> None:
        batch, number = parse_chunk(job.name, COLLECTION)
        await give_up(context, batch, f"predicting chunk {number} of its images", uid=job.uid, write_results=True)

    return [
        consume.Job(ADVANCE, job_handler(on_advance), job_handler(on_poison_advance)),
        consume.Job(PREDICT, job_handler(on_chunk), job_handler(on_poison_chunk)),
    ]


async def run(context: WorkerContext, stop: asyncio.Event) -> None:
    """Works until the event is set, then gives the jobs in flight back.

    One chunk at a time: its images keep the processor busy, and its time is what is charged.
    """
    async with asyncio.TaskGroup() as group:
        for job in job_handlers(context):
            loop = consume.consume(context.queue, job, clock=context.clock, telemetry=context.telemetry, stop=stop)
            group.create_task(loop, name=f"{job.kind} worker")
