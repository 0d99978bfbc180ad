"""Runs forward passes in a few threads: whatever waits for the same model when one becomes free is the next batch.

There is no timer. Under load a batch fills while the previous one runs; without load a timer would only add latency.
"""

import asyncio
from bisect import bisect_right, insort_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

from services.kit import callers
from services.kit.clock import Clock
from services.kit.errors import DeadlineExceeded, Draining
from services.kit.telemetry import Telemetry
from services.predictor import metrics
from services.predictor.domain import ModelRunner, Prepared, RawOutput, input_shape
from services.predictor.metrics import DropReason, Stage

T = TypeVar("T")

PACE_WEIGHT = 0.1  # of the latest pass in the average


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    runner: ModelRunner
    image: Prepared
    deadline: float | None  # monotonic
    since: float  # monotonic
    turn: int
    answer: "asyncio.Future[RawOutput]"

    def joins(self, other: "_Waiting") -> bool:
        """Whether one forward pass can answer both."""
        return self.runner is other.runner and input_shape(self.image) == input_shape(other.image)


@dataclass(frozen=True, slots=True)
class Passes:
    """The forward passes that a device can take."""

    at_once: int = 1
    max_images: int = 16
    max_pixels: int | None = None  # of several images in one; a CPU is slower with more than its caches hold

    def hold(self, count: int, image: Prepared) -> bool:
        """Whether one pass may have so many images like this one."""
        pixels = count * sum(height * width for height, width, *_ in input_shape(image))
        return count <= self.max_images and (count == 1 or self.max_pixels is None or pixels <= self.max_pixels)


class Batcher:
    """The threads that run networks, and the queue of images for them; `run` must be running.

    Law: an image whose caller is gone, or whose deadline has passed, costs no forward pass. Callers take turns, one
    image each, so that nobody waits for all the images that another has sent. The model of the image whose turn it is
    goes next, so no model starves another. All inputs of a batch have the same shape (a detector's often differ):
    several shapes would need several passes, and the first results would wait for the last. The queue is bounded by how
    many requests the caller admits.
    """

    def __init__(self, clock: Clock, telemetry: Telemetry, passes: Passes) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._waiting: list[_Waiting] = []  # by turn
        self._turns: dict[str, int] = {}  # of each waiting caller's last image
        self._turn = 0  # of the last image that was taken
        self._arrived = asyncio.Event()
        telemetry.set(metrics.QUEUE_LENGTH, 0)
        self._passes = passes
        self._paces = WeakKeyDictionary[ModelRunner, float]()  # seconds of a pass for each image in it, recently
        self._free = asyncio.Semaphore(passes.at_once)
        self._threads = ThreadPoolExecutor(passes.at_once, thread_name_prefix="forward")

    async def predict(self, runner: ModelRunner, image: Prepared, deadline: float | None) -> RawOutput:
        """The model's output for one prepared image; DeadlineExceeded if its turn comes too late."""
        answer: asyncio.Future[RawOutput] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(runner, image, deadline, self._clock.monotonic(), self._next_turn(), answer)
        insort_right(self._waiting, waiting, key=_turn_of)
        self._telemetry.set(metrics.QUEUE_LENGTH, len(self._waiting))
        self._arrived.set()
        return await answer

    def expected_seconds(self) -> float:
        """How long an image of the current caller would wait for those before it, going by recent passes."""
        ahead = bisect_right(self._waiting, self._turn_after(_caller()), key=_turn_of)
        return sum(self._paces.get(image.runner, 0.0) for image in self._waiting[:ahead]) / self._passes.at_once

    def _next_turn(self) -> int:
        caller = _caller()
        turn = self._turns[caller] = self._turn_after(caller)
        return turn

    def _turn_after(self, caller: str) -> int:
        """After the caller's previous image, and after those that have been taken."""
        return max(self._turns.get(caller, 0), self._turn) + 1

    async def call(self, work: Callable[[], T]) -> T:
        """Runs other work with a network, such as its warm-up, in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def run(self) -> None:
        """Runs batches until cancelled; then waiting images get Draining."""
        try:
            async with asyncio.TaskGroup() as passes:
                while True:
                    await self._arrived.wait()
                    await self._free.acquire()  # meanwhile, more images may arrive
                    if batch := self._next_batch():
                        passes.create_task(self._run_batch(batch))
                    else:
                        self._free.release()
                    if not self._waiting:
                        self._arrived.clear()
        finally:
            self._refuse_all()
            self._threads.shutdown(wait=False)

    def _next_batch(self) -> list[_Waiting]:
        """Takes the image whose turn it is and those that can join it; drops images that are too late."""
        batch: list[_Waiting] = []
        others: list[_Waiting] = []
        now = self._clock.monotonic()
        for image in self._waiting:
            if image.answer.done() or (image.deadline is not None and image.deadline <= now):
                self._drop(image)
            elif not batch or (image.joins(batch[0]) and self._passes.hold(len(batch) + 1, image.image)):
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

    def _drop(self, image: _Waiting) -> None:
        self._telemetry.add(metrics.DROPPED, reason=DropReason.LATE)
        if not image.answer.done():
            image.answer.set_exception(DeadlineExceeded(what="The prediction"))

    async def _run_batch(self, batch: list[_Waiting]) -> None:
        """Answers the batch's callers, and frees the place that `run` took for it."""
        try:
            await self._pass(batch)
        finally:
            self._free.release()

    async def _pass(self, batch: list[_Waiting]) -> None:
        start = self._clock.monotonic()
        for image in batch:
            self._telemetry.observe(metrics.STAGE_SECONDS, start - image.since, stage=Stage.QUEUE)
        runner, images = batch[0].runner, [image.image for image in batch]
        try:
            outputs = await self.call(lambda: list(runner.predict_prepared(images)))
        except asyncio.CancelledError:
            self._waiting += batch  # refused along with the others
            raise
        except Exception as error:  # noqa: BLE001 - the batch's callers get it, and the next batch may succeed
            for image in batch:
                if not image.answer.done():
                    image.answer.set_exception(error)
            return
        seconds = self._clock.monotonic() - start
        pace = seconds / len(batch)
        self._paces[runner] = pace + (1 - PACE_WEIGHT) * (self._paces.get(runner, pace) - pace)
        self._telemetry.observe(metrics.STAGE_SECONDS, seconds, stage=Stage.FORWARD)
        self._telemetry.observe(metrics.BATCH_SIZE, len(batch))
        for image, output in zip(batch, outputs, strict=True):
            if not image.answer.done():
                image.answer.set_result(output)

    def _refuse_all(self) -> None:
        while self._waiting:
            image = self._waiting.pop()
            if not image.answer.done():
                image.answer.set_exception(Draining(service="predictor"))


def _caller() -> str:
    caller = callers.current.get()
    return caller.name if caller else ""


def _turn_of(image: _Waiting) -> int:
    return image.turn
