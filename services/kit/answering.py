"""Answers a stream of items side by side, each as soon as it is done, and reads no faster than answers are taken."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def answered(
    items: AsyncIterator[T],
    answer: Callable[[T], Coroutine[Any, Any, R]],
    *,
    most: int,
    places: asyncio.Semaphore,
    in_order: bool = False,
) -> AsyncGenerator[R]:
    """The answers in the order of completion, or with `in_order` in that of the items.

    Law: at most `most` items have been read whose answers have not been taken, and no item is read beyond that. Each
    begins once it has one of `places`, which other streams share, and keeps it until its answer is taken; an item that
    has not come takes none. What reading or answering raises ends the stream. Closing it cancels what is unfinished.
    """
    own = asyncio.Semaphore(most)
    done: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    held: dict[asyncio.Task[R], AsyncExitStack] = {}

    async def read() -> None:
        while True:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(own)
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                await stack.enter_async_context(places)
                task = asyncio.create_task(answer(item))
                held[task] = stack.pop_all()
                if in_order:
                    done.put_nowait(task)
                else:
                    task.add_done_callback(done.put_nowait)

    reader = asyncio.create_task(read())
    reader.add_done_callback(done.put_nowait)
    reading = True
    try:
        while reading or held:
            task = await done.get()
            if task is reader:
                reader.result()
                reading = False
                continue
            yield await task
            await held.pop(task).aclose()
    finally:
        for task in (reader, *held):
            task.cancel()
        await asyncio.gather(reader, *held, return_exceptions=True)
        for stack in held.values():
            await stack.aclose()
