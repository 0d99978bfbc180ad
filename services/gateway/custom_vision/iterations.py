"""Iterations as models: where a model keeps what this API calls an iteration's name and its published name."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import grpc

from services.gateway.custom_vision.errors import Missing
from services.gateway.kept import Kept
from services.gateway.upstream import Session
from sightline.v1 import model_service_pb2 as pb
from sightline.v1.model_pb2 import Model

# Custom properties of a model.
NAME, PUBLISHED = "customVision.name", "customVision.publishedName"
DIGEST = "customVision.annotations"  # of what it was trained on
KIND, DOMAIN = "customVision.trainingType", "customVision.domain"
PAGE = 1000
FRESH_SECONDS = 5.0  # how long a published name is taken to lead to the same model
REMEMBERED = 1000  # published names


async def of_project(session: Session, project: str) -> AsyncGenerator[Model]:
    """The models trained on the project's dataset, by name."""
    token = ""
    while True:
        request = pb.ListModelsRequest(page_size=PAGE, page_token=token)
        page = await session.call(session.services.models.ListModels, request)
        for model in page.models:
            if model.training_parameters.training_dataset == f"datasets/{project}":
                yield model
        token = page.next_page_token
        if not token:
            return


async def get(session: Session, project: str, iteration: str, view: "Model.View.ValueType" = Model.BASIC) -> Model:
    """The project's iteration; Missing."""
    request = pb.GetModelRequest(name=f"models/{iteration}", view=view)
    try:
        found = await session.call(session.services.models.GetModel, request)
    except grpc.aio.AioRpcError as error:
        if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
            raise
        raise _missing(project, iteration) from None
    if found.training_parameters.training_dataset != f"datasets/{project}":
        raise _missing(project, iteration)
    return found


def _missing(project: str, iteration: str) -> Missing:
    return Missing("NotFoundIteration", what=f"iteration of project {project[:100]} named", name=iteration)


def is_trained(model: Model) -> bool:
    """Whether it can predict; a training that was ended early left a model if it found one."""
    return model.state in (Model.SUCCEEDED, Model.CANCELLED) and bool(model.model_version)


async def latest_trained(session: Session, project: str) -> Model | None:
    """The youngest of the project's iterations that can predict."""
    trained = [model async for model in of_project(session, project) if is_trained(model)]
    return max(trained, key=lambda model: model.create_time.ToNanoseconds(), default=None)


class Published:
    """Which model a published name leads to; a change of that is seen within FRESH_SECONDS."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._known = Kept[tuple[str, str, str], tuple[Model, float]](REMEMBERED)

    async def model(self, session: Session, project: str, name: str) -> Model:
        """The project's model with this published name, or else with this id; Missing."""
        key = (session.caller, project, name)
        known, until = self._known.get(key) or (None, 0.0)
        if known and self._monotonic() < until:
            return known
        found = await self._look(session, project, name)
        self._known.put(key, (found, self._monotonic() + FRESH_SECONDS))
        return found

    async def _look(self, session: Session, project: str, name: str) -> Model:
        async with aclosing(of_project(session, project)) as models:
            async for model in models:
                if model.custom_properties.get(PUBLISHED) == name:
                    return model
        return await get(session, project, name)


async def remove(session: Session, model: Model) -> None:
    """Deletes an iteration; one that is being trained is cancelled, and deleted once it has ended."""
    models = session.services.models
    if model.state not in (Model.SUCCEEDED, Model.FAILED, Model.CANCELLED):
        await session.call(models.CancelModel, pb.CancelModelRequest(name=model.name))
        async with aclosing(session.stream(models.WatchModel, pb.WatchModelRequest(name=model.name))) as updates:
            async for _ in updates:
                pass
    await session.call(models.DeleteModel, pb.DeleteModelRequest(name=model.name))
