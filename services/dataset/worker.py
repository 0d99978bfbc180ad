"""The two kinds of work that an ingest worker takes from the queue."""

import asyncio

from services.dataset.chunk import check_chunk
from services.dataset.domain import ADVANCE, CHECK
from services.dataset.ingest import advance, give_up
from services.dataset.settings import DatasetSettings
from services.dataset.work import Tools, parse_chunk
from services.kit import consume
from services.kit.jobs import handler


def jobs(tools: Tools, settings: DatasetSettings) -> list[consume.Job]:
    """What to do with each kind of job."""

    async def on_advance(name: str) -> None:
        await advance(tools, settings, name)

    async def on_chunk(name: str) -> None:
        await check_chunk(tools, settings, *parse_chunk(name))

    async def no_advance(name: str) -> None:
        await give_up(tools, name, "reading its annotation files, or writing its snapshot")

    async def no_chunk(name: str) -> None:
        dataset, number = parse_chunk(name)
        await give_up(tools, dataset, f"checking chunk {number} of its images")

    return [
        consume.Job(ADVANCE, handler(on_advance), handler(no_advance)),
        consume.Job(CHECK, handler(on_chunk), handler(no_chunk)),
    ]


async def run(tools: Tools, settings: DatasetSettings, concurrency: int, stop: asyncio.Event) -> None:
    """Works until the event is set, then finishes what is in hand or gives it back."""
    async with asyncio.TaskGroup() as group:
        for job in jobs(tools, settings):
            loop = consume.consume(
                tools.queue, job, clock=tools.clock, telemetry=tools.telemetry, stop=stop, concurrency=concurrency
            )
            group.create_task(loop, name=f"{job.kind} worker")
