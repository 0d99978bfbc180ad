"""Prints how good a model is: its metrics, its worst categories, and what it confuses."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.markup import escape

from sightline.cli.console import facts, output, table
from sightline.cli.formats import percent, visible
from sightline.client.progress import METRICS
from sightline.client.results.kinds import Source
from sightline.client.results.performance import CategoryPerformance, Confusion, Performance
from sightline.plurals import counted

Tags = Sequence[tuple[str, CategoryPerformance]]

SHOWN_TAGS = 10
SHOWN_CONFUSIONS = 5

MAIN = ("accuracy_top1", "mean_average_precision_50")  # the main metric of a classifier, and that of a detector
SOURCES = {
    Source.TEST_DATASET: "the test dataset",
    Source.HOLD_OUT: "held-out training images",
    Source.CROSS_VALIDATION: "cross-validation, as there are few images",
}
# A row's figures are all for one decision: a classifier's highest score, or a detector's suggested threshold.
CLASSIFIER_COLUMNS = ("RECALL", "PRECISION", "F1")
DECISION = "an image is assigned the category with the highest confidence"
DETECTOR_COLUMNS = {  # the field of CategoryPerformance, and its title
    "average_precision_50": "AP AT IOU 0.50",
    "precision": "PRECISION",
    "recall": "RECALL",
    "f1": "F1",
    "suggested_threshold": "AT THRESHOLD",
}


def print_performance(performance: Performance) -> None:
    """Prints all of it."""
    console = output()
    source = SOURCES.get(performance.source, "")
    style = "bold yellow" if _left_out(performance) else "none"
    console.print(f"\n[bold]Quality[/] on [{style}]{measured_on(performance)}[/]: {source}")
    console.print(facts(metric_lines(performance)))
    if worst := worst_tags(performance, SHOWN_TAGS):
        title = "CATEGORY" if len(worst) == len(performance.categories) else "WORST CATEGORIES"
        figures, lines = category_figures(performance, worst)
        rows = table(title, *figures, right=figures)
        for line in lines:
            rows.add_row(*map(escape, line))
        console.print(rows)
    if confused := worst_confusions(performance, SHOWN_CONFUSIONS):
        console.print(facts([("decision", DECISION), ("most confused", escape("; ".join(confused)))]))


def print_calibration(performance: Performance) -> None:
    """How many predictions are right, by confidence."""
    if not performance.calibration:
        return
    what = "images" if performance.mean_average_precision_50 is None else "detections"
    output().print(f"[bold]Calibration[/]: how many {what} are right, by confidence")
    rows = table("CONFIDENCE", "RIGHT", what.upper(), right=("CONFIDENCE", "RIGHT", what.upper()))
    for one in performance.calibration:
        limits = f"  ({percent(one.interval.low)} to {percent(one.interval.high)})" if one.interval else ""
        rows.add_row(percent(one.mean_confidence), percent(one.accuracy) + limits, f"{one.count:,}")
    output().print(rows)


def metric_lines(performance: Performance) -> list[tuple[str, str]]:
    """Every metric that is present, with its interval: `("top-1 accuracy", "97.1 %  (95.0 % to 98.4 %)")`."""
    lines: list[tuple[str, str]] = []
    for field, title in METRICS.items():
        if (value := getattr(performance, field)) is not None:
            text = percent(value)
            if field in performance.intervals:
                interval = performance.intervals[field]
                text += f"  ({percent(interval.low)} to {percent(interval.high)} at {100 * interval.level:.0f} %)"
            lines.append((title, text))
    return lines


def main_metric(performance: Performance) -> str:
    """`97.1 % top-1 accuracy`, and on which part of the test dataset unless on all; "" if nothing was measured."""
    for field in MAIN:
        if (value := getattr(performance, field)) is not None:
            part = f" on {measured_on(performance)}" if _left_out(performance) else ""
            return f"{percent(value)} {METRICS[field]}{part}"
    return ""


def measured_on(performance: Performance) -> str:
    """`24 images`, or `20 of 24 images` if some were left out, or `24 images and 7 of 9 regions`."""
    measured, coverage = performance.image_count, performance.coverage
    given = max(measured, coverage.image_count if coverage else 0)
    images = f"{measured} of {counted(given, 'image')}" if given > measured else counted(measured, "image")
    if not coverage or not coverage.unknown_region_count:
        return images
    regions = coverage.region_count - coverage.unknown_region_count
    return f"{images} and {regions} of {counted(coverage.region_count, 'region')}"


def worst_tags(performance: Performance, count: int) -> list[tuple[str, CategoryPerformance]]:
    """The model's worst categories, at most `count`."""

    def quality(item: tuple[str, CategoryPerformance]) -> tuple[float, float]:
        precision = item[1].average_precision_50 or 0.0
        accuracy = item[1].accuracy
        return (precision if accuracy is None else accuracy, precision)

    measured = [item for item in performance.categories.items() if item[1].support]
    return sorted(measured, key=quality)[:count]


def category_figures(performance: Performance, tags: Tags) -> tuple[tuple[str, ...], list[list[str]]]:
    """What is known of these categories: the titles of the figures, and of each category its name and the figures."""
    if performance.mean_average_precision_50 is not None:
        return ("BOXES", *DETECTOR_COLUMNS.values()), list(_detected(tags))
    return ("IMAGES", *CLASSIFIER_COLUMNS), list(_decided(tags, performance.confusion))


def worst_confusions(performance: Performance, count: int) -> list[str]:
    """The most frequent confusions, at most `count`: `12 × cat taken for dog`."""
    wrong = sorted(
        (pair for pair in performance.confusion if pair.true != pair.predicted), key=lambda pair: -pair.count
    )
    return [f"{pair.count} × {visible(pair.true)} taken for {visible(pair.predicted)}" for pair in wrong[:count]]


def _left_out(performance: Performance) -> bool:
    coverage = performance.coverage
    return bool(coverage) and (coverage.image_count > performance.image_count or coverage.unknown_region_count > 0)


def _decided(tags: Tags, pairs: tuple[Confusion, ...]) -> Iterator[list[str]]:
    """A classifier's categories, all figures at top 1; precision and F1 only if there is a confusion matrix.

    CategoryPerformance has precision, recall and F1 at the suggested threshold, which would contradict the recall at
    top 1.
    """
    right, taken = Counter[str](), Counter[str]()
    for pair in pairs:
        taken[pair.predicted] += pair.count
        right[pair.predicted] += pair.count if pair.true == pair.predicted else 0
    for name, tag in tags:
        cells = ["" if tag.accuracy is None else percent(tag.accuracy), "", ""]
        if pairs:
            cells[1] = percent(right[name] / taken[name]) if taken[name] else ""
            cells[2] = percent(2 * right[name] / (tag.support + taken[name]))
        yield [visible(name), str(tag.support), *cells]


def _detected(tags: Tags) -> Iterator[list[str]]:
    """A detector's categories."""
    for name, tag in tags:
        values = [getattr(tag, field) for field in DETECTOR_COLUMNS]
        yield [visible(name), str(tag.support), *("" if value is None else percent(value) for value in values)]
