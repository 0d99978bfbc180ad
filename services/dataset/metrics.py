"""What the dataset service measures, each with its reason."""

from services.kit.telemetry import Metric, MetricKind

# Are datasets getting through, and how do they end?
VALIDATED = Metric("sightline_datasets_validated_total", MetricKind.COUNTER, "Validations that ended.", ("state",))
# How fast do the workers read, and how much of it is bad?
IMAGES = Metric("sightline_dataset_images_checked_total", MetricKind.COUNTER, "Images checked.", ("outcome",))
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
