"""Models: trained, cancelled and deleted as this API does it."""

from starlette.responses import JSONResponse, Response

from services.gateway.exchange import Exchange
from services.gateway.image_analysis import wire
from services.gateway.image_analysis.errors import BadArgument
from services.gateway.image_analysis.etags import condition, quoted
from services.gateway.image_analysis.lists import PAGE, listed
from services.gateway.image_analysis.versions import version_of
from sightline.v1 import model_service_pb2 as pb
from sightline.v1.model_pb2 import EvaluationParameters, Model, TrainingParameters


async def put(exchange: Exchange) -> Response:
    """Creates a model and starts its training."""
    version_of(exchange)
    body = await exchange.json()
    parameters = body.object("trainingParameters")
    if parameters is None:
        raise BadArgument(field="trainingParameters", problem="it is required")
    training = TrainingParameters(
        training_dataset=wire.dataset_name(parameters.required_text("trainingDatasetName")),
        time_budget=wire.budget(parameters),
        model_kind=wire.model_kind(parameters),
    )
    model = Model(training_parameters=training)
    if tested := body.object("evaluationParameters"):
        test = wire.dataset_name(tested.required_text("testDatasetName"))
        model.evaluation_parameters.CopyFrom(EvaluationParameters(test_dataset=test))
    request = pb.CreateModelRequest(model=model, model_id=exchange.path("name"))
    return _shown(await exchange.session.call(exchange.session.services.models.CreateModel, request), 201)


async def get(exchange: Exchange) -> Response:
    """A model, with the metrics of all its tags."""
    version_of(exchange)
    return _shown(await _current(exchange, Model.FULL))


async def list_all(exchange: Exchange) -> Response:
    """A page of the models."""
    version_of(exchange)

    async def fetch(token: str) -> tuple[list[Model], str]:
        request = pb.ListModelsRequest(page_size=PAGE, page_token=token)
        page = await exchange.session.call(exchange.session.services.models.ListModels, request)
        return list(page.models), page.next_page_token

    return await listed(exchange, fetch, wire.model_json)


async def cancel(exchange: Exchange) -> Response:
    """Cancels a training."""
    version_of(exchange)
    request = pb.CancelModelRequest(name=wire.model_name(exchange.path("name")))
    return _shown(await exchange.session.call(exchange.session.services.models.CancelModel, request), 202)


async def delete(exchange: Exchange) -> Response:
    """Deletes a model that has ended."""
    version_of(exchange)
    name = wire.model_name(exchange.path("name"))
    etag = condition(exchange, (await _current(exchange)).etag)
    await exchange.session.call(
        exchange.session.services.models.DeleteModel, pb.DeleteModelRequest(name=name, etag=etag)
    )
    return Response(status_code=204)


async def _current(exchange: Exchange, view: "Model.View.ValueType" = Model.BASIC) -> Model:
    request = pb.GetModelRequest(name=wire.model_name(exchange.path("name")), view=view)
    return await exchange.session.call(exchange.session.services.models.GetModel, request)


def _shown(model: Model, status: int = 200) -> Response:
    return JSONResponse(wire.model_json(model), status, quoted(model.etag))
