"""Batches: which images share a forward pass, and which get none."""

import asyncio
import contextvars
from contextlib import closing

import numpy as np
import pytest

from services.kit import callers
from services.kit.callers import Caller
from services.kit.clock import ManualClock
from services.kit.errors import DeadlineExceeded, Draining
from services.kit.telemetry import MemoryTelemetry
from services.predictor import metrics
from services.predictor.batching import Batcher, Passes
from services.vision.inputs import Pixels
from tests.unit.predictor.support import FakeClassifier, number_image


class Case:
    """A batcher of at most four images and 100 pixels per pass, and two models."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.telemetry = MemoryTelemetry()
        self.batcher = Batcher(self.clock, self.telemetry, Passes(1, max_images=4, max_pixels=100))
        self.finished: list[float] = []
        self.one, self.other = FakeClassifier(), FakeClassifier()

    def ask(self, number: float, model: FakeClassifier | None = None, deadline: float | None = None, side: int = 1):
        answer = self._number(model or self.one, number_image(number, side), deadline)
        return asyncio.create_task(answer)

    def ask_as(self, caller: str, number: float, model: FakeClassifier):
        """Asks for another caller than the test; `finished` lists the numbers in the order of their answers."""

        def note(task: asyncio.Task[float]) -> None:
            self.finished.append(task.result())

        context = contextvars.copy_context()
        context.run(callers.current.set, Caller(caller, frozenset()))
        answer = self._number(model, number_image(number, 1), None)
        task = asyncio.get_running_loop().create_task(answer, context=context)
        task.add_done_callback(note)
        return task

    async def _number(self, model: FakeClassifier, image: Pixels, deadline: float | None) -> float:
        row = await self.batcher.predict(model, (image,), deadline)
        assert isinstance(row, np.ndarray)
        return float(row[0])

    async def busy(self):
        """Blocks the thread in a pass of one image until the gate is set."""
        self.one.gate.clear()
        first = self.ask(0)
        await asyncio.to_thread(self.one.entered.wait, 10)
        return first


async def test_the_images_waiting_when_the_thread_becomes_free_are_the_next_batch_and_each_gets_its_row():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        rest = [case.ask(number) for number in range(1, 7)]
        await asyncio.sleep(0)
        case.one.gate.set()
        numbers = await asyncio.gather(first, *rest)
    assert numbers == [0, 1, 2, 3, 4, 5, 6]
    assert case.one.batches == [1, 4, 2]
    assert case.telemetry.observed["sightline_predictor_batch_images", ()] == [1, 4, 2]


async def test_a_pass_of_several_images_has_no_more_pixels_than_the_caches_hold():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        rest = [case.ask(number, side=7) for number in range(1, 4)]  # 49 pixels each: two fit
        rest += [case.ask(number, side=11) for number in range(4, 6)]  # one alone is too large, and passes
        await asyncio.sleep(0)
        case.one.gate.set()
        assert await asyncio.gather(first, *rest) == [0, 1, 2, 3, 4, 5]
    assert case.one.batches == [1, 2, 1, 1, 1]


async def test_models_are_not_mixed_and_the_model_of_the_oldest_image_goes_first():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        answers = [case.ask(1, case.other), case.ask(2, case.one), case.ask(3, case.other)]
        await asyncio.sleep(0)
        case.one.gate.set()
        numbers = await asyncio.gather(first, *answers)
    assert numbers == [0, 1, 2, 3]
    assert (case.one.batches, case.other.batches) == ([1, 1], [2])


async def test_shapes_are_not_mixed_and_images_shaped_like_the_oldest_go_first():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        answers = [case.ask(number, side=side) for number, side in ((1, 3), (2, 2), (3, 3), (4, 2), (5, 3))]
        await asyncio.sleep(0)
        case.one.gate.set()
        numbers = await asyncio.gather(first, *answers)
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert case.one.batches == [1, 3, 2]


async def test_callers_take_turns_however_many_images_one_of_them_sends():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        many = [case.ask_as("many", number, case.other) for number in range(1, 10)]
        few = [case.ask_as("few", number, case.other) for number in (101, 102)]
        await asyncio.sleep(0)
        case.one.gate.set()
        await asyncio.gather(first, *many, *few)
    assert case.finished == [1, 101, 2, 102, *range(3, 10)]
    assert case.other.batches == [4, 4, 3]


async def test_a_caller_does_not_save_up_turns_while_others_use_theirs():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        early = [case.ask_as("early", number, case.other) for number in range(1, 9)]
        await asyncio.sleep(0)
        case.other.gate.clear()
        case.one.gate.set()
        await asyncio.to_thread(case.other.entered.wait, 10)
        late = [case.ask_as("late", number, case.other) for number in range(101, 105)]
        await asyncio.sleep(0)
        case.other.gate.set()
        await asyncio.gather(first, *early, *late)
    assert case.finished == [1, 2, 3, 4, 101, 102, 103, 5, 104, 6, 7, 8]


async def test_an_image_whose_deadline_passed_costs_no_forward_pass():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        late, in_time = case.ask(1, deadline=5), case.ask(2, deadline=50)
        await asyncio.sleep(0)
        case.clock.advance(10)
        case.one.gate.set()
        await first
        with pytest.raises(DeadlineExceeded):
            await late
        await in_time
    assert case.one.batches == [1, 1]
    assert case.telemetry.value(metrics.DROPPED, reason="late") == 1


async def test_what_an_image_would_take_is_expected_from_recent_passes_and_the_callers_turn():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        case.clock.advance(8)  # of which the first pass takes all
        case.one.gate.set()
        await first
        assert case.batcher.expected_seconds() == 0, "nothing waits"
        case.one.gate.clear()
        case.one.entered.clear()
        second = await case.busy()
        waiting = [*(case.ask(number) for number in (1, 2, 3)), case.ask(4, case.other)]
        await asyncio.sleep(0)
        assert case.batcher.expected_seconds() == 3 * 8

        def of_another() -> float:
            callers.current.set(Caller("another", frozenset()))
            return case.batcher.expected_seconds()

        assert contextvars.copy_context().run(of_another) == 8, "turns are taken, so only one is before it"
        with case.batcher.coming(case.one), case.batcher.coming(case.other):
            assert case.batcher.expected_seconds() == 4 * 8, "nobody knows how long the other model takes"
            assert contextvars.copy_context().run(of_another) == 8
        case.one.gate.set()
        await asyncio.gather(second, *waiting)


async def test_an_image_whose_caller_is_gone_costs_no_forward_pass():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        gone = case.ask(1)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        case.one.gate.set()
        await first
        await case.ask(2)
    assert case.one.batches == [1, 1]


async def test_a_failing_pass_fails_only_its_own_batch():
    case = Case()
    with closing(case.batcher):
        case.one.error = RuntimeError("shapes differ")
        with pytest.raises(RuntimeError, match="shapes differ"):
            await case.ask(1)
        case.one.error = None
        assert await case.ask(2) == 2


async def test_the_next_batch_does_not_wait_for_the_event_loop():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        second = case.ask(1, case.other)
        await asyncio.sleep(0)
        case.one.gate.set()
        assert case.other.entered.wait(10), "this blocks the event loop"
        assert await asyncio.gather(first, second) == [0, 1]


async def test_a_call_goes_before_the_images_that_wait():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        second = case.ask(1, case.other)
        await asyncio.sleep(0)
        call = asyncio.create_task(case.batcher.call(lambda: list(case.other.batches)))
        await asyncio.sleep(0)
        case.one.gate.set()
        assert await call == []
        await asyncio.gather(first, second)
    assert case.other.batches == [1]


async def test_a_call_that_fails_raises_at_its_caller_and_one_whose_caller_is_gone_does_not_run():
    case = Case()
    calls: list[int] = []
    with closing(case.batcher):
        first = await case.busy()
        gone = asyncio.create_task(case.batcher.call(lambda: calls.append(1)))
        failing = asyncio.create_task(case.batcher.call(lambda: 1 // 0))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        case.one.gate.set()
        with pytest.raises(ZeroDivisionError):
            await failing
        await first
    assert not calls


async def test_shutdown_answers_every_waiting_caller():
    case = Case()
    with closing(case.batcher):
        first = await case.busy()
        waiting = case.ask(1)
        await asyncio.sleep(0)
        case.batcher.close()
        for answer in (first, waiting):
            with pytest.raises(Draining):
                await answer
        case.one.gate.set()
