"""A dataset worker: the two kinds of jobs that it takes from the queue."""

import asyncio

from services.dataset.chunk import check_chunk
from services.dataset.context import WorkerContext
from services.dataset.domain import ADVANCE, CHECK, COLLECTION
from services.dataset.ingest import advance, give_up
from services.dataset.settings import DatasetSettings
from services.kit import consume
from services.kit.jobs import handler, parse_chunk


def job_handlers(context: WorkerContext, settings: DatasetSettings) -> list[consume.Job]:
    """How to handle each kind of job."""

    async def on_advance(name: str) -> None:
        await advance(context, settings, name)

    async def on_chunk(name: str) -> None:
        await check_chunk(context, settings, *parse_chunk(name, COLLECTION))

    async def on_poison_advance(name: str) -> None:
        await give_up(context, name, "reading its annotation files, or writing its snapshot")

    async def on_poison_chunk(name: str) -> None:
        dataset, number = parse_chunk(name, COLLECTION)
        await give_up(context, dataset, f"checking chunk {number} of its images")

    return [
        consume.Job(ADVANCE, handler(on_advance), handler(on_poison_advance)),
        consume.Job(CHECK, handler(on_chunk), handler(on_poison_chunk)),
    ]


async def run(context: WorkerContext, settings: DatasetSettings, concurrency: int, stop: asyncio.Event) -> None:
    """Works until the event is set, then finishes the jobs in flight or gives them back."""
    async with asyncio.TaskGroup() as group:
        for job in job_handlers(context, settings):
            loop = consume.consume(
                context.queue, job, clock=context.clock, telemetry=context.telemetry, stop=stop, concurrency=concurrency
            )
            group.create_task(loop, name=f"{job.kind} worker")
