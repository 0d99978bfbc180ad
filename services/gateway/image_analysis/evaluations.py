"""Evaluations: measurements of a model, as this API does them."""

from starlette.responses import JSONResponse, Response

from services.gateway.exchange import Exchange
from services.gateway.image_analysis import datasets, wire
from services.gateway.image_analysis.errors import BadArgument
from services.gateway.image_analysis.lists import PAGE, listed
from services.gateway.image_analysis.versions import version_of
from services.kit.errors import WrongState
from sightline.v1 import evaluation_service_pb2 as pb
from sightline.v1.evaluation_pb2 import Evaluation


async def put(exchange: Exchange) -> Response:
    """Creates an evaluation, once its dataset is checked: this API's clients register it just before."""
    version_of(exchange)
    body = await exchange.json()
    parameters = body.object("evaluationParameters")
    if parameters is None:
        raise BadArgument(field="evaluationParameters", problem="it is required")
    dataset = wire.dataset_name(parameters.required_text("testDatasetName"))
    await datasets.follow(exchange, dataset)
    request = pb.CreateEvaluationRequest(
        parent=wire.model_name(exchange.path("model")),
        evaluation=Evaluation(test_dataset=dataset),
        evaluation_id=exchange.path("name"),
    )
    created = await exchange.session.call(exchange.session.services.evaluations.CreateEvaluation, request)
    return JSONResponse(wire.evaluation_json(created), 201)


async def get(exchange: Exchange) -> Response:
    """An evaluation, with the metrics of all its tags."""
    version_of(exchange)
    return JSONResponse(wire.evaluation_json(await _current(exchange)))


async def list_all(exchange: Exchange) -> Response:
    """A page of a model's evaluations."""
    version_of(exchange)
    parent = wire.model_name(exchange.path("model"))

    async def fetch(token: str) -> tuple[list[Evaluation], str]:
        request = pb.ListEvaluationsRequest(parent=parent, page_size=PAGE, page_token=token)
        page = await exchange.session.call(exchange.session.services.evaluations.ListEvaluations, request)
        return list(page.evaluations), page.next_page_token

    return await listed(exchange, fetch, wire.evaluation_json)


async def delete(exchange: Exchange) -> Response:
    """Deletes an evaluation that has ended."""
    version_of(exchange)
    found = await _current(exchange)
    if found.state not in (Evaluation.SUCCEEDED, Evaluation.FAILED):
        state = wire.EVALUATION_STATES[found.state]
        raise WrongState(name=found.name, state=state, verb="deleting", allowed="succeeded and failed")
    request = pb.DeleteEvaluationRequest(name=found.name)
    await exchange.session.call(exchange.session.services.evaluations.DeleteEvaluation, request)
    return Response(status_code=204)


async def _current(exchange: Exchange) -> Evaluation:
    name = f"{wire.model_name(exchange.path('model'))}/evaluations/{exchange.path('name')}"
    request = pb.GetEvaluationRequest(name=name, view=Evaluation.FULL)
    return await exchange.session.call(exchange.session.services.evaluations.GetEvaluation, request)
