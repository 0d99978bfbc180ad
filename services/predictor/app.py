"""The predictor's use cases."""

import asyncio
from collections.abc import Generator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

from services.kit import blobs as uris
from services.kit import names
from services.kit.blobs import Blobs
from services.kit.clock import Clock
from services.kit.errors import DeadlineExceeded, InvalidImageSize, ModelNotFound, QueueFull, SightlineError
from services.kit.log import Log
from services.kit.plurals import counted
from services.kit.telemetry import Telemetry
from services.predictor import metrics
from services.predictor.batching import Batcher
from services.predictor.cache import ModelCache
from services.predictor.domain import Bundle, ImageQuery, LoadedModel, Prepared, Recogniser
from services.predictor.lookup import ModelLookup
from services.predictor.results import Analysis, result_of
from services.vision.decode import ImageInfo, inspect

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a replica takes on."""

    max_image_bytes: int  # of one image
    max_requests: int  # predictions in hand at once


class Predictor:
    """Answers with models that it loads when they are asked for and keeps while there is room."""

    def __init__(
        self,
        lookup: ModelLookup,
        cache: ModelCache,
        batcher: Batcher,
        blobs: Blobs,
        workers: Executor,
        clock: Clock,
        telemetry: Telemetry,
        limits: Limits,
    ) -> None:
        self._lookup = lookup
        self._cache = cache
        self._batcher = batcher
        self._blobs = blobs
        self._workers = workers  # decodes images
        self._clock = clock
        self._telemetry = telemetry
        self._limits = limits
        self._in_hand = 0

    async def analyze_image(self, query: ImageQuery, deadline: float | None = None) -> Analysis:
        """What the model sees in the image; the errors are those of the contract. `deadline` is monotonic."""
        names.parse(query.model_name, "models", field="model_name")
        query.check()
        with self._admitted():
            data, file = await self._image(query)
            bundle = await self._bundle(query.model_name)
            async with self._cache.use(bundle) as model:
                recogniser = model.recogniser
                info, image = await self._prepared(recogniser, data, file, deadline)
                seen = await self._batcher.predict(recogniser, image, deadline)
                model.answered(self._clock.now())
            with self._timed("postprocess"):
                result = result_of(recogniser.card, seen, info.width, info.height, query)
                return Analysis(bundle.version, info.width, info.height, result)

    async def load_model(self, model_name: str) -> LoadedModel:
        """Returns once the model is loaded and warmed, which it may be already."""
        names.parse(model_name, "models", field="model_name")
        async with self._cache.use(await self._bundle(model_name)) as model:
            return model.describe()

    def unload_model(self, model_name: str) -> None:
        """Drops the model from memory; predictions that use it are still answered. ModelNotFound if it is not here."""
        names.parse(model_name, "models", field="model_name")
        self._cache.drop(model_name, "unloaded")

    def list_loaded_models(self) -> list[LoadedModel]:
        """Every model that is ready here."""
        return self._cache.loaded()

    async def sweep(self) -> None:
        """Drops loaded models that were deleted though nobody asks for them any more."""
        for name in self._cache.names():
            try:
                await self._lookup.find(name)
            except ModelNotFound:
                log.info("deleted_model_dropped", model=name)
            except SightlineError as fault:
                log.warning("sweep_failed", model=name, problem=fault.message)
        self._lookup.forget_except(self._cache.names())

    async def sweep_for_ever(self, every_seconds: float) -> None:
        """Sweeps until cancelled."""
        while True:
            await self._clock.sleep(every_seconds)
            await self.sweep()

    async def _bundle(self, model_name: str) -> Bundle:
        """The bundle to use at once: whoever awaits anything in between may see an older one than others do."""
        return (await self._lookup.find(model_name)).bundle()

    async def _image(self, query: ImageQuery) -> tuple[bytes, str]:
        """The image's bytes and what to call them in a message."""
        if query.image is not None:
            self._check_size(len(query.image), "image")
            return query.image, "image"
        key = uris.from_uri(query.uri, self._blobs.bucket)
        self._check_size((await self._blobs.stat(key)).size_bytes, query.uri)
        data = await self._blobs.get(key, 0, self._limits.max_image_bytes + 1)  # it may have been replaced since
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
        self, recogniser: Recogniser, data: bytes, file: str, deadline: float | None
    ) -> tuple[ImageInfo, Prepared]:
        """The network's input, made in a worker thread unless the deadline passed while the image waited for one.

        The header's limits are checked before any pixel is decoded.
        """

        def in_thread() -> tuple[ImageInfo, Prepared]:
            if deadline is not None and deadline <= self._clock.monotonic():
                self._telemetry.add(metrics.DROPPED, reason="late")
                raise DeadlineExceeded(what="The prediction")
            with self._timed("decode"):
                info, decoded = inspect(data, file), recogniser.decode(data, file)
            with self._timed("preprocess"):
                return info, recogniser.arrange(decoded)

        return await asyncio.get_running_loop().run_in_executor(self._workers, in_thread)

    @contextmanager
    def _admitted(self) -> Generator[None]:
        """Bounds the images in memory; a full replica refuses at once rather than late."""
        limit = self._limits.max_requests
        if self._in_hand >= limit:
            self._telemetry.add(metrics.DROPPED, reason="full")
            raise QueueFull(subject="Predictions", value=self._in_hand, limit=limit, setting="SIGHTLINE_MAX_REQUESTS")
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    @contextmanager
    def _timed(self, stage: str) -> Generator[None]:
        start = self._clock.monotonic()
        yield
        self._telemetry.observe(metrics.STAGE_SECONDS, self._clock.monotonic() - start, stage=stage)
