"""What the dataset service measures, each with its reason."""

from services.dataset.domain import State
from services.kit.consume import DEAD_LETTERS, JOBS, QUEUED, RUNNING
from services.kit.measured import NATS, STORE
from services.kit.telemetry import Metric, MetricKind

# Gauges of the api are of the whole suite; its replicas say the same. What waits, and does it wait too long?
DATASETS = Metric(
    "sightline_datasets", MetricKind.GAUGE, "Datasets that there are, by state.", ("state",), values=(tuple(State),)
)
OLDEST = Metric(
    "sightline_dataset_oldest_seconds",
    MetricKind.GAUGE,
    "How long ago the dataset was created that has been VALIDATING for longest; 0 if there is none.",
)
STALLED = Metric(
    "sightline_dataset_stalled_seconds",
    MetricKind.GAUGE,
    "For how long nothing has happened to the VALIDATING dataset that has stood still for longest; 0 if there is none.",
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
    values=(("accepted", "refused"),),
)
# Is a chunk small enough to be repeated without regret when a worker dies?
CHUNK_SECONDS = Metric(
    "sightline_dataset_chunk_seconds",
    MetricKind.HISTOGRAM,
    "Time to check one chunk of images.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
# How much comes in through UploadFiles rather than straight into the store?
UPLOADED = Metric("sightline_dataset_uploaded_bytes_total", MetricKind.COUNTER, "Bytes stored by UploadFiles.")
# Is work being lost? More than a handful an hour means that workers die or the queue loses jobs.
REPUBLISHED = Metric(
    "sightline_dataset_jobs_republished_total", MetricKind.COUNTER, "Jobs that the reconciler published again."
)
# Do workers stall for longer than their leases?
LEASES_LOST = Metric(
    "sightline_dataset_leases_lost_total", MetricKind.COUNTER, "Datasets that were taken over while a worker held them."
)

API = (*STORE, *NATS, QUEUED, DATASETS, OLDEST, STALLED, UPLOADED, REPUBLISHED)
WORKER = (*STORE, *NATS, JOBS, RUNNING, DEAD_LETTERS, VALIDATED, IMAGES, CHUNK_SECONDS, LEASES_LOST)
