"""How good a model is, for people: its metrics, the categories that it does worst, what it confuses."""

from collections import Counter

from rich.markup import escape
from rich.table import Table

from sightline.cli.console import facts, output, table
from sightline.cli.formats import percent, visible
from sightline.client.plurals import counted
from sightline.v1.performance_pb2 import ConfusionMatrix, ModelPerformance, TagPerformance

SHOWN_TAGS = 10
SHOWN_CONFUSIONS = 5

METRICS = {
    "accuracy_top1": "top-1 accuracy",
    "accuracy_top5": "top-5 accuracy",
    "average_precision": "average precision",
    "calibration_ece": "calibration error",
    "mean_average_precision_30": "mAP at IoU 0.30",
    "mean_average_precision_50": "mAP at IoU 0.50",
    "mean_average_precision_75": "mAP at IoU 0.75",
}
MAIN = ("accuracy_top1", "mean_average_precision_50")  # the one number of a classifier, and that of a detector
SOURCES = {
    ModelPerformance.TEST_DATASET: "the test dataset",
    ModelPerformance.HOLD_OUT: "training images that were set aside",
    ModelPerformance.CROSS_VALIDATION: "cross-validation, as the images are few",
}
# A row holds figures of one decision only: a classifier's highest score, or a detector's suggested threshold.
CLASSIFIER_COLUMNS = ("RECALL", "PRECISION", "F1")
DECISION = "an image counts as the category with the highest confidence"
DETECTOR_COLUMNS = {  # the field of TagPerformance, and what it is called
    "average_precision_50": "AP AT IOU 0.50",
    "precision": "PRECISION",
    "recall": "RECALL",
    "f1": "F1",
    "suggested_threshold": "AT THRESHOLD",
}


def print_performance(performance: ModelPerformance) -> None:
    """All of it."""
    console = output()
    source = SOURCES.get(performance.source, "")
    style = "bold yellow" if _left_out(performance) else "none"
    console.print(f"\n[bold]Quality[/] on [{style}]{measured_on(performance)}[/]: {source}")
    console.print(facts(metric_lines(performance)))
    if worst := worst_tags(performance, SHOWN_TAGS):
        title = "CATEGORY" if len(worst) == len(performance.tag_performance) else "WORST CATEGORIES"
        detects = performance.HasField("mean_average_precision_50")
        console.print(_detected(worst, title) if detects else _decided(worst, title, performance.confusion_matrix))
    if confused := worst_confusions(performance, SHOWN_CONFUSIONS):
        console.print(facts([("decision", DECISION), ("most confused", escape("; ".join(confused)))]))


def metric_lines(performance: ModelPerformance) -> list[tuple[str, str]]:
    """Every metric that is present, with its interval: `("top-1 accuracy", "97.1 %  (95.0 % to 98.4 %)")`."""
    lines: list[tuple[str, str]] = []
    for field, title in METRICS.items():
        if performance.HasField(field):  # pyright: ignore[reportArgumentType] - a str, not a literal
            text = percent(getattr(performance, field))
            if field in performance.intervals:
                interval = performance.intervals[field]
                text += f"  ({percent(interval.low)} to {percent(interval.high)} at {100 * interval.level:.0f} %)"
            lines.append((title, text))
    return lines


def main_metric(performance: ModelPerformance) -> str:
    """`97.1 % top-1 accuracy`, and on how much of the test dataset unless it is all; "" where nothing was measured."""
    for field in MAIN:
        if performance.HasField(field):
            part = f" on {measured_on(performance)}" if _left_out(performance) else ""
            return f"{percent(getattr(performance, field))} {METRICS[field]}{part}"
    return ""


def measured_on(performance: ModelPerformance) -> str:
    """`24 images`, `20 of 24 images` where some were left out, `24 images and 7 of 9 regions`."""
    measured, coverage = performance.image_count, performance.coverage
    given = max(measured, coverage.image_count)
    images = f"{measured} of {given} images" if given > measured else counted(measured, "image")
    if not coverage.unknown_region_count:
        return images
    regions = coverage.region_count - coverage.unknown_region_count
    return f"{images} and {regions} of {counted(coverage.region_count, 'region')}"


def metric_name(field: str) -> str:
    """A metric's field name as people say it."""
    return METRICS.get(field, field.replace("_", " "))


def worst_tags(performance: ModelPerformance, count: int) -> list[tuple[str, TagPerformance]]:
    """The categories that the model does worst, at most so many."""

    def quality(item: tuple[str, TagPerformance]) -> tuple[float, float]:
        tag = item[1]
        return (tag.accuracy if tag.HasField("accuracy") else tag.average_precision_50, tag.average_precision_50)

    measured = [item for item in performance.tag_performance.items() if item[1].support]
    return sorted(measured, key=quality)[:count]


def worst_confusions(performance: ModelPerformance, count: int) -> list[str]:
    """What is most often taken for what, as `12 × cat taken for dog`."""
    matrix = performance.confusion_matrix
    wrong = sorted((e for e in matrix.entries if e.row != e.col), key=lambda entry: -entry.count)[:count]
    names = [visible(name) for name in matrix.categories]
    return [f"{e.count} × {names[e.row]} taken for {names[e.col]}" for e in wrong]


def _left_out(performance: ModelPerformance) -> bool:
    coverage = performance.coverage
    return coverage.image_count > performance.image_count or coverage.unknown_region_count > 0


def _decided(tags: list[tuple[str, TagPerformance]], title: str, matrix: ConfusionMatrix) -> Table:
    """A classifier's categories, all figures at top 1; precision and F1 only where there is a confusion matrix.

    TagPerformance has precision, recall and F1 at the suggested threshold, which beside the recall at top 1 would
    contradict it.
    """
    right, taken = Counter[str](), Counter[str]()
    for entry in matrix.entries:
        name = matrix.categories[entry.col]
        taken[name] += entry.count
        right[name] += entry.count if entry.row == entry.col else 0
    rows = table(title, "IMAGES", *CLASSIFIER_COLUMNS, right=("IMAGES", *CLASSIFIER_COLUMNS))
    for name, tag in tags:
        cells = [percent(tag.accuracy) if tag.HasField("accuracy") else ""]
        if matrix.entries:
            cells.append(percent(right[name] / taken[name]) if taken[name] else "")
            cells.append(percent(2 * right[name] / (tag.support + taken[name])))
        rows.add_row(escape(visible(name)), str(tag.support), *cells)
    return rows


def _detected(tags: list[tuple[str, TagPerformance]], title: str) -> Table:
    """A detector's categories."""
    rows = table(title, "BOXES", *DETECTOR_COLUMNS.values(), right=("BOXES", *DETECTOR_COLUMNS.values()))
    for name, tag in tags:
        cells = [
            percent(getattr(tag, field)) if tag.HasField(field) else ""  # pyright: ignore[reportArgumentType] - as above
            for field in DETECTOR_COLUMNS
        ]
        rows.add_row(escape(visible(name)), str(tag.support), *cells)
    return rows
