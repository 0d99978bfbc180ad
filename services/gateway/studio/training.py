"""A training as it goes on, sent to the browser as server-sent events."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
from starlette.responses import Response, StreamingResponse

from services.gateway.studio.models import ENDED, name_of, state_of
from services.gateway.studio.visit import Visit
from sightline.v1.model_pb2 import Model, TrainingProgress
from sightline.v1.model_service_pb2 import ListTrialsRequest, WatchModelRequest
from sightline.v1.progress_pb2 import Waiting
from sightline.v1.trial_pb2 import Trial

TRIALS = 100
RETRY_MILLISECONDS = 3000
LIVE_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def progress(visit: Visit) -> Response:
    """The progress after every change, until the training ends."""
    # The first answer decides: a model that does not exist is an error like any other, not a stream.
    watched = visit.session.stream(visit.session.services.models.WatchModel, WatchModelRequest(name=name_of(visit)))
    first = await anext(watched)
    return StreamingResponse(_events(visit, first.model, watched), media_type="text/event-stream", headers=LIVE_HEADERS)


async def _events(visit: Visit, model: Model, watched: AsyncGenerator[Any]) -> AsyncIterator[str]:
    template = visit.site.templates.get_template("progress.html")
    try:
        while model.state not in ENDED:
            yield event("progress", template.render(model=model, **await progress_of(visit, model)))
            model = (await anext(watched)).model
        yield event("ended", "")
    except (grpc.aio.AioRpcError, StopAsyncIteration):
        yield f"retry: {RETRY_MILLISECONDS}\n\n"  # the browser asks again, and hears then what is the matter
    finally:
        await watched.aclose()


async def progress_of(visit: Visit, model: Model) -> dict[str, Any]:
    """What the template of the progress shows of a model that trains."""
    request = ListTrialsRequest(parent=model.name, page_size=TRIALS)
    found = await visit.session.call(visit.session.services.models.ListTrials, request)
    progress = model.progress
    return {
        "state": state_of(model),
        "phase": TrainingProgress.Phase.Name(progress.phase).lower(),
        "reason": Waiting.Reason.Name(progress.waiting.reason).lower() if progress.HasField("waiting") else "",
        "trials": [(trial, Trial.State.Name(trial.state).lower()) for trial in found.trials],
    }


def event(name: str, data: str) -> str:
    """A server-sent event."""
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"event: {name}\n{lines}\n"
