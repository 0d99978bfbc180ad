"""Keeps images of uncertain predictions for labelling, if an operator has switched that on."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import numpy as np

from services.kit import names
from services.kit.clock import Clock
from services.kit.errors import BlobNotFound, FeedbackNotKept, SightlineError
from services.kit.log import Log
from services.kit.tasks import repeat
from services.kit.telemetry import Telemetry
from services.predictor import metrics
from services.predictor.domain import Bundle, ImageQuery, Prepared, RawOutput
from services.predictor.feedback_store import FeedbackStore, Kept, Mark
from services.predictor.metrics import FeedbackResult
from services.predictor.results import Objects, result_of
from services.predictor.suggestions import by_answers, by_looks, confidence_of, ranked, uncertainty_of
from services.vision.card import ModelCard
from services.vision.decode import ImageInfo
from services.vision.fingerprint import perceptual_hash
from services.vision.image_detections import ImageDetections

QUEUED_IMAGES = 32
QUEUED_BYTES = 64 * 1024**2
REMEMBERED = 1000  # looks of images that were kept, so that those of a camera that sees nothing new are not
SWEEP_SECONDS = 3600.0
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg"}

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is kept; the numbers are for each project, day and replica."""

    below: float  # the confidence; 0: nothing is kept
    share: float  # of the images below it
    max_images: int
    max_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """An image that a model has answered for."""

    bundle: Bundle
    card: ModelCard
    output: RawOutput
    info: ImageInfo
    prepared: Prepared
    data: bytes


class Feedback:
    """Law: `consider` neither waits nor raises; what a full queue or a limit leaves no room for is dropped and counted.

    `run` writes what is kept, and `run_sweeps` removes what has expired, until cancelled. What was kept still expires
    after keeping was switched off.
    """

    def __init__(
        self, store: FeedbackStore, rules: Rules, clock: Clock, telemetry: Telemetry, random: Random | None = None
    ) -> None:
        self._store = store
        self._rules = rules
        self._clock = clock
        self._telemetry = telemetry
        self._random = random or Random()  # noqa: S311 - a sample, not a secret
        self._queue: asyncio.Queue[Answered] = asyncio.Queue(QUEUED_IMAGES)
        self._queued_bytes = 0
        self._day = clock.now().date()
        self._images, self._bytes = Counter[str](), Counter[str]()  # of today, by project
        self._looks: OrderedDict[tuple[str, str], None] = OrderedDict()

    def consider(self, answered: Answered) -> None:
        """Keeps the image if the rules say so."""
        rules = self._rules
        if not rules.below or confidence_of(answered.card, answered.output) >= rules.below:
            return
        if self._random.random() >= rules.share:
            return
        if dropped := self._refusal(answered):
            self._count(dropped)
            return
        project, size = names.split(answered.bundle.model_name)[0], len(answered.data)
        self._images[project] += 1
        self._bytes[project] += size
        self._queued_bytes += size
        self._queue.put_nowait(answered)

    async def run(self) -> None:
        """Writes what is kept until cancelled."""
        while True:
            answered = await self._queue.get()
            try:
                await self._keep(answered)
            except SightlineError as error:
                self._count(FeedbackResult.FAILED)
                _log.warning("feedback_not_kept", model=answered.bundle.model_name, problem=error.message)
            except Exception as error:  # noqa: BLE001 - predictions must not end because an image cannot be kept
                self._count(FeedbackResult.FAILED)
                _log.error("feedback_not_kept", error, model=answered.bundle.model_name)
            finally:
                self._queued_bytes -= len(answered.data)

    async def sweep(self) -> None:
        """Removes what has expired."""
        if count := await self._store.expire(self._clock.now()):
            _log.info("feedback_expired", files=count)

    async def run_sweeps(self) -> None:
        """Sweeps until cancelled."""
        await repeat(self.sweep, partial(self._clock.sleep, SWEEP_SECONDS))

    async def suggest(self, model_name: str, most: int) -> AsyncGenerator[tuple[Kept, bytes]]:
        """The kept images of a model that are most worth labelling; FeedbackNotKept if keeping is switched off."""
        if not self._rules.below:
            raise FeedbackNotKept(setting="SIGHTLINE_FEEDBACK_BELOW")
        kept = await self._store.latest(model_name, self._clock.now())
        order = await asyncio.to_thread(_ranked, kept, most)
        for index in order:
            try:
                image = await self._store.image(kept[index])
            except BlobNotFound:  # it has just expired
                continue
            yield kept[index], image

    def _refusal(self, answered: Answered) -> FeedbackResult | None:
        """Why there is no room for the image, or None."""
        if (today := self._clock.now().date()) != self._day:
            self._day = today
            self._images.clear()
            self._bytes.clear()
        project, size = names.split(answered.bundle.model_name)[0], len(answered.data)
        if self._images[project] >= self._rules.max_images or self._bytes[project] + size > self._rules.max_bytes:
            return FeedbackResult.LIMIT
        if self._queue.full() or self._queued_bytes + size > QUEUED_BYTES:
            return FeedbackResult.FULL
        return None

    async def _keep(self, answered: Answered) -> None:
        kept = await asyncio.to_thread(self._record, answered)
        look = (kept.model_name, kept.look)
        if look in self._looks:
            self._looks.move_to_end(look)
            self._count(FeedbackResult.REPEATED)
            return
        await self._store.put(kept, answered.data)
        self._count(FeedbackResult.KEPT)
        self._looks[look] = None
        if len(self._looks) > REMEMBERED:
            self._looks.popitem(last=False)

    def _record(self, answered: Answered) -> Kept:
        card, output, info, prepared = answered.card, answered.output, answered.info, answered.prepared
        query = ImageQuery(answered.bundle.model_name, None, "", score_threshold=None, max_results=None)
        result = result_of(card, output, info.width, info.height, query)
        if isinstance(result, Objects):
            found = [(one.tag, (one.box.x, one.box.y, one.box.w, one.box.h)) for one in result.values]
        else:
            found = [(tag, None) for tag in result.values]
        pixels = prepared[0] if isinstance(prepared, tuple) else prepared.pixels
        return Kept(
            model_name=answered.bundle.model_name,
            model_version=answered.bundle.version,
            time=self._clock.now(),
            extension=EXTENSIONS.get(info.format, info.format.lower()),
            width=info.width,
            height=info.height,
            confidence=confidence_of(card, output),
            uncertainty=uncertainty_of(card, output),
            detects=isinstance(output, ImageDetections),
            look=perceptual_hash(pixels).hex(),
            marks=tuple(Mark(tag.name, tag.confidence, box) for tag, box in found),
            id=names.new_uid(),
        )

    def _count(self, result: FeedbackResult) -> None:
        self._telemetry.add(metrics.FEEDBACK_IMAGES, result=result)


def _ranked(kept: Sequence[Kept], most: int) -> list[int]:
    """The indices of the kept images of a model, the most instructive first."""
    doubt = [one.uncertainty for one in kept]
    if not kept or kept[0].detects:
        return ranked(doubt, by_looks([bytes.fromhex(one.look) for one in kept]), most)
    columns = {name: number for number, name in enumerate({mark.name: None for one in kept for mark in one.marks})}
    answers = np.zeros((len(kept), len(columns)))
    for row, one in enumerate(kept):
        for mark in one.marks:
            answers[row, columns[mark.name]] = mark.confidence
    return ranked(doubt, by_answers(answers), most)
