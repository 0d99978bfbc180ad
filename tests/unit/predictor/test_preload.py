"""Models that are loaded before a replica takes calls."""

from typing import Any

import pytest

from services.kit.clock import ManualClock
from services.kit.errors import ModelNotFound, SightlineError, Unavailable
from services.predictor.preload import RETRY_SECONDS, Preload
from services.predictor.settings import PredictorSettings


class Loader:
    """Fails for each name as it is told, in turn."""

    can_decode = True

    def __init__(self, **faults: list[SightlineError]) -> None:
        self.faults, self.asked = faults, list[str]()

    async def load_model(self, name: str) -> None:
        self.asked.append(name)
        if self.faults.get(name):
            raise self.faults[name].pop(0)


async def test_a_replica_is_ready_once_all_are_loaded_or_cannot_be():
    clock = ManualClock()
    away = Unavailable(what="The trainer", problem="it is not there yet")
    loader: Any = Loader(a=[away, away], b=[ModelNotFound(name="b")])
    preload = Preload(loader, ("a", "b", "c"), clock)
    start = clock.monotonic()
    assert not await preload.ready()
    await preload.run()
    assert loader.asked == ["a", "a", "a", "b", "c"]
    assert clock.monotonic() - start == 2 * RETRY_SECONDS
    assert await preload.ready()


async def test_a_replica_is_ready_only_while_it_can_decode_images():
    loader: Any = Loader()
    preload = Preload(loader, (), ManualClock())
    await preload.run()
    loader.can_decode = False
    assert not await preload.ready()
    loader.can_decode = True
    assert await preload.ready()


def test_the_setting_lists_models_of_any_project():
    names = "models/a,projects/acme/models/b"
    assert PredictorSettings(preload_models=names).preloaded == ("models/a", "projects/acme/models/b")
    assert PredictorSettings().preloaded == ()
    for wrong in ("a", "models/a, models/b", "datasets/a", ","):
        with pytest.raises(ValueError, match="PRELOAD_MODELS"):
            PredictorSettings(preload_models=wrong)
