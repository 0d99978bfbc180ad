"""How the command line reads and writes names, durations and numbers."""

import re
from datetime import datetime, timedelta

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from sightline.v1 import performance_pb2

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str) -> timedelta:
    """`90s`, `10m`, `1h30m` or `1.5h` as a time; typer.BadParameter for anything else."""
    match = _DURATION.fullmatch(text.strip().lower())
    if not text.strip() or match is None:
        raise typer.BadParameter(f"'{text}' is not a duration; write it as 90s, 10m or 1h30m.")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def duration(value: Duration | float) -> str:
    """A length of time for people: `8.4s`, `1m30s`, `2h05m`."""
    seconds = value.ToTimedelta().total_seconds() if isinstance(value, Duration) else value
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


def moment(value: Timestamp) -> str:
    """A point in time, in the zone of this machine; nothing if it is not set."""
    if not value.seconds:
        return ""
    return datetime.fromtimestamp(value.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def full_name(collection: str, name: str) -> str:
    """`birds` as `datasets/birds`; a name that is full already stays as it is."""
    return name if name.startswith(f"{collection}/") else f"{collection}/{name}"


def own_id(collection: str, name: str) -> str:
    """The id that a new resource is asked for by, as typed: whether it is one, the service says."""
    return name.removeprefix(f"{collection}/")


def bare_name(name: str) -> str:
    """The last part of a resource name."""
    return name.rpartition("/")[2]


def size(size_bytes: int) -> str:
    """Bytes for people: `812 KB`, `1.4 GB`."""
    value = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def percent(fraction: float) -> str:
    """`0.9712` as `97.1 %`."""
    return f"{100 * fraction:.1f} %"


METRICS = {
    "accuracy_top1": "top-1 accuracy",
    "accuracy_top5": "top-5 accuracy",
    "average_precision": "average precision",
    "calibration_ece": "calibration error",
    "mean_average_precision_30": "mAP at IoU 0.30",
    "mean_average_precision_50": "mAP at IoU 0.50",
    "mean_average_precision_75": "mAP at IoU 0.75",
}
SOURCES = {
    performance_pb2.ModelPerformance.TEST_DATASET: "the test dataset",
    performance_pb2.ModelPerformance.HOLD_OUT: "training images that were set aside",
    performance_pb2.ModelPerformance.CROSS_VALIDATION: "cross-validation, as the images are few",
}


def metric_lines(performance: performance_pb2.ModelPerformance) -> list[tuple[str, str]]:
    """Every metric that is present, with its interval: `("top-1 accuracy", "97.1 %  (95.0 % to 98.4 %)")`."""
    lines: list[tuple[str, str]] = []
    for field, title in METRICS.items():
        if performance.HasField(field):  # pyright: ignore[reportArgumentType]
            text = percent(getattr(performance, field))
            if field in performance.intervals:
                interval = performance.intervals[field]
                text += f"  ({percent(interval.low)} to {percent(interval.high)} at {100 * interval.level:.0f} %)"
            lines.append((title, text))
    return lines


def metric_name(field: str) -> str:
    """A metric's field name as people say it."""
    return METRICS.get(field, field.replace("_", " "))


def worst_tags(
    performance: performance_pb2.ModelPerformance, count: int
) -> list[tuple[str, performance_pb2.TagPerformance]]:
    """The categories that the model does worst, at most so many."""

    def quality(item: tuple[str, performance_pb2.TagPerformance]) -> tuple[float, float]:
        tag = item[1]
        return (tag.accuracy if tag.HasField("accuracy") else tag.average_precision_50, tag.average_precision_50)

    measured = [item for item in performance.tag_performance.items() if item[1].support]
    return sorted(measured, key=quality)[:count]


def worst_confusions(performance: performance_pb2.ModelPerformance, count: int) -> list[str]:
    """What is most often taken for what, as `12 × cat taken for dog`."""
    matrix = performance.confusion_matrix
    wrong = sorted((e for e in matrix.entries if e.row != e.col), key=lambda entry: -entry.count)[:count]
    return [f"{e.count} × {matrix.categories[e.row]} taken for {matrix.categories[e.col]}" for e in wrong]
