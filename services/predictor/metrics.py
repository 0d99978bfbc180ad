"""What the predictor measures, each with the question that it answers."""

from services.kit.measured import STORE
from services.kit.telemetry import Metric, MetricKind

STAGE_SECONDS = Metric(  # Where does the time of a slow prediction go?
    "sightline_predictor_stage_seconds",
    MetricKind.HISTOGRAM,
    "Time in each stage of a prediction: decode, preprocess, queue, forward (of its batch), postprocess.",
    labels=("stage",),
    values=(("decode", "preprocess", "queue", "forward", "postprocess"),),
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
BATCH_SIZE = Metric(  # Does batching happen, and is the limit reached?
    "sightline_predictor_batch_images",
    MetricKind.HISTOGRAM,
    "Images in one forward pass.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
QUEUE_LENGTH = Metric(  # Is it time for another replica?
    "sightline_predictor_queue_images", MetricKind.GAUGE, "Images that wait for a forward pass."
)
DROPPED = Metric(  # Do callers give up, or is the replica refusing?
    "sightline_predictor_dropped_images_total",
    MetricKind.COUNTER,
    "Images without an answer: too late (deadline passed or caller gone) or refused (queue full).",
    labels=("reason",),
    values=(("late", "full"),),
)
CACHE_REQUESTS = Metric(  # How often does a caller wait for a load?
    "sightline_predictor_cache_requests_total",
    MetricKind.COUNTER,
    "Uses of a model by whether it was in memory: hit, joined (being loaded already) or miss.",
    labels=("result",),
    values=(("hit", "joined", "miss"),),
)
CACHE_EVICTIONS = Metric(  # Is the cache too small?
    "sightline_predictor_cache_evictions_total",
    MetricKind.COUNTER,
    "Models that left memory: capacity, replaced (a newer bundle), deleted or unloaded.",
    labels=("reason",),
    values=(("capacity", "replaced", "deleted", "unloaded"),),
)
LOAD_SECONDS = Metric(  # How slow is a cold first prediction?
    "sightline_predictor_load_seconds",
    MetricKind.HISTOGRAM,
    "Time to fetch, check, load and warm a model.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
LOAD_FAILURES = Metric(  # Is a bundle or the store broken?
    "sightline_predictor_load_failures_total", MetricKind.COUNTER, "Loads of a model that failed."
)
LOADED_MODELS = Metric(  # How many models share the memory?
    "sightline_predictor_loaded_models", MetricKind.GAUGE, "Models in memory, or being loaded."
)
CAPACITY_BYTES = Metric(  # How full is it?
    "sightline_predictor_capacity_bytes", MetricKind.GAUGE, "Bytes that models may take in memory."
)
LOADED_BYTES = Metric(  # What of the memory is taken?
    "sightline_predictor_loaded_bytes", MetricKind.GAUGE, "Bytes of the models in memory."
)

ALL = (
    *(*STORE, STAGE_SECONDS, BATCH_SIZE, QUEUE_LENGTH, DROPPED),
    *(CACHE_REQUESTS, CACHE_EVICTIONS, LOAD_SECONDS, LOAD_FAILURES, LOADED_MODELS, CAPACITY_BYTES, LOADED_BYTES),
)
