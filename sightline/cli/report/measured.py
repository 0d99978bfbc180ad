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
from sightline.client.results.performance import Performance
from sightline.pages.curves import Line, Measured, learning_curve, unit_square
from sightline.pages.layout import facts, section, table
from sightline.pages.markup import Markup, tag
from sightline.text import shown

SHOWN_CATEGORIES, SHOWN_CONFUSIONS = 200, 20
MATRIX_CATEGORIES = 25
SHOWN_CURVES = 8  # as many as there are colours
_RIGHT, _WRONG = "#3b82c4", "#c0362c"


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
    drawn = _matrix(names, counts) if len(names) <= MATRIX_CATEGORIES else Markup()
    worst = [tag("li", shown(text)) for text in worst_confusions(performance, SHOWN_CONFUSIONS)]
    return section("Confusion", drawn, tag("ul", *worst) if worst else tag("p", "Nothing is confused."))


def _matrix(names: list[str], counts: dict[tuple[int, int], int]) -> Markup:
    heads = (tag("th", tag("span", shown(visible(name)))) for name in names)
    rows: list[Markup] = []
    for row, name in enumerate(names):
        total = sum(counts.get((row, col), 0) for col in range(len(names))) or 1
        cells: list[Markup] = []
        for col in range(len(names)):
            count = counts.get((row, col), 0)
            colour, share = _RIGHT if row == col else _WRONG, round(60 * count / total)
            style = f"background: color-mix(in srgb, {colour} {share}%, transparent)"
            cells.append(tag("td", str(count), style=style) if count else tag("td"))
        rows.append(tag("tr", tag("th", shown(visible(name))), *cells))
    grid = tag("table", tag("thead", tag("tr", tag("td"), *heads)), tag("tbody", *rows), class_="matrix")
    hint = tag("p", "Rows are what images are labelled, columns what they were taken for.", class_="quiet")
    return Markup(hint + tag("div", grid, class_="scroll"))


def curves(performance: Performance) -> Markup:
    """Precision against recall, and precision by score, of the worst categories."""
    found = performance.message.precision_recall_curves
    worst = (name for name, _ in worst_tags(performance, len(performance.categories)))
    if not (names := [name for name in worst if name in found and found[name].thresholds][:SHOWN_CURVES]):
        return Markup()
    of_recall = {name: _line(found[name].recalls, found[name].precisions) for name in names}
    of_score = {name: _line(found[name].thresholds, found[name].precisions) for name in names}
    which = "" if len(names) == len(performance.categories) else f"Of the {len(names)} worst categories. "
    classifies = performance.mean_average_precision_50 is None  # only its scores are probabilities
    drawn = (
        tag("div", tag("h3", "Precision and recall"), unit_square(of_recall, "recall", "precision")),
        tag(
            "div",
            tag("h3", "Calibration" if classifies else "Precision by score"),
            unit_square(of_score, "least score", "precision", diagonal=classifies),
        ),
    )
    says = which + (_calibration(performance.calibration_ece) if classifies else "")
    return section("Scores", tag("div", *drawn, class_="row"), tag("p", says, class_="quiet"))


def _line(across: Iterable[float], up: Iterable[float]) -> Line:
    return list(zip(across, up, strict=True))


def _calibration(error: float | None) -> str:
    measured = "" if error is None else f"Calibration error: {100 * error:.1f} %. "
    return f"{measured}Where precision is below the dashed line, scores promise more than they keep."


def learning(curve: LearningCurve | None, unavailable: str) -> Markup:
    """The learning curve, or why there is none."""
    if curve is None:
        return section("Learning curve", tag("p", shown(unavailable))) if unavailable else Markup()
    a, b, c = curve.law
    points = [Measured(one.images_per_category, one.value, one.interval.low, one.interval.high) for one in curve.points]
    law = (lambda images: a - b * images**-c) if b else None
    drawing = learning_curve(points, law, metric_name(curve.metric))
    return section("Learning curve", drawing) if drawing else Markup()
