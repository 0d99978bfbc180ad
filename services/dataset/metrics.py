"""The metrics of the dataset service, each with its reason."""

from enum import StrEnum

from services.dataset.domain import State
from services.kit.consume import DEAD_LETTERS, JOBS, QUEUED, RUNNING
from services.kit.metered import NATS, STORE
from services.kit.telemetry import Metric, MetricKind
from services.vision import decode_metrics


class Outcome(StrEnum):
    """What became of a checked image."""

    ACCEPTED = "accepted"
    REFUSED = "refused"


# The api's gauges cover the whole suite; all replicas report the same. What is waiting, and for too long?
DATASETS = Metric(
    "sightline_datasets", MetricKind.GAUGE, "Number of datasets, by state.", ("state",), values=(tuple(State),)
)
OLDEST = Metric(
    "sightline_dataset_oldest_seconds",
    MetricKind.GAUGE,
    "Age of the oldest VALIDATING dataset; 0 if there is none.",
)
STALLED = Metric(
    "sightline_dataset_stalled_seconds",
    MetricKind.GAUGE,
    "Longest time since the last progress of a VALIDATING dataset; 0 if there is none.",
)
# Are datasets getting through, and how do they end?
VALIDATED = Metric(
    "sightline_datasets_validated_total",
    MetricKind.COUNTER,
    "Validations that ended.",
    ("state",),
    values=((State.READY, State.FAILED),),
)
# How fast do the workers read, and how much of it is bad?
IMAGES = Metric(
    "sightline_dataset_images_checked_total",
    MetricKind.COUNTER,
    "Images checked.",
    ("outcome",),
    values=(tuple(Outcome),),
)
# Are chunks small enough that repeating one after a worker dies is cheap?
CHUNK_SECONDS = Metric(
    "sightline_dataset_chunk_seconds",
    MetricKind.HISTOGRAM,
    "Time to check one chunk of images.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
# How much is uploaded through UploadFiles rather than directly to the store?
UPLOADED = Metric("sightline_dataset_uploaded_bytes_total", MetricKind.COUNTER, "Bytes stored by UploadFiles.")
# Is work being lost? More than a few per hour mean that workers die or the queue loses jobs.
REPUBLISHED = Metric(
    "sightline_dataset_jobs_republished_total", MetricKind.COUNTER, "Jobs that the reconciler published again."
)
# Do workers stall for longer than their leases?
LEASES_LOST = Metric(
    "sightline_dataset_leases_lost_total", MetricKind.COUNTER, "Leases on datasets that workers lost while working."
)

# Does anybody wonder where an upload has gone?
EXPIRED = Metric(
    "sightline_dataset_uploads_expired_total", MetricKind.COUNTER, "Uploads removed because no dataset named them."
)

API = (*STORE, *NATS, QUEUED, DATASETS, OLDEST, STALLED, UPLOADED, EXPIRED, REPUBLISHED)
WORKER = (
    *STORE,
    *NATS,
    *decode_metrics.ALL,
    JOBS,
    RUNNING,
    DEAD_LETTERS,
    VALIDATED,
    IMAGES,
    CHUNK_SECONDS,
    LEASES_LOST,
)
