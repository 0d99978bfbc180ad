"""The images behind a cell of the confusion matrix, as far as the model's record names them."""

from starlette.responses import Response

from services.gateway.studio.models import name_of, state_of
from services.gateway.studio.visit import Visit
from sightline.v1.model_pb2 import Model
from sightline.v1.model_service_pb2 import GetModelRequest
from sightline.v1.performance_pb2 import ModelPerformance


async def show(visit: Visit) -> Response:
    """The worst mistakes of one kind: images of a category that were taken for another one."""
    models = visit.session.services.models
    model = await visit.session.call(models.GetModel, GetModelRequest(name=name_of(visit), view=Model.FULL))
    actual, predicted = visit.query("true"), visit.query("predicted")
    found = [one for one in model.worst_mistakes if (one.true_category, one.predicted_category) == (actual, predicted)]
    return await visit.page(
        "mistakes.html",
        model=model,
        state=state_of(model),
        actual=actual,
        predicted=predicted,
        mistakes=found,
        count=count(model.performance, actual, predicted),
        # The worst mistakes are training images, so a matrix of other images only resembles them.
        elsewhere=model.performance.source == ModelPerformance.TEST_DATASET,
    )


def count(performance: ModelPerformance, actual: str, predicted: str) -> int:
    """How often the matrix says that the category was taken for the other one."""
    matrix = performance.confusion_matrix
    place = {name: number for number, name in enumerate(matrix.categories)}
    wanted = place.get(actual), place.get(predicted)
    return next((entry.count for entry in matrix.entries if (entry.row, entry.col) == wanted), 0)
