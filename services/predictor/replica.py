"""A running predictor without its server: its parts, wired to the given ports."""

from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from services.kit.blobs import Blobs
from services.kit.clock import Clock
from services.kit.tasks import alongside
from services.kit.telemetry import Telemetry
from services.predictor.app import Limits, Predictor
from services.predictor.batching import Batcher, Passes
from services.predictor.bundles import BundleSource
from services.predictor.cache import ModelCache
from services.predictor.domain import Loader, Models
from services.predictor.feedback import Feedback
from services.predictor.feedback_store import FeedbackStore
from services.predictor.lookup import ModelLookup
from services.predictor.resting import run_rests
from services.predictor.settings import PredictorSettings
from services.vision.decode_pool import DecodePool
from services.vision.signing import Verifier


@asynccontextmanager
async def running(
    settings: PredictorSettings,
    directory: Path,
    models: Models,
    blobs: Blobs,
    loader: Loader,
    passes: Passes,
    clock: Clock,
    telemetry: Telemetry,
    *,
    expires_feedback: bool = True,
) -> AsyncGenerator[Predictor]:
    """A predictor within the block; empties `directory`. `expires_feedback`: it also removes kept images in time.

    Leave the block only when no call is in flight. SigningKeyUnusable, OSError.
    """
    workers = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="bundle")
    batcher = Batcher(clock, telemetry, passes)
    verifier = Verifier.of(settings.bundle_key, settings.bundle_signatures, telemetry)
    source = BundleSource(blobs, directory, loader, workers, batcher.call, verifier)
    cache = ModelCache(source, settings.model_cache_bytes, clock, telemetry, settings.preloaded, settings.project_share)
    lookup = ModelLookup(models, clock, settings.model_fresh_seconds, on_gone=cache.discard)
    limits = Limits(
        settings.max_prediction_image_bytes,
        settings.max_requests,
        settings.max_streamed_images,
        settings.max_explanations,
        settings.reach,
    )
    store = FeedbackStore(blobs, timedelta(days=settings.feedback_days))
    feedback = Feedback(store, settings.feedback, clock, telemetry)
    try:
        async with DecodePool.running(settings.decode_limits, telemetry) as decoders:
            predictor = Predictor(lookup, cache, batcher, blobs, decoders, feedback, clock, telemetry, limits)
            work = {
                "sweep": predictor.run_sweeps(settings.model_sweep_seconds),
                "feedback": feedback.run(),
                "rests": run_rests(cache, clock, timedelta(seconds=settings.model_rest_seconds)),
            }
            if expires_feedback:
                work["feedback_sweep"] = feedback.run_sweeps()
            async with alongside(**work):
                yield predictor
                await cache.close()
    finally:
        batcher.close()
        workers.shutdown(wait=False, cancel_futures=True)
