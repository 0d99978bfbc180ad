"""The metrics of the predictor, each with the question that it answers."""

from enum import StrEnum

from services.kit.metered import STORE
from services.kit.telemetry import Metric, MetricKind
from services.vision import decode_metrics
from services.vision.signatures import BUNDLE_SIGNATURES


class Stage(StrEnum):
    """A stage of a prediction, in order."""

    DECODE = "decode"
    PREPROCESS = "preprocess"
    QUEUE = "queue"
    FORWARD = "forward"
    POSTPROCESS = "postprocess"


class DropReason(StrEnum):
    """Why an image got no answer."""

    LATE = "late"
    FULL = "full"


class CacheResult(StrEnum):
    """Whether a model was in memory when it was needed."""

    HIT = "hit"
    JOINED = "joined"  # already loading
    MISS = "miss"


class Eviction(StrEnum):
    """Why a model left memory."""

    CAPACITY = "capacity"
    REPLACED = "replaced"  # by a newer bundle
    DELETED = "deleted"
    UNLOADED = "unloaded"


class FeedbackResult(StrEnum):
    """What became of an image that the rules of feedback choose."""

    KEPT = "kept"
    REPEATED = "repeated"  # it looks like one that was kept
    LIMIT = "limit"  # the project's of a day is reached
    FULL = "full"  # too many wait to be written
    FAILED = "failed"  # the store did not take it


STAGE_SECONDS = Metric(  # Where does the time of a slow prediction go?
    "sightline_predictor_stage_seconds",
    MetricKind.HISTOGRAM,
    "Time in each stage of a prediction: decode, preprocess, queue, forward (the whole batch), postprocess.",
    labels=("stage",),
    values=(tuple(Stage),),
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
BATCH_SIZE = Metric(  # Does batching happen, and is the limit reached?
    "sightline_predictor_batch_images",
    MetricKind.HISTOGRAM,
    "Images in one forward pass.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
QUEUE_LENGTH = Metric(  # Is it time for another replica?
    "sightline_predictor_queue_images", MetricKind.GAUGE, "Images waiting for a forward pass."
)
DROPPED = Metric(  # Do callers give up, or does the replica refuse?
    "sightline_predictor_dropped_images_total",
    MetricKind.COUNTER,
    "Images without an answer: too late (deadline passed or caller gone), or refused (replica full).",
    labels=("reason",),
    values=(tuple(DropReason),),
)
CACHE_REQUESTS = Metric(  # How often does a caller wait for a load?
    "sightline_predictor_cache_requests_total",
    MetricKind.COUNTER,
    "Uses of models, by whether the model was in memory: hit, joined (already loading) or miss.",
    labels=("result",),
    values=(tuple(CacheResult),),
)
CACHE_EVICTIONS = Metric(  # Is the cache too small?
    "sightline_predictor_cache_evictions_total",
    MetricKind.COUNTER,
    "Models that left memory, by reason: capacity, replaced (by a newer bundle), deleted or unloaded.",
    labels=("reason",),
    values=(tuple(Eviction),),
)
LOAD_SECONDS = Metric(  # How slow is a cold first prediction?
    "sightline_predictor_load_seconds",
    MetricKind.HISTOGRAM,
    "Time to fetch, check, load and warm up a model.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
LOAD_FAILURES = Metric(  # Is a bundle or the store broken?
    "sightline_predictor_load_failures_total", MetricKind.COUNTER, "Failed loads of models."
)
LOADED_MODELS = Metric(  # How many models share the memory?
    "sightline_predictor_loaded_models", MetricKind.GAUGE, "Models in memory or being loaded."
)
KEPT_MODELS = Metric(  # How many may not make room for others?
    "sightline_predictor_kept_models", MetricKind.GAUGE, "Models that LoadModel keeps in memory."
)
CAPACITY_BYTES = Metric(  # How full is it?
    "sightline_predictor_capacity_bytes", MetricKind.GAUGE, "Memory limit for models, in bytes."
)
LOADED_BYTES = Metric(  # How much of it is used?
    "sightline_predictor_loaded_bytes", MetricKind.GAUGE, "Memory used by models, in bytes."
)

FEEDBACK_IMAGES = Metric(  # Are enough images kept, and what keeps others from it?
    "sightline_predictor_feedback_images_total",
    MetricKind.COUNTER,
    "Images chosen to be kept for labelling, by what became of them: kept, repeated, limit, full or failed.",
    labels=("result",),
    values=(tuple(FeedbackResult),),
)

ALL = (
    *(*STORE, *decode_metrics.ALL, STAGE_SECONDS, BATCH_SIZE, QUEUE_LENGTH, DROPPED),
    *(CACHE_REQUESTS, CACHE_EVICTIONS, LOAD_SECONDS, LOAD_FAILURES, LOADED_MODELS, KEPT_MODELS),
    *(CAPACITY_BYTES, LOADED_BYTES, FEEDBACK_IMAGES, BUNDLE_SIGNATURES),
)
