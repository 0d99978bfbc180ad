"""Forward passes: one thread, and whatever waits for the same model when it becomes free is the next batch.

There is no timer. Under load a batch fills while the one before it runs; without load a timer would only delay.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from services.kit.clock import Clock
from services.kit.errors import DeadlineExceeded, Draining
from services.kit.telemetry import Telemetry
from services.predictor import metrics
from services.predictor.domain import Prepared, Recogniser, Seen, input_shape

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    recogniser: Recogniser
    image: Prepared
    deadline: float | None  # monotonic
    since: float  # monotonic
    answer: "asyncio.Future[Seen]"

    def joins(self, other: "_Waiting") -> bool:
        """Whether one forward pass can answer both."""
        return self.recogniser is other.recogniser and input_shape(self.image) == input_shape(other.image)


class Batcher:
    """The one thread that runs networks, and the images that wait for it; `run` must be running.

    Law: an image whose caller has gone, or whose deadline has passed, costs no forward pass. The oldest image's
    model is next, so no model starves another. The inputs of a batch are of one shape (a detector's often differ): of
    several shapes they would need several passes, and the first answers wait for the last. How many may wait is
    bounded by whom the caller admits.
    """

    def __init__(self, clock: Clock, telemetry: Telemetry, max_batch: int) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._max_batch = max_batch
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        telemetry.set(metrics.QUEUE_LENGTH, 0)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")

    async def predict(self, recogniser: Recogniser, image: Prepared, deadline: float | None) -> Seen:
        """What is seen in one prepared image; DeadlineExceeded if its turn comes too late."""
        answer: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(recogniser, image, deadline, self._clock.monotonic(), answer))
        self._telemetry.set(metrics.QUEUE_LENGTH, len(self._waiting))
        self._arrived.set()
        return await answer

    async def call(self, work: Callable[[], T]) -> T:
        """Runs other work of a network, such as its first pass, in the same thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def run(self) -> None:
        """Answers until cancelled; then whoever waits gets Draining."""
        try:
            while True:
                await self._arrived.wait()
                if batch := self._next_batch():
                    await self._answer(batch)
                if not self._waiting:
                    self._arrived.clear()
        finally:
            self._refuse_all()
            self._thread.shutdown(wait=False)

    def _next_batch(self) -> list[_Waiting]:
        """Takes the oldest image with those that can join it; drops whom an answer would not reach in time."""
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        now = self._clock.monotonic()
        while self._waiting:
            image = self._waiting.popleft()
            if image.answer.done() or (image.deadline is not None and image.deadline <= now):
                self._drop(image)
            elif not batch or (len(batch) < self._max_batch and image.joins(batch[0])):
                batch.append(image)
            else:
                others.append(image)
        self._waiting = others
        self._telemetry.set(metrics.QUEUE_LENGTH, len(others))
        return batch

    def _drop(self, image: _Waiting) -> None:
        self._telemetry.add(metrics.DROPPED, reason="late")
        if not image.answer.done():
            image.answer.set_exception(DeadlineExceeded(what="The prediction"))

    async def _answer(self, batch: list[_Waiting]) -> None:
        start = self._clock.monotonic()
        for image in batch:
            self._telemetry.observe(metrics.STAGE_SECONDS, start - image.since, stage="queue")
        recogniser, images = batch[0].recogniser, [image.image for image in batch]
        try:
            seen = await self.call(lambda: list(recogniser.predict_prepared(images)))
        except asyncio.CancelledError:
            self._waiting.extendleft(batch)  # refused with all the others
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is the answer, and the next batch may do better
            for image in batch:
                if not image.answer.done():
                    image.answer.set_exception(fault)
            return
        self._telemetry.observe(metrics.STAGE_SECONDS, self._clock.monotonic() - start, stage="forward")
        self._telemetry.observe(metrics.BATCH_SIZE, len(batch))
        for image, answer in zip(batch, seen, strict=True):
            if not image.answer.done():
                image.answer.set_result(answer)

    def _refuse_all(self) -> None:
        while self._waiting:
            image = self._waiting.popleft()
            if not image.answer.done():
                image.answer.set_exception(Draining(service="predictor"))
