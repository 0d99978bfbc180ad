"""The metrics of decoding in child processes."""

from enum import StrEnum

from services.kit.telemetry import Metric, MetricKind


class Outcome(StrEnum):
    """How the decoding of an image ended."""

    DECODED = "decoded"
    REFUSED = "refused"  # by its content, its cost or a limit
    ABANDONED = "abandoned"  # the caller is gone, or something else failed


class Kill(StrEnum):
    """Why a process that decoded was ended."""

    CANCELLED = "cancelled"  # the caller is gone
    CPU = "cpu"
    WALL = "wall"
    CRASHED = "crashed"


# How many images are decoded, and how many cannot be?
DECODES = Metric(
    "sightline_decodes_total",
    MetricKind.COUNTER,
    "Images given to the processes that decode, by outcome.",
    ("outcome",),
    values=(tuple(Outcome),),
)
# Does somebody send images that exceed the limits, or do limits not fit the images?
KILLS = Metric(
    "sightline_decode_kills_total",
    MetricKind.COUNTER,
    "Processes that ended while decoding an image, by reason.",
    ("reason",),
    values=(tuple(Kill),),
)
# Are there too few processes, or too few bytes, for the load?
WAITING = Metric("sightline_decodes_waiting", MetricKind.GAUGE, "Images that wait for their turn to be decoded.")
ADMITTED = Metric(
    "sightline_decode_admitted_bytes",
    MetricKind.GAUGE,
    "Estimated memory of the large images that are being decoded, in bytes.",
)

ALL = (DECODES, KILLS, WAITING, ADMITTED)
