"""What ends a batch prediction before all images are predicted, and how a worker says so."""

from services.kit.errors import ModelNotFound, SightlineError, Unavailable
from services.kit.log import Log
from services.predictor.batch.context import WorkerContext
from services.predictor.batch.domain import BatchRecord
from services.predictor.domain import Bundle, model_uri

_log = Log(__name__)


class Abandoned(Exception):
    """Nobody wants the chunk's results any more."""


class Doomed(Exception):
    """What is wrong concerns every image."""

    def __init__(self, reason: SightlineError) -> None:
        super().__init__(reason.message)
        self.reason = reason


async def require_model(context: WorkerContext, bundle: Bundle) -> None:
    """Doomed if the model was deleted, even if there is another one of its name; nothing if nobody can say."""
    try:
        present = await context.models.get(bundle.model_name)
    except ModelNotFound as error:
        raise Doomed(error) from None
    except Unavailable:
        return
    if present.bundle_uri and model_uri(present.bundle_uri) != model_uri(bundle.uri):
        raise Doomed(ModelNotFound(name=bundle.model_name))


async def doom(context: WorkerContext, record: BatchRecord, error: SightlineError) -> BatchRecord:
    """Writes that it is to fail, unless it has ended or is cancelled; returns the record as it is then."""

    def decide(now: BatchRecord) -> BatchRecord:
        if now.uid != record.uid or now.ended or now.generation != record.generation:
            raise Abandoned
        return now.doomed(error.failure(), context.clock.now())

    _log.warning("batch_prediction_doomed", name=record.name, problem=error.message)
    return (await context.table.change(record.name, decide)).value
