"""Runs forward passes in a few threads: whatever waits for the same model when one becomes free is the next batch.

There is no timer. Under load a batch fills while the previous one runs; without load a timer would only add latency.
"""

import asyncio
from bisect import bisect_right, insort_right
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar
from weakref import WeakKeyDictionary

from services.kit import callers, tracing
from services.kit.clock import Clock
from services.kit.errors import DeadlineExceeded, Draining
from services.kit.telemetry import Telemetry
from services.kit.tracing import TraceContext
from services.predictor import metrics
from services.predictor.domain import ModelRunner, Prepared, RawOutput, Shape, input_shape
from services.predictor.metrics import DropReason, Stage

T = TypeVar("T")

PACE_WEIGHT = 0.1  # of the latest pass in the average


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    runner: ModelRunner
    image: Prepared
    shape: Shape
    deadline: float | None  # monotonic
    since: float  # monotonic
    turn: int
    answer: "asyncio.Future[RawOutput]"
    step: TraceContext

    def joins(self, other: "_Waiting") -> bool:
        """Whether one forward pass can answer both."""
        return self.runner is other.runner and self.shape == other.shape


@dataclass(frozen=True, slots=True)
class _Pass:
    """A forward pass that has ended."""

    batch: list[_Waiting]
    start: float  # monotonic
    seconds: float
    outputs: list[RawOutput] | Exception


@dataclass(frozen=True, slots=True)
class Passes:
    """The forward passes that a device can take."""

    at_once: int = 1
    max_images: int = 16
    max_pixels: int | None = None  # of several images in one; a CPU is slower with more than its caches hold

    def hold(self, count: int, shape: Shape) -> bool:
        """Whether one pass may have so many images of this shape."""
        pixels = count * sum(height * width for height, width, *_ in shape)
        return count <= self.max_images and (count == 1 or self.max_pixels is None or pixels <= self.max_pixels)


