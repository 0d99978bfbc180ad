"""Models rest while nobody uses them, and answer as before."""

from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np

from services.kit.clock import ManualClock
from services.kit.telemetry import MemoryTelemetry
from services.predictor.cache import ModelCache
from services.predictor.domain import Bundle, ModelRunner
from services.predictor.loaded import Loaded
from services.predictor.resting import rest_unused
from services.vision.graph_models import Resting

MINUTE = timedelta(minutes=1)


class Sleeper:
    """A model that counts how often it was told to rest."""

    def __init__(self) -> None:
        self.rests = 0

    def rest(self) -> None:
        self.rests += 1


class Source:
    """Gives each model a runner."""

    def __init__(self) -> None:
        self.runners: dict[str, Any] = {}

    async def size_bytes(self, bundle: Bundle) -> int:
        return 1

    async def load(self, bundle: Bundle) -> Loaded:
        return Loaded(cast("ModelRunner", self.runners.setdefault(bundle.model_name, Sleeper())), Path())

    def discard(self, loaded: Loaded) -> None:
        return


class Case:
    def __init__(self) -> None:
        self.source, self.clock = Source(), ManualClock()
        self.cache = ModelCache(self.source, 100, self.clock, MemoryTelemetry())

    async def use(self, name: str, *, keeps: bool = False) -> None:
        async with self.cache.use(Bundle(name, "v1", "")) as entry:
            entry.answered(self.clock.now())
            if keeps:
                self.cache.keep(entry)

    def rest(self) -> int:
        return rest_unused(self.cache, self.clock, MINUTE)


async def test_a_model_rests_once_nobody_has_used_it_for_a_while() -> None:
    case = Case()
    await case.use("a")
    case.clock.advance(30)
    await case.use("b")
    case.clock.advance(40)
    assert case.rest() == 1
    assert (case.source.runners["a"].rests, case.source.runners["b"].rests) == (1, 0)
    assert case.rest() == 0, "it rests already"
    await case.use("a")
    assert case.rest() == 0
    case.clock.advance(60)
    assert case.rest() == 2


async def test_one_in_use_does_not_rest_nor_one_that_is_kept() -> None:
    case = Case()
    await case.use("kept", keeps=True)
    async with case.cache.use(Bundle("busy", "v1", "")):
        case.clock.advance(61)
        assert case.rest() == 0
    assert case.rest() == 1
    case.cache.unload("kept")


async def test_a_model_that_cannot_rest_is_left_alone() -> None:
    case = Case()
    case.source.runners["torch"] = object()
    await case.use("torch")
    case.clock.advance(61)
    assert case.rest() == 0


def test_a_network_at_rest_is_opened_by_the_next_pass_and_answers_as_before() -> None:
    opened: list[Path] = []

    class Network:
        def run(self, outputs: Any, pixels: Any) -> list[Any]:
            return [pixels + 1]

    def engine(path: Path) -> Network:
        opened.append(path)
        return Network()

    network, pixels = Resting(Path("network-0.onnx"), engine), np.zeros((1, 2, 2, 3), np.uint8)
    before = network.run(["features"], pixels)
    network.rest()
    assert len(opened) == 1, "it rests until it is used"
    assert np.array_equal(network.run(["features"], pixels), before)
    network.run(["features"], pixels)
    assert len(opened) == 2
