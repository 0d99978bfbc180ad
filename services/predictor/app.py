"""The predictor's use cases."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from services.kit import names, tracing
from services.kit.blobs import Blobs
from services.kit.callers import acting_project
from services.kit.clock import Clock
from services.kit.errors import (
    DeadlineExceeded,
    InvalidImageSize,
    InvalidRequest,
    ModelNotFound,
    SightlineError,
    TooBusy,
)
from services.kit.log import Log
from services.kit.reach import NOTHING_OPEN, Reach
from services.kit.tasks import repeat
from services.kit.telemetry import Telemetry
from services.predictor import explanation, metrics
from services.predictor.batching import Batcher
from services.predictor.cache import ModelCache
from services.predictor.domain import Bundle, ImageQuery, LoadedModel, ModelInfo, ModelRunner, Prepared, RawOutput
from services.predictor.explanation import Explanation
from services.predictor.feedback import Answered, Feedback
from services.predictor.feedback_store import Kept
from services.predictor.loaded import Entry
from services.predictor.lookup import ModelLookup
from services.predictor.metrics import DropReason, Stage
from services.predictor.places import Places
from services.predictor.results import Analysis, Tag, result_of
from services.predictor.sets import check_coverage
from services.vision.card import ModelCard
from services.vision.decode import Decoded, ImageInfo
from services.vision.decode_pool import Decoders
from sightline.plurals import counted

MOST_OF_A_CALL = 16  # images in work, so that one stream, or batch, leaves places to others
DEFAULT_SUGGESTIONS = 100
MAX_SUGGESTIONS = 1000

T = TypeVar("T")
log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a replica."""

    max_image_bytes: int  # per image
    max_requests: int  # predictions in flight at once
    max_streamed: int  # the same of images that come in streams; those wait instead of being refused
    max_explanations: int  # at once
    reach: Reach = NOTHING_OPEN  # which blobs callers may name


@dataclass(frozen=True, slots=True)
class Output:
    """What a network says about an image, before any threshold."""

    card: ModelCard
    info: ImageInfo
    raw: RawOutput


