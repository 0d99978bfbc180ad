"""A stream's items are answered side by side, in any order, and no faster than the answers are taken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from services.kit.answering import answered


class Source:
    """Items that count how many of them were read, and an answer for each that comes when it is released."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0
        self.answers = [asyncio.get_running_loop().create_future() for _ in range(count)]
        self.begun: list[int] = []
        self.cancelled: list[int] = []

    async def items(self) -> AsyncIterator[int]:
        for item in range(self.count):
            self.read += 1
            yield item

    async def answer(self, item: int) -> int:
        self.begun.append(item)
        try:
            return await self.answers[item]
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise

    def release(self, *items: int) -> None:
        for item in items:
            self.answers[item].set_result(10 * item)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_answers_come_in_the_order_of_completion():
    source = Source(3)
    async with aclosing(answered(source.items(), source.answer, most=3, places=asyncio.Semaphore(3))) as answers:
        first = asyncio.ensure_future(anext(answers))
        await settle()
        source.release(2)
        assert await first == 20
        source.release(0, 1)
        assert {await anext(answers), await anext(answers)} == {0, 10}
        with pytest.raises(StopAsyncIteration):
            await anext(answers)


async def test_answers_come_in_the_order_of_the_items_on_request():
    source, places = Source(3), asyncio.Semaphore(3)
    stream = answered(source.items(), source.answer, most=3, places=places, in_order=True)
    async with aclosing(stream) as answers:
        source.release(2, 1)
        first = asyncio.ensure_future(anext(answers))
        await settle()
        assert not first.done()
        source.release(0)
        assert [await first, *[answer async for answer in answers]] == [0, 10, 20]
    assert not places.locked()


async def test_an_error_ends_an_ordered_stream_once_its_turn_has_come():
    source = Source(3)
    stream = answered(source.items(), source.answer, most=3, places=asyncio.Semaphore(3), in_order=True)
    async with aclosing(stream) as answers:
        first = asyncio.ensure_future(anext(answers))
        await settle()
        source.answers[1].set_exception(ValueError("second"))
        source.release(0)
        assert await first == 0
        with pytest.raises(ValueError, match="second"):
            await anext(answers)
    assert source.cancelled == [2]


async def test_nothing_is_read_while_as_many_answers_as_allowed_have_not_been_taken():
    source, places = Source(6), asyncio.Semaphore(10)
    source.release(*range(6))
    async with aclosing(answered(source.items(), source.answer, most=2, places=places)) as answers:
        assert await anext(answers) == 0
        await settle()
        assert source.read == 2, "the first answer is only given back with the next one"
        assert await anext(answers) == 10
        await settle()
        assert source.read == 3
        assert [one async for one in answers] == [20, 30, 40, 50]
    assert places._value == 10


async def test_streams_share_places_and_one_that_waits_for_its_caller_has_none():
    places = asyncio.Semaphore(1)

    async def never() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 0

    idle, busy = Source(0), Source(2)
    async with (
        aclosing(answered(never(), idle.answer, most=1, places=places)) as waiting,
        aclosing(answered(busy.items(), busy.answer, most=2, places=places)) as answers,
    ):
        unanswered = asyncio.ensure_future(anext(waiting))
        first = asyncio.ensure_future(anext(answers))
        await settle()
        assert busy.begun == [0]
        busy.release(0, 1)
        assert await first == 0
        assert await anext(answers) == 10
        unanswered.cancel()
        await asyncio.gather(unanswered, return_exceptions=True)


async def test_answers_that_nobody_takes_hold_no_places():
    places, left, busy = asyncio.Semaphore(2), Source(3), Source(2)
    left.release(0, 1, 2)
    busy.release(0, 1)
    async with aclosing(answered(left.items(), left.answer, most=3, places=places, in_order=True)) as untaken:
        assert await anext(untaken) == 0
        await settle()
        async with aclosing(answered(busy.items(), busy.answer, most=2, places=places)) as answers:
            first = asyncio.ensure_future(anext(answers))
            await settle()
            assert first.done()
            assert await anext(answers) == 10
        assert places._value == 2


async def test_closing_cancels_what_is_unfinished_and_frees_its_places():
    source, places = Source(4), asyncio.Semaphore(4)
    async with aclosing(answered(source.items(), source.answer, most=3, places=places)) as answers:
        first = asyncio.ensure_future(anext(answers))
        await settle()
        source.release(1)
        assert await first == 10
    assert sorted(source.cancelled) == [0, 2]
    assert places._value == 4


async def test_an_error_in_reading_or_answering_ends_the_stream():
    async def broken() -> AsyncIterator[int]:
        yield 0
        raise ConnectionError("the caller is gone")

    source = Source(1)
    async with aclosing(answered(broken(), source.answer, most=2, places=asyncio.Semaphore(2))) as answers:
        with pytest.raises(ConnectionError):
            await anext(answers)
    assert source.cancelled == [0]
    source = Source(2)
    async with aclosing(answered(source.items(), source.answer, most=2, places=asyncio.Semaphore(2))) as answers:
        first = asyncio.ensure_future(anext(answers))
        await settle()
        source.answers[1].set_exception(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await first
