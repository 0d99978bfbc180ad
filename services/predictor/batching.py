"""Forward passes: one thread, and whatever waits for the same model when it becomes free is the next batch.

There is no timer. Under load a batch fills while the one before it runs; without load a timer would only delay.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from services.kit.clock import Clock
from services.kit.errors import DeadlineExceeded, Draining
from services.kit.telemetry import Telemetry
from services.predictor import metrics
from services.predictor.domain import Classifier
from services.vision.classifier import Prepared

Row = NDArray[np.float32]  # one image's probabilities
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    classifier: Classifier
    image: Prepared
    deadline: float | None  # monotonic
    since: float  # monotonic
    answer: "asyncio.Future[Row]"


class Batcher:
    """The one thread that runs networks, and the images that wait for it; `run` must be running.

    Law: an image whose caller has gone, or whose deadline has passed, costs no forward pass. The oldest image's
    model is next, so no model starves another. How many may wait is bounded by whom the caller admits.
    """

    def __init__(self, clock: Clock, telemetry: Telemetry, max_batch: int) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._max_batch = max_batch
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")

    async def predict(self, classifier: Classifier, image: Prepared, deadline: float | None) -> Row:
        """The probabilities of one prepared image; DeadlineExceeded if its turn comes too late."""
        answer: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(classifier, image, deadline, self._clock.monotonic(), answer))
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
        """Takes the oldest image with those of its model that fit; drops whom an answer would not reach in time."""
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        now = self._clock.monotonic()
        while self._waiting:
            image = self._waiting.popleft()
            if image.answer.done() or (image.deadline is not None and image.deadline <= now):
                self._drop(image)
            elif not batch or (image.classifier is batch[0].classifier and len(batch) < self._max_batch):
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
        classifier, images = batch[0].classifier, [image.image for image in batch]
        try:
            rows = await self.call(lambda: classifier.predict_prepared(images))
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
        for image, row in zip(batch, rows, strict=True):
            if not image.answer.done():
                image.answer.set_result(row)

    def _refuse_all(self) -> None:
        while self._waiting:
            image = self._waiting.popleft()
            if not image.answer.done():
                image.answer.set_exception(Draining(service="predictor"))
