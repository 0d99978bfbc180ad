"""The metrics of batch predictions, each with the question that it answers."""

from enum import StrEnum

from services.kit.consume import DEAD_LETTERS, JOBS, QUEUED, RUNNING
from services.kit.metered import NATS
from services.kit.telemetry import Metric, MetricKind
from services.predictor import metrics
from services.predictor.batch.states import ENDED, State


class Outcome(StrEnum):
    """What became of an image of a batch prediction."""

    DONE = "done"
    FAILED = "failed"


# Gauges of the replicas cover the whole suite; all report the same. What is waiting, and for too long?
BATCHES = Metric(
    "sightline_batch_predictions",
    MetricKind.GAUGE,
    "Number of batch predictions, by state.",
    ("state",),
    values=(tuple(State),),
)
STALLED = Metric(
    "sightline_batch_prediction_stalled_seconds",
    MetricKind.GAUGE,
    "Longest time since the last progress of a batch prediction that has not ended; 0 if there is none.",
)
BATCHES_ENDED = Metric(  # How do they end?
    "sightline_batch_predictions_ended_total",
    MetricKind.COUNTER,
    "Batch predictions that ended.",
    ("state",),
    values=(tuple(sorted(ENDED)),),
)
IMAGES = Metric(  # How fast do the workers predict, and how many images are bad?
    "sightline_batch_prediction_images_total",
    MetricKind.COUNTER,
    "Images of batch predictions, in finished chunks.",
    ("outcome",),
    values=(tuple(Outcome),),
)
IN_FLIGHT = Metric(
    "sightline_batch_prediction_images_in_flight", MetricKind.GAUGE, "Images that the worker is predicting."
)
CHUNK_SECONDS = Metric(  # Are chunks small enough that repeating one after a worker dies is cheap?
    "sightline_batch_prediction_chunk_seconds",
    MetricKind.HISTOGRAM,
    "Time to predict one chunk of images.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)

API = (*metrics.ALL, *NATS, QUEUED, BATCHES, STALLED)
WORKER = (*metrics.ALL, *NATS, JOBS, RUNNING, DEAD_LETTERS, BATCHES_ENDED, IMAGES, IN_FLIGHT, CHUNK_SECONDS)
