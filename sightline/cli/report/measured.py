"""What was measured of a model, as sections of its report."""

from collections.abc import Iterable

from sightline.cli.formats import visible
from sightline.cli.quality import (
    DECISION,
    SOURCES,
    category_figures,
    measured_on,
    metric_lines,
    worst_confusions,
    worst_tags,
)
from sightline.client.progress import metric_name
from sightline.client.results.insight import LearningCurve
from sightline.client.results.performance import CalibrationBin, Performance
from sightline.pages.charts import confusion_matrix
from sightline.pages.curves import Axes, Line, Measured, Reliable, learning_curve, reliability, unit_square
from sightline.pages.layout import facts, section, table
from sightline.pages.markup import Markup, tag
from sightline.text import shown

SHOWN_CATEGORIES, SHOWN_CONFUSIONS = 200, 20
MATRIX_CATEGORIES = 25
SHOWN_CURVES = 8  # as many as there are colours


def quality(performance: Performance, warnings: tuple[str, ...]) -> Markup:
    """The metrics with their intervals, and which images they were measured on."""
    if not (lines := metric_lines(performance)):
        return Markup()
    source = SOURCES.get(performance.source, "")
    measured = f"Measured on {measured_on(performance)}" + (f": {source}." if source else ".")
    notes = [tag("p", shown(warning), class_="WARNING") for warning in warnings]
    return section("Quality", tag("p", measured), facts(lines), *notes)


def categories(performance: Performance) -> Markup:
    """A table of the categories, the worst first."""
    worst = worst_tags(performance, SHOWN_CATEGORIES)
    if not worst:
        return Markup()
    titles, rows = category_figures(performance, worst)
    total = len(performance.categories)
    which = f"The worst {len(worst)} of {total}." if len(worst) < total else "The worst first."
    decided = "" if performance.mean_average_precision_50 is not None else f" Decision: {DECISION}."
    heads = ("category", *(title.lower().replace("iou", "IoU").replace("ap at", "AP at") for title in titles))
    return section("Categories", tag("p", which + decided), table(heads, rows, numbers=len(titles)))


def confusion(performance: Performance) -> Markup:
    """The confusion matrix if it is small, and the most frequent confusions."""
    matrix = performance.message.confusion_matrix
    if not matrix.entries:
        return Markup()
    names, counts = list(matrix.categories), {(entry.row, entry.col): entry.count for entry in matrix.entries}
    drawn: list[Markup] = []
    if len(names) <= MATRIX_CATEGORIES:
        hint = tag("p", "Rows are what images are labelled, columns what they were taken for.", class_="quiet")
        drawn = [hint, tag("div", confusion_matrix([visible(name) for name in names], counts), class_="scroll")]
    worst = [tag("li", shown(text)) for text in worst_confusions(performance, SHOWN_CONFUSIONS)]
    return section("Confusion", *drawn, tag("ul", *worst) if worst else tag("p", "Nothing is confused."))


def curves(performance: Performance) -> Markup:
    """Precision against recall, and precision by score, of the worst categories."""
    found = performance.message.precision_recall_curves
    worst = (name for name, _ in worst_tags(performance, len(performance.categories)))
    if not (names := [name for name in worst if name in found and found[name].thresholds][:SHOWN_CURVES]):
        return Markup()
    of_recall = {name: _line(found[name].recalls, found[name].precisions) for name in names}
    of_score = {name: _line(found[name].thresholds, found[name].precisions) for name in names}
    which = "" if len(names) == len(performance.categories) else f"Of the {len(names)} worst categories."
    drawn = (
        unit_square(of_recall, Axes("recall", "precision", "precision by recall")),
        unit_square(of_score, Axes("least score", "precision", "precision by score")),
    )
    return section("Precision and recall", tag("div", *drawn, class_="charts"), tag("p", which, class_="quiet"))


def _line(across: Iterable[float], up: Iterable[float]) -> Line:
    return list(zip(across, up, strict=True))


def calibration(performance: Performance) -> Markup:
    """What confidences are worth: the error, and how many predictions of each confidence are right."""
    error, classifies = performance.calibration_ece, performance.mean_average_precision_50 is None
    if not performance.calibration and error is None:
        return Markup()
    says = "" if error is None else f"Confidences are off by {100 * error:.1f} points on average. "
    hint = "Below the dashed line, confidences promise more than they keep; above it, they are too modest."
    of = "images" if classifies else "detections (right if they find a region at IoU 0.50)"
    drawing = reliability(
        [reliable(one) for one in performance.calibration],
        Axes("confidence", "right", f"how many {of} are right, by confidence"),
        "confidence {confidence}: {accuracy} of {count} right",
    )
    counted = f"A dot stands for {of} of similar confidence, and is larger for more of them." if drawing else ""
    notes = [tag("p", text, class_="quiet") for text in (says + (hint if drawing else ""), counted) if text]
    return section("Calibration", drawing, *notes)


def reliable(one: CalibrationBin) -> Reliable:
    """A bin as it is drawn; without an interval, only its value."""
    low, high = (one.interval.low, one.interval.high) if one.interval else (one.accuracy, one.accuracy)
    return Reliable(one.mean_confidence, one.accuracy, one.count, low, high)


def learning(curve: LearningCurve | None, unavailable: str) -> Markup:
    """The learning curve, or why there is none."""
    if curve is None:
        return section("Learning curve", tag("p", shown(unavailable))) if unavailable else Markup()
    a, b, c = curve.law
    points = [Measured(one.images_per_category, one.value, one.interval.low, one.interval.high) for one in curve.points]
    law = (lambda images: a - b * images**-c) if b else None
    metric = metric_name(curve.metric)
    drawing = learning_curve(points, law, Axes("images of each category", metric, f"{metric} by images"))
    return section("Learning curve", drawing) if drawing else Markup()