class Batcher:
    """The threads that run networks, and the queue of images for them.

    Law: an image whose caller is gone, or whose deadline has passed, costs no forward pass. Callers take turns, one
    image each, so that nobody waits for all the images that another has sent. The model of the image whose turn it is
    goes next, so no model starves another. All inputs of a batch have the same shape (a detector's often differ):
    several shapes would need several passes, and the first results would wait for the last. A thread that becomes free
    takes the next batch by itself: a core is not idle until the event loop has time. The queue is bounded by how many
    requests the caller admits.
    """

    def __init__(self, clock: Clock, telemetry: Telemetry, passes: Passes) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._passes = passes
        self._lock = Lock()  # of the queue, which the event loop fills and the threads empty
        self._waiting: list[_Waiting] = []  # by turn
        self._turns: dict[str, int] = {}  # of each waiting caller's last image
        self._turn = 0  # of the last image that was taken
        self._calls: deque[Callable[[], None]] = deque()
        self._coming: list[tuple[str, ModelRunner]] = []  # images that are not in the queue yet, by caller
        self._unanswered: set[asyncio.Future[RawOutput]] = set()
        self._paces = WeakKeyDictionary[ModelRunner, float]()  # seconds of a pass for each image in it, recently
        self._threads = ThreadPoolExecutor(passes.at_once, thread_name_prefix="forward")
        telemetry.set(metrics.QUEUE_LENGTH, 0)

    async def predict(self, runner: ModelRunner, image: Prepared, deadline: float | None) -> RawOutput:
        """The model's output for one prepared image; DeadlineExceeded if its turn comes too late."""
        answer: asyncio.Future[RawOutput] = asyncio.get_running_loop().create_future()
        self._unanswered.add(answer)
        answer.add_done_callback(self._unanswered.discard)
        now = self._clock.monotonic()
        with self._lock:
            waiting = _Waiting(
                runner, image, input_shape(image), deadline, now, self._next_turn(), answer, tracing.step()
            )
            insort_right(self._waiting, waiting, key=_turn_of)
            self._telemetry.set(metrics.QUEUE_LENGTH, len(self._waiting))
        self._threads.submit(self._work)
        return await answer

    @contextmanager
    def coming(self, runner: ModelRunner) -> Generator[None]:
        """Within the block, an image of the current caller is made ready for the queue."""
        image = _caller(), runner
        self._coming.append(image)
        try:
            yield
        finally:
            self._coming.remove(image)

    def expected_seconds(self) -> float:
        """How long an image of the current caller would wait for those before it, going by recent passes.

        Of those that are not in the queue yet, its own are before it; with others' it would take turns.
        """
        caller = _caller()
        with self._lock:
            ahead = self._waiting[: bisect_right(self._waiting, self._turn_after(caller), key=_turn_of)]
        runners = [image.runner for image in ahead] + [runner for name, runner in self._coming if name == caller]
        return sum(self._paces.get(runner, 0.0) for runner in runners) / self._passes.at_once

    async def call(self, work: Callable[[], T]) -> T:
        """Runs other work with a network, such as its warm-up, in one of the threads, before the images that wait."""
        called = Future[T]()
        with self._lock:
            self._calls.append(lambda: _settle(called, work))
        self._threads.submit(self._work)
        return await asyncio.wrap_future(called)

    def close(self) -> None:
        """Ends the threads after what they run now; whoever has no answer yet gets Draining."""
        with self._lock:
            self._waiting.clear()
        for answer in self._unanswered.copy():
            _fail(answer, Draining(service="predictor"))
        self._threads.shutdown(wait=False)

    def _next_turn(self) -> int:
        caller = _caller()
        turn = self._turns[caller] = self._turn_after(caller)
        return turn

    def _turn_after(self, caller: str) -> int:
        """After the caller's previous image, and after those that have been taken."""
        return max(self._turns.get(caller, 0), self._turn) + 1

    def _work(self) -> None:
        """One call or one batch, in a thread. There is one of these for each image; a batch leaves some idle."""
        with self._lock:
            call = self._calls.popleft() if self._calls else None
            batch = [] if call else self._next_batch()
        if call:
            call()
        elif batch:
            done = self._run(batch)
            batch[0].answer.get_loop().call_soon_threadsafe(self._answer, done)

    def _next_batch(self) -> list[_Waiting]:
        """Takes the image whose turn it is and those that can join it; drops images that are too late."""
        batch: list[_Waiting] = []
        others: list[_Waiting] = []
        now = self._clock.monotonic()
        for image in self._waiting:
            if image.answer.done() or (image.deadline is not None and image.deadline <= now):
                image.answer.get_loop().call_soon_threadsafe(self._drop, image)
            elif not batch or (image.joins(batch[0]) and self._passes.hold(len(batch) + 1, image.shape)):
                batch.append(image)
            else:
                others.append(image)
        self._waiting = others
        if batch:
            self._turn = batch[0].turn
        if not others:
            self._turns.clear()
        self._telemetry.set(metrics.QUEUE_LENGTH, len(others))
        return batch

    def _run(self, batch: list[_Waiting]) -> _Pass:
        start = self._clock.monotonic()
        try:
            outputs = list(batch[0].runner.predict_prepared([image.image for image in batch]))
        except Exception as error:  # noqa: BLE001 - the batch's callers get it, and the next batch may succeed
            outputs = error
        return _Pass(batch, start, self._clock.monotonic() - start, outputs)

    def _answer(self, done: _Pass) -> None:
        """Gives the callers of a batch their answers, in the event loop."""
        for image in done.batch:
            self._telemetry.observe(metrics.STAGE_SECONDS, done.start - image.since, stage=Stage.QUEUE)
            if image.step:
                self._trace(image, done)
        if isinstance(done.outputs, Exception):
            for image in done.batch:
                _fail(image.answer, done.outputs)
            return
        runner, pace = done.batch[0].runner, done.seconds / len(done.batch)
        self._paces[runner] = pace + (1 - PACE_WEIGHT) * (self._paces.get(runner, pace) - pace)
        self._telemetry.observe(metrics.STAGE_SECONDS, done.seconds, stage=Stage.FORWARD)
        self._telemetry.observe(metrics.BATCH_SIZE, len(done.batch))
        for image, output in zip(done.batch, done.outputs, strict=True):
            if not image.answer.done():
                image.answer.set_result(output)

    def _trace(self, image: _Waiting, done: _Pass) -> None:
        ago, batch = max(0.0, self._clock.monotonic() - done.start), {"sightline.batch.size": len(done.batch)}
        self._telemetry.tracer.add_span("queue wait", done.start - image.since, ago=ago, parent=image.step)
        self._telemetry.tracer.add_span("forward", done.seconds, batch, ago=ago - done.seconds, parent=image.step)

    def _drop(self, image: _Waiting) -> None:
        self._telemetry.add(metrics.DROPPED, reason=DropReason.LATE)
        _fail(image.answer, DeadlineExceeded(what="The prediction"))


def _fail(answer: "asyncio.Future[RawOutput]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _settle(called: Future[T], work: Callable[[], T]) -> None:
    """Runs the work for whoever called, unless it is gone."""
    if not called.set_running_or_notify_cancel():
        return
    try:
        called.set_result(work())
    except BaseException as error:  # noqa: BLE001 - the caller's
        called.set_exception(error)


def _caller() -> str:
    caller = callers.current.get()
    return caller.name if caller else ""


def _turn_of(image: _Waiting) -> int:
    return image.turn
