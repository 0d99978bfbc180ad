"""Answers a stream of items side by side, each as soon as it is done, and reads no faster than answers are taken."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
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
    has one of `places`, which other streams share, while it is answered, and none before it has come or while its
    answer waits to be taken. What reading or answering raises ends the stream. Closing it cancels what is unfinished.
    """
    own = asyncio.Semaphore(most)
    done: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    pending = set[asyncio.Task[R]]()

    async def read() -> None:
        while True:
            await own.acquire()
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
            await places.acquire()
            task = asyncio.create_task(answer(item))
            task.add_done_callback(lambda _: places.release())
            pending.add(task)
            if in_order:
                done.put_nowait(task)
            else:
                task.add_done_callback(done.put_nowait)

    reader = asyncio.create_task(read())
    reader.add_done_callback(done.put_nowait)
    reading = True
    try:
        while reading or pending:
            task = await done.get()
            if task is reader:
                reader.result()
                reading = False
                continue
            yield await task
            pending.remove(task)
            own.release()
    finally:
        for task in (reader, *pending):
            task.cancel()
        await asyncio.gather(reader, *pending, return_exceptions=True)
