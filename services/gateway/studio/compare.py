"""Two models side by side, on each test dataset on which both were measured."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from services.gateway.studio.results import Measured, measured
from services.gateway.studio.visit import Visit
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import ListDatasetsRequest
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import CreateEvaluationRequest, ListEvaluationsRequest
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.model_service_pb2 import GetModelRequest, ListModelsRequest
from sightline.v1.performance_pb2 import ModelPerformance

CHOICES = 200
LOWER_IS_BETTER = ("calibration_ece",)
DATASET_KINDS = {
    TrainingParameters.GENERIC_CLASSIFIER: Dataset.IMAGE_CLASSIFICATION,
    TrainingParameters.GENERIC_DETECTOR: Dataset.OBJECT_DETECTION,
}


@dataclass(frozen=True, slots=True)
class Row:
    """A metric of both models. `better` is 1 or 2 if the intervals do not meet, else 0: it cannot be told."""

    name: str
    first: Measured
    second: Measured
    better: int

    @property
    def change(self) -> float:
        """From the first to the second."""
        return self.second.value - self.first.value


@dataclass(frozen=True, slots=True)
class Side:
    """What both models have on one test dataset."""

    dataset: str
    rows: list[Row]
    image_counts: tuple[int, int]


async def show(visit: Visit) -> Response:
    """The page; without a second model, the form to choose one."""
    first = await _model(visit, visit.path("model"))
    other = visit.query("with")
    second = await _model(visit, other) if other else None
    sides: list[Side] = []
    if second:
        found = await _evaluations(visit, first), await _evaluations(visit, second)
        sides = [_side(name, found[0][name], found[1][name]) for name in sorted(found[0].keys() & found[1].keys())]
    return await visit.page(
        "compare.html",
        first=first,
        second=second,
        sides=sides,
        choices=await _choices(visit, first),
        datasets=await _datasets(visit, first) if second else [],
    )


async def measure(visit: Visit) -> Response:
    """Begins an evaluation of both models on a dataset."""
    form = await visit.form()
    number, models = secrets.token_hex(4), (visit.path("model"), form.get("with", ""))
    for check_only in (True, False):  # nothing begins unless both can be measured
        for model in models:
            request = CreateEvaluationRequest(
                parent=f"models/{model}",
                evaluation=Evaluation(test_dataset=f"datasets/{form.get('dataset', '')}"),
                evaluation_id=f"studio-{number}",
                validate_only=check_only,
            )
            await visit.session.call(visit.session.services.evaluations.CreateEvaluation, request)
    return visit.to("models", visit.path("model"))


def _side(dataset: str, first: ModelPerformance, second: ModelPerformance) -> Side:
    return Side(dataset, rows(first, second), (first.image_count, second.image_count))


def rows(first: ModelPerformance, second: ModelPerformance) -> list[Row]:
    """The metrics that both have."""
    of_second = {one.name: one for one in measured(second)}
    return [
        Row(one.name, one, of_second[one.name], _better(one, of_second[one.name]))
        for one in measured(first)
        if one.name in of_second
    ]


def _better(first: Measured, second: Measured) -> int:
    if first.interval is None or second.interval is None:
        return 0
    if first.interval.high < second.interval.low:
        higher = 2
    elif second.interval.high < first.interval.low:
        higher = 1
    else:
        return 0
    return 3 - higher if first.name in LOWER_IS_BETTER else higher


async def _model(visit: Visit, model: str) -> Model:
    return await visit.session.call(visit.session.services.models.GetModel, GetModelRequest(name=f"models/{model}"))


async def _evaluations(visit: Visit, model: Model) -> dict[str, ModelPerformance]:
    """The latest performance of the version that the model serves, by test dataset."""
    request = ListEvaluationsRequest(parent=model.name, page_size=CHOICES)
    found = await visit.session.call(visit.session.services.evaluations.ListEvaluations, request)
    ended: Iterable[Evaluation] = (
        one
        for one in found.evaluations
        if one.state == Evaluation.SUCCEEDED and one.model_version == model.model_version
    )
    by_end = sorted(ended, key=lambda one: one.end_time.ToNanoseconds())
    return {one.test_dataset: one.performance for one in by_end}


async def _choices(visit: Visit, first: Model) -> list[Model]:
    """Models of the same kind that have results."""
    found = await visit.session.call(visit.session.services.models.ListModels, ListModelsRequest(page_size=CHOICES))
    kind = first.training_parameters.model_kind
    return [
        one
        for one in found.models
        if one.name != first.name and one.model_version and one.training_parameters.model_kind == kind
    ]


async def _datasets(visit: Visit, model: Model) -> list[Any]:
    """Datasets on which models of this kind can be measured."""
    request = ListDatasetsRequest(page_size=CHOICES)
    found = await visit.session.call(visit.session.services.datasets.ListDatasets, request)
    kind = DATASET_KINDS.get(model.training_parameters.model_kind)
    return [one for one in found.datasets if one.state == Dataset.READY and one.annotation_kind == kind]
