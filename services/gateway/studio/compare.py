"""Two models side by side, on all images on which both were measured, and which of them is better."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from starlette.responses import Response

from services.gateway.errors import problem_of
from services.gateway.studio.results import Measured, measured
from services.gateway.studio.show import count, last
from services.gateway.studio.text import Text
from services.gateway.studio.visit import Visit
from sightline.client.comparing import pairs
from sightline.client.results.model_comparison import CHANCE
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import ListDatasetsRequest
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import (
    CompareEvaluationsRequest,
    CompareEvaluationsResponse,
    CreateEvaluationRequest,
    ListEvaluationsRequest,
)
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.model_service_pb2 import GetModelRequest, ListModelsRequest
from sightline.v1.performance_pb2 import ModelPerformance

CHOICES, SIDES = 200, 10
UNTESTED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)  # then the page has the metrics alone
DATASET_KINDS = {
    TrainingParameters.GENERIC_CLASSIFIER: Dataset.IMAGE_CLASSIFICATION,
    TrainingParameters.GENERIC_DETECTOR: Dataset.OBJECT_DETECTION,
}


@dataclass(frozen=True, slots=True)
class Row:
    """A metric of both models."""

    name: str
    first: Measured
    second: Measured

    @property
    def change(self) -> float:
        """From the first to the second."""
        return self.second.value - self.first.value


@dataclass(frozen=True, slots=True)
class Side:
    """What both models have on the same images, and the paired test of it, or why there is none."""

    dataset: str
    rows: list[Row]
    image_counts: tuple[int, int]
    tested: CompareEvaluationsResponse | None
    verdict: str


async def show(visit: Visit) -> Response:
    """The page; without a second model, the form to choose one."""
    first = await _model(visit, visit.path("model"))
    other = visit.query("with")
    second = await _model(visit, other) if other else None
    sides: list[Side] = []
    changed: list[str] = []
    if second:
        found = await _evaluations(visit, first), await _evaluations(visit, second)
        both = list(pairs(first, found[0], second, found[1]))[:SIDES]
        sides = [await _side(visit, first, second, *pair) for pair in both]
        changed = sorted(_measured_on(found[0]) & _measured_on(found[1]) - {side.dataset for side in sides})
    return await visit.page(
        "compare.html",
        first=first,
        second=second,
        sides=sides,
        changed=changed,
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


async def _side(visit: Visit, first: Model, second: Model, one: Evaluation, other: Evaluation) -> Side:
    counts = one.performance.image_count, other.performance.image_count
    table = rows(one.performance, other.performance)
    request = CompareEvaluationsRequest(first_evaluation=one.name, second_evaluation=other.name)
    try:
        tested = await visit.session.call(visit.session.services.evaluations.CompareEvaluations, request)
    except grpc.aio.AioRpcError as error:
        if error.code() not in UNTESTED:
            raise
        return Side(one.test_dataset, table, counts, None, problem_of(error).message)
    return Side(one.test_dataset, table, counts, tested, _verdict(visit.site.text, first, second, tested))


def _verdict(text: Text, first: Model, second: Model, tested: CompareEvaluationsResponse) -> str:
    """Which is better, in a sentence."""
    ahead, low, high = second, tested.interval.low, tested.interval.high
    if tested.difference < 0:
        ahead, low, high = first, -high, -low
    key = "compare.better" if tested.p_value < CHANCE else "compare.unsure"
    return text(
        key,
        name=ahead.display_name or last(ahead.name),
        points=f"{100 * abs(tested.difference):.1f}",
        low=f"{100 * low:.1f}",
        high=f"{100 * high:.1f}",
        metric=text.named("metric", tested.metric),
        chance=text("compare.chance_least") if tested.p_value < 0.001 else f"{tested.p_value:.2g}",
        count=count(tested.image_count),
    )


def rows(first: ModelPerformance, second: ModelPerformance) -> list[Row]:
    """The metrics that both have."""
    of_second = {one.name: one for one in measured(second)}
    return [Row(one.name, one, of_second[one.name]) for one in measured(first) if one.name in of_second]


async def _model(visit: Visit, model: str) -> Model:
    return await visit.session.call(visit.session.services.models.GetModel, GetModelRequest(name=f"models/{model}"))


async def _evaluations(visit: Visit, model: Model) -> list[Evaluation]:
    request = ListEvaluationsRequest(parent=model.name, page_size=CHOICES)
    found = await visit.session.call(visit.session.services.evaluations.ListEvaluations, request)
    return list(found.evaluations)


def _measured_on(evaluations: Iterable[Evaluation]) -> set[str]:
    """The datasets on which something was measured."""
    return {one.test_dataset for one in evaluations if one.state == Evaluation.SUCCEEDED}


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
