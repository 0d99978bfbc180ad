"""What the pages draw: the charts of `sightline.pages`, which reports have too, in the studio's words."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from services.gateway.studio.cookies import PREFIX
from services.gateway.studio.show import last
from services.gateway.studio.text import Text
from sightline.pages import charts, curves
from sightline.pages.curves import Axes, Measured, Reliable
from sightline.pages.markup import Markup
from sightline.v1.insight_pb2 import LearningCurve
from sightline.v1.performance_pb2 import CalibrationBin, ConfusionMatrix, ModelPerformance, PrecisionRecallCurve


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """Precision against recall of one category."""

    name: str
    drawing: Markup
    average_precision: float | None
    threshold: float | None  # with the best F1, a dot in the drawing


def balance(values: Iterable[tuple[str, int]], dataset: str, *, linked: bool) -> Markup:
    """A bar for each category, which leads to its images."""
    images = f"{PREFIX}/datasets/{quote(last(dataset), safe='')}/images?category="
    return charts.bars(list(values), (lambda name: images + quote(name, safe="")) if linked else None)


def matrix(found: ConfusionMatrix, model: str, text: Text) -> Markup:
    """The confusion matrix, whose mistakes lead to their images."""
    counts = {(entry.row, entry.col): entry.count for entry in found.entries}

    def link(actual: str, predicted: str, count: int) -> tuple[str, str]:
        label = text("confusion.pair", count=count, true=actual, predicted=predicted)
        return mistakes_url(model, actual, predicted), label

    return charts.confusion_matrix(list(found.categories), counts, link)


def mistakes_url(model: str, actual: str, predicted: str) -> str:
    """The page with the images of one category that were taken for another."""
    pair = f"true={quote(actual, safe='')}&predicted={quote(predicted, safe='')}"
    return f"{PREFIX}/models/{quote(last(model), safe='')}/mistakes?{pair}"


def learning_curve(curve: LearningCurve, text: Text) -> Markup:
    """The metric by images; empty without at least two points."""
    points = [
        Measured(one.images_per_category, one.value, one.interval.low, one.interval.high)
        if one.HasField("interval")
        else Measured(one.images_per_category, one.value, one.value, one.value)
        for one in curve.points
    ]
    law, metric = curve.power_law, text.named("metric", curve.metric)
    axes = Axes(text("curve.across"), metric, text("curve.label", metric=metric))
    return curves.learning_curve(points, (lambda images: law.a - law.b * images**-law.c) if law.b else None, axes)


def tradeoffs(performance: ModelPerformance, names: Iterable[str], text: Text) -> list[Tradeoff]:
    """The curves of these categories, in this order, without those that have none or are perfect."""
    found = performance.precision_recall_curves
    return [_tradeoff(performance, name, text) for name in names if name in found and _falls(found[name])]


def _falls(curve: PrecisionRecallCurve) -> bool:
    """Whether it has anything but full precision up to full recall."""
    return any(precision < 1 for precision in curve.precisions) or (bool(curve.recalls) and curve.recalls[-1] < 1)


def _tradeoff(performance: ModelPerformance, name: str, text: Text) -> Tradeoff:
    curve, tag = performance.precision_recall_curves[name], performance.tag_performance[name]
    best = (tag.recall, tag.precision) if tag.HasField("precision") and tag.HasField("recall") else None
    axes = Axes(text("categories.recall"), text("categories.precision"), text("tradeoff.label", name=name))
    return Tradeoff(
        name,
        curves.tradeoff(list(zip(curve.recalls, curve.precisions, strict=True)), best, axes),
        tag.average_precision_50 if tag.HasField("average_precision_50") else None,
        tag.suggested_threshold if tag.HasField("suggested_threshold") else None,
    )


def calibration(performance: ModelPerformance, text: Text) -> Markup:
    """How many predictions are right, by confidence; empty of models that were measured by earlier versions."""
    of = "images" if performance.HasField("accuracy_top1") else "detections"
    axes = Axes(text("calibration.across"), text("calibration.up"), text.named("calibration.label", of))
    return curves.reliability([_reliable(one) for one in performance.calibration_bins], axes, text("calibration.bin"))


def _reliable(one: CalibrationBin) -> Reliable:
    low, high = (one.interval.low, one.interval.high) if one.HasField("interval") else (one.accuracy, one.accuracy)
    return Reliable(one.mean_confidence, one.accuracy, one.count, low, high)
