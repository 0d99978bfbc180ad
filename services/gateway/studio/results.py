"""What came of a training: metrics, categories, confusions, mistakes, where the budget went, and what to do next."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from services.gateway.studio import charts
from services.gateway.studio.aliases import known
from services.gateway.studio.models import ENDED, main_metric, name_of, state_of
from services.gateway.studio.text import Text
from services.gateway.studio.training import progress_of
from services.gateway.studio.visit import Visit
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import ListEvaluationsRequest
from sightline.v1.model_pb2 import Model
from sightline.v1.model_service_pb2 import GetModelRequest
from sightline.v1.performance_pb2 import ConfusionMatrix, Interval, ModelPerformance

METRICS = (
    "accuracy_top1",
    "accuracy_top5",
    "average_precision",
    "calibration_ece",
    "mean_average_precision_50",
    "mean_average_precision_75",
    "mean_average_precision_30",
)
MATRIX_CATEGORIES, CONFUSIONS, CATEGORIES, LEDGER, TRADEOFFS = 25, 20, 200, 100, 12


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric with its interval."""

    name: str
    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often one category was taken for another."""

    true: str
    predicted: str
    count: int


async def show(visit: Visit) -> Response:
    """The page of a model: its progress while it trains, then its results."""
    models = visit.session.services.models
    model = await visit.session.call(models.GetModel, GetModelRequest(name=name_of(visit), view=Model.FULL))
    context: dict[str, Any] = {"model": model, "state": state_of(model), "ended": model.state in ENDED}
    if model.state not in ENDED:
        context |= await progress_of(visit, model)
    request = ListEvaluationsRequest(parent=model.name, page_size=50)
    found = await visit.session.call(visit.session.services.evaluations.ListEvaluations, request)
    evaluations = [
        (one, Evaluation.State.Name(one.state).lower(), measured(one.performance)) for one in found.evaluations
    ]
    context |= _results(model, visit.site.text)
    return await visit.page("model.html", **context, evaluations=evaluations, aliases=await known(visit, model.name))


def _results(model: Model, text: Text) -> dict[str, Any]:
    performance = model.performance
    categories = sorted(performance.tag_performance.items(), key=lambda item: (item[1].f1, item[0]))
    matrix = performance.confusion_matrix
    return {
        "main": main_metric(performance),
        "metrics": measured(performance),
        "source": ModelPerformance.Source.Name(performance.source).lower(),
        "categories": categories[:CATEGORIES],
        "category_count": len(categories),
        "matrix": charts.matrix(matrix, model.name, text) if 0 < len(matrix.categories) <= MATRIX_CATEGORIES else "",
        "confusions": confusions(matrix),
        "tradeoffs": charts.tradeoffs(performance, [name for name, _ in categories[:TRADEOFFS]], text),
        "calibration": charts.calibration(performance, text),
        "curve": charts.learning_curve(model.learning_curve, text),
        "ledger": list(model.ledger)[-LEDGER:],
        "stop_reason": Model.StopReason.Name(model.stop_reason).lower(),
    }


def measured(performance: ModelPerformance) -> list[Measured]:
    """The metrics that there are."""
    found = [name for name in METRICS if performance.HasField(name)]
    intervals = performance.intervals
    return [Measured(name, getattr(performance, name), intervals.get(name)) for name in found]


def confusions(matrix: ConfusionMatrix) -> list[Confusion]:
    """The most frequent wrong pairs."""
    wrong: Iterable[Any] = (entry for entry in matrix.entries if entry.row != entry.col)
    worst = sorted(wrong, key=lambda entry: -entry.count)[:CONFUSIONS]
    names = matrix.categories
    return [Confusion(names[entry.row], names[entry.col], entry.count) for entry in worst]
