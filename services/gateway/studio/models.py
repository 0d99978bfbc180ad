"""Models: the list, and what can be done to one."""

from starlette.responses import RedirectResponse, Response

from services.gateway.studio.cookies import PREFIX
from services.gateway.studio.visit import Visit
from sightline.v1.model_pb2 import Model
from sightline.v1.model_service_pb2 import CancelModelRequest, DeleteModelRequest, ListModelsRequest
from sightline.v1.performance_pb2 import ModelPerformance

PAGE = 24
# The metric by which a model is judged at a glance, the first that it has.
MAIN_METRICS = ("accuracy_top1", "mean_average_precision_50", "average_precision")
ENDED = (Model.SUCCEEDED, Model.FAILED, Model.CANCELLED)


async def home(_visit: Visit) -> Response:
    """Where everybody begins."""
    return RedirectResponse(f"{PREFIX}/models", 303)


async def list_all(visit: Visit) -> Response:
    """A page of the models."""
    request = ListModelsRequest(page_size=PAGE, page_token=visit.query("page"))
    found = await visit.session.call(visit.session.services.models.ListModels, request)
    rows = [(model, state_of(model), main_metric(model.performance)) for model in found.models]
    return await visit.page("models.html", rows=rows, next_page=found.next_page_token, first=not visit.query("page"))


async def cancel(visit: Visit) -> Response:
    """Ends a training."""
    request = CancelModelRequest(name=name_of(visit))
    await visit.session.call(visit.session.services.models.CancelModel, request)
    return visit.to("models", visit.path("model"))


async def delete(visit: Visit) -> Response:
    """Deletes a model."""
    request = DeleteModelRequest(name=name_of(visit))
    await visit.session.call(visit.session.services.models.DeleteModel, request)
    return visit.to("models")


def name_of(visit: Visit) -> str:
    """The resource's name."""
    return f"models/{visit.path('model')}"


def state_of(model: Model) -> str:
    """The name of its state."""
    return Model.State.Name(model.state).lower()


def main_metric(performance: ModelPerformance) -> tuple[str, float] | None:
    """The metric to show first; None before there is any."""
    name = next((one for one in MAIN_METRICS if performance.HasField(one)), "")
    return (name, getattr(performance, name)) if name else None