class Predictor:
    """Predicts with models that it loads on demand and keeps while there is room."""

    def __init__(
        self,
        lookup: ModelLookup,
        cache: ModelCache,
        batcher: Batcher,
        blobs: Blobs,
        decoders: Decoders,
        feedback: Feedback,
        clock: Clock,
        telemetry: Telemetry,
        limits: Limits,
    ) -> None:
        self._lookup = lookup
        self._cache = cache
        self._batcher = batcher
        self._blobs = blobs
        self._decoders = decoders
        self._feedback = feedback
        self._clock = clock
        self._telemetry = telemetry
        self._limits = limits
        # A full replica refuses at once instead of queueing, which bounds the images in memory.
        # An explanation holds one fifty times.
        self._predictions = Places("Predictions", limits.max_requests, "SIGHTLINE_MAX_REQUESTS", telemetry)
        self._explanations = Places("Explanations", limits.max_explanations, "SIGHTLINE_MAX_EXPLANATIONS", telemetry)
        self.streamed = asyncio.Semaphore(limits.max_streamed)  # places of the images that come in streams

    @property
    def can_decode(self) -> bool:
        """Whether there are processes that decode images."""
        return self._decoders.is_ready

    def check(self, seconds: float | None) -> None:
        """Before an image has come: QueueFull, TooBusy or DeadlineExceeded if it cannot be answered in the seconds."""
        self._predictions.check()
        self._require_time(None if seconds is None else self._clock.monotonic() + seconds)

    async def analyze_image(self, query: ImageQuery, deadline: float | None = None) -> Analysis:
        """Analyzes one image; raises the errors of the contract. `deadline` is monotonic."""
        with self._predictions.place(), tracing.in_steps():
            return await self.analyze_streamed(query, deadline)

    async def analyze_streamed(self, query: ImageQuery, deadline: float | None = None) -> Analysis:
        """Analyzes an image that has one of `streamed`, as `analyze_image` does."""
        names.check_model(query.model_name, "model_name")
        query.check()
        data, file = await self._image(query)
        async with await self._model(query) as model:
            return await self._analysis(model, query, data, file, deadline)

    async def analyze_batch(self, queries: Sequence[ImageQuery], deadline: float | None = None) -> list[Analysis]:
        """Analyzes images with one version of their model, all or none; `queries` differ in their image only."""
        with self._predictions.place():
            if len(queries) == 1:
                with tracing.in_steps():
                    return [await self.analyze_streamed(queries[0], deadline)]
            return await self.analyze_streamed_batch(queries, deadline)

    async def analyze_streamed_batch(
        self, queries: Sequence[ImageQuery], deadline: float | None = None
    ) -> list[Analysis]:
        """The same; its images wait for places among `streamed`, so its caller must have none of these."""
        query, own = queries[0], asyncio.Semaphore(MOST_OF_A_CALL)
        names.check_model(query.model_name, "model_name")
        query.check()

        async def one(model: Entry, query: ImageQuery) -> Analysis:
            async with own:
                async with self._in_time(deadline):
                    await self.streamed.acquire()
                try:
                    return await self._analysis(model, query, *await self._image(query), deadline)
                finally:
                    self.streamed.release()

        try:
            async with await self._model(query) as model, asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(model, query)) for query in queries]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _analysis(
        self, model: Entry, query: ImageQuery, data: bytes, file: str, deadline: float | None
    ) -> Analysis:
        """The result of a loaded model, which stays in use meanwhile."""
        runner = model.runner
        check_coverage(runner.card, query)  # before the image costs anything
        self._require_time(deadline)
        with self._batcher.coming(runner):
            info, image = await self._prepared(runner, data, file, deadline)
        output = await self._batcher.predict(runner, image, deadline)
        model.answered(self._clock.now())
        with self._timed(Stage.POSTPROCESS):
            result = result_of(runner.card, output, info.width, info.height, query)
        if not query.no_feedback:
            self._feedback.consider(Answered(model.bundle, runner.card, output, info, image, data))
        return Analysis(model.bundle.version, info.width, info.height, result)

    async def predict(self, bundle: Bundle, data: bytes, file: str, *, alone: bool = False) -> Output:
        """The output of this bundle, whichever the model has now; InvalidImage, and what loading it raises.

        With `alone`, no other image is in its forward pass, so that one which the network fails on is not to blame.
        """
        async with self._cache.use(bundle) as model:
            runner = model.runner
            info, image = await self._prepared(runner, data, file, None)
            if alone:
                (output,) = await self._batcher.call(lambda: list(runner.predict_prepared([image])))
            else:
                output = await self._batcher.predict(runner, image, None)
            model.answered(self._clock.now())
            return Output(runner.card, info, output)

    async def load(self, bundle: Bundle) -> None:
        """Returns once this bundle is loaded and warmed up; raises what loading it raises."""
        async with self._cache.use(bundle):
            return

    async def explain_image(self, query: ImageQuery, tag: str, deadline: float | None = None) -> Explanation:
        """Shows which parts of the image support the tag, at the cost of some fifty predictions; errors as above."""
        names.check_model(query.model_name, "model_name")
        query.check()
        with self._predictions.place(), self._explanations.place():
            data, file = await self._image(query)
            async with await self._model(query) as model:
                runner = model.runner
                explanation.check_tag(runner.card, tag)  # before the image costs anything
                made = await self._decoded(
                    runner, data, file, deadline, partial(explanation.inputs_of, arrange=runner.arrange)
                )
                output = await self._batcher.predict(runner, made.whole, deadline)
                label = explanation.label_of(runner.card, output, tag)
                answers = await asyncio.gather(*(self._batcher.predict(runner, one, deadline) for one in made.covered))
                model.answered(self._clock.now())
            confidence = explanation.confidence_in(output, label)
            weights = explanation.weights_of(confidence, [explanation.confidence_in(one, label) for one in answers])
            drawn = await asyncio.to_thread(explanation.overlay, made.shown, made.grid, weights)
            found = Tag(runner.card.categories[label].name, confidence)
            return Explanation(
                model.bundle.version, made.info.width, made.info.height, found, made.grid, weights, drawn
            )

    async def load_model(self, model_name: str) -> LoadedModel:
        """Returns once the model is loaded and warmed up, at once if it already is, and keeps it in memory."""
        names.check_model(model_name, "model_name")
        async with self._cache.use((await self._lookup.find(model_name)).bundle()) as model:
            return self._cache.keep(model)

    def unload_model(self, model_name: str) -> None:
        """Drops the model from memory; predictions in flight still finish. ModelNotFound if it is not loaded."""
        names.parse(model_name, "models", field="model_name")
        self._cache.unload(model_name)

    def list_loaded_models(self) -> list[LoadedModel]:
        """The project's models that this replica has loaded."""
        return [model for model in self._cache.loaded() if model.name.startswith(names.own("models", ""))]

    async def model(self, model_name: str) -> ModelInfo:
        """What the trainer says of the model; ModelNotFound, Unavailable."""
        names.check_model(model_name, "model_name")
        return await self._lookup.find(model_name)

    async def list_models(self) -> list[ModelInfo]:
        """The project's models, loaded or not."""
        return await self._lookup.list()

    async def suggest_images(self, model_name: str, most: int) -> AsyncGenerator[tuple[Kept, bytes]]:
        """Kept images of a model, the most instructive first; ModelNotFound, FeedbackNotKept."""
        if not 0 <= most <= MAX_SUGGESTIONS:
            raise InvalidRequest(field="max_images", problem=f"{most} is outside 0..{MAX_SUGGESTIONS}")
        name = (await self.model(model_name)).name
        async with aclosing(self._feedback.suggest(name, most or DEFAULT_SUGGESTIONS)) as suggested:
            async for one in suggested:
                yield one

    async def sweep(self) -> None:
        """Drops loaded models that have been deleted, and loads new bundles of kept ones, even without requests.

        New bundles that could not be loaded are tried again.
        """
        for name in self._cache.names():
            try:
                bundle = (await self._lookup.find(name)).bundle()
                if self._cache.lacks(bundle):
                    async with self._cache.use(bundle):
                        log.info("model_loaded", model=name, version=bundle.version)
            except ModelNotFound:
                log.info("deleted_model_dropped", model=name)
            except SightlineError as error:
                log.warning("sweep_failed", model=name, problem=error.message)
        self._lookup.forget_except(self._cache.names())

    async def run_sweeps(self, every_seconds: float) -> None:
        """Sweeps until cancelled."""
        await repeat(self.sweep, partial(self._clock.sleep, every_seconds))

    async def _model(self, query: ImageQuery) -> AbstractAsyncContextManager[Entry]:
        """What answers, in use for a block; enter it without awaiting anything in between, or it may be outdated.

        If the query names no version and the current one cannot be loaded, that is the one before.
        """
        bundle = (await self._lookup.find(query.model_name)).bundle(query.model_version)
        return self._cache.use(bundle, or_earlier=not query.model_version)

    async def _image(self, query: ImageQuery) -> tuple[bytes, str]:
        """The image's bytes, and its name in error messages."""
        if query.image is not None:
            self._check_size(len(query.image), query.file)
            return query.image, query.file
        key = self._limits.reach.key(query.uri, self._blobs.bucket, acting_project())
        self._check_size((await self._blobs.stat(key)).size_bytes, query.uri)
        data = await self._blobs.get(key, 0, self._limits.max_image_bytes + 1)  # it may have been replaced since stat
        self._check_size(len(data), query.uri)
        return data, query.uri

    def _check_size(self, size_bytes: int, file: str) -> None:
        limit = self._limits.max_image_bytes
        if not 0 < size_bytes <= limit:
            remedy = "scale it down or compress it more" if size_bytes else "send the image's bytes"
            raise InvalidImageSize(
                file=file, problem=f"is {counted(size_bytes, 'byte')}; 1 to {limit} are accepted: {remedy}"
            )

    async def _prepared(
        self, runner: ModelRunner, data: bytes, file: str, deadline: float | None
    ) -> tuple[ImageInfo, Prepared]:
        """The image's header, and the network's input."""

        def arranged(decoded: Decoded) -> tuple[ImageInfo, Prepared]:
            with self._timed(Stage.PREPROCESS):
                return decoded.info, runner.arrange(decoded)

        return await self._decoded(runner, data, file, deadline, arranged)

    async def _decoded(
        self, runner: ModelRunner, data: bytes, file: str, deadline: float | None, use: Callable[[Decoded], T]
    ) -> T:
        """What `use` makes of the pixels; decoding ends at the deadline."""
        start, step = self._clock.monotonic(), tracing.step()

        def timed(decoded: Decoded) -> T:
            seconds = self._clock.monotonic() - start
            self._telemetry.observe(metrics.STAGE_SECONDS, seconds, stage=Stage.DECODE)
            if step:
                self._telemetry.tracer.add_span("decode", seconds, parent=step)
            return use(decoded)

        async with self._in_time(deadline):
            return await self._decoders.decode(data, file, runner.sizes, timed)

    @asynccontextmanager
    async def _in_time(self, deadline: float | None) -> AsyncGenerator[None]:
        """Ends the block at the deadline, with DeadlineExceeded."""
        try:
            async with asyncio.timeout(None if deadline is None else deadline - self._clock.monotonic()):
                yield
        except TimeoutError:
            self._telemetry.add(metrics.DROPPED, reason=DropReason.LATE)
            raise DeadlineExceeded(what="The prediction") from None

    def _require_time(self, deadline: float | None) -> None:
        """TooBusy if the images that wait take longer than the call has time; DeadlineExceeded if it has none left."""
        if deadline is None:
            return
        expected, remaining = self._batcher.expected_seconds(), deadline - self._clock.monotonic()
        if expected > remaining:
            self._telemetry.add(metrics.DROPPED, reason=DropReason.LATE)
            if remaining <= 0:
                raise DeadlineExceeded(what="The prediction")
            raise TooBusy(subject="Predictions", expected=f"{expected:.2g}", remaining=f"{remaining:.2g}")

    @contextmanager
    def _timed(self, stage: Stage) -> Generator[None]:
        start = self._clock.monotonic()
        yield
        self._telemetry.observe(metrics.STAGE_SECONDS, self._clock.monotonic() - start, stage=stage)
