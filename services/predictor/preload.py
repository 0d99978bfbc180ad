"""Models that a replica loads when it starts, before it takes calls, and keeps."""

from collections.abc import Sequence

from services.kit.clock import Clock
from services.kit.errors import SightlineError
from services.kit.log import Log
from services.predictor.app import Predictor

RETRY_SECONDS = 2.0

_log = Log(__name__)


class Preload:
    """Loads models one after the other; `ready` once each is loaded, or cannot be, while images can be decoded.

    Law: what may pass is waited for, such as a trainer that does not respond; after any other error the replica becomes
    ready without that model.
    """

    def __init__(self, predictor: Predictor, names: Sequence[str], clock: Clock) -> None:
        self._predictor = predictor
        self._names = names
        self._clock = clock
        self._loaded = False

    async def ready(self) -> bool:
        """Whether the replica may take calls."""
        return self._loaded and self._predictor.can_decode

    async def run(self) -> None:
        """Loads them."""
        for name in self._names:
            while (error := await self._fault_of(name)) and error.retry:
                await self._clock.sleep(RETRY_SECONDS)
        self._loaded = True

    async def _fault_of(self, name: str) -> SightlineError | None:
        try:
            await self._predictor.load_model(name)
        except SightlineError as error:
            _log.warning("model_not_preloaded", model=name, retry=error.retry, problem=error.message)
            return error
        _log.info("model_preloaded", model=name)
        return None
