"""What the trainer counts, each with its reason."""

from services.kit.telemetry import Metric, MetricKind

ATTEMPTS = Metric(
    "sightline_trainer_attempts_total",
    MetricKind.COUNTER,
    "Attempts at trials and evaluations by how they ended: shows workers that die and trainings that fail.",
    ("kind", "result"),
)
COMPUTE_SECONDS = Metric(
    "sightline_trainer_compute_seconds_total",
    MetricKind.COUNTER,
    "Compute by whether a budget pays for it: the uncharged share is what crashes cost.",
    ("charged",),
)
LEASES_LOST = Metric(
    "sightline_trainer_leases_lost_total",
    MetricKind.COUNTER,
    "Attempts that were taken over while they ran: shows workers that stall.",
)
