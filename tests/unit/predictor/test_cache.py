"""The model cache: shared loads, eviction, and models in use."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from services.kit.clock import ManualClock
from services.kit.errors import ModelNotFound, QuotaExceeded, Unavailable
from services.kit.telemetry import MemoryTelemetry
from services.predictor import metrics
from services.predictor.cache import ModelCache
from services.predictor.domain import Bundle
from tests.unit.predictor.support import FakeSource


class Case:
    """A cache of 100 bytes."""

    def __init__(self, **sizes: int) -> None:
        self.source = FakeSource(**sizes)
        self.telemetry = MemoryTelemetry()
        self.cache = ModelCache(self.source, 100, ManualClock(), self.telemetry)

    async def touch(self, name: str, version: str = "v1") -> None:
        async with self.cache.use(Bundle(name, version, "")):
            pass

    @property
    def used_bytes(self) -> float:
        return self.telemetry.value(metrics.LOADED_BYTES)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_fifty_concurrent_first_uses_load_a_model_once():
    case = Case(a=40)
    case.source.gate.clear()
    uses = [asyncio.create_task(case.touch("a")) for _ in range(50)]
    await settle()
    case.source.gate.set()
    await asyncio.gather(*uses)
    assert len(case.source.loads) == 1
    assert case.telemetry.value(metrics.CACHE_REQUESTS, result="miss") == 1
    assert case.telemetry.value(metrics.CACHE_REQUESTS, result="joined") == 49
    await case.touch("a")
    assert case.telemetry.value(metrics.CACHE_REQUESTS, result="hit") == 1


async def test_a_load_outlives_callers_that_give_up():
    case = Case(a=40)
    case.source.gate.clear()
    use = asyncio.create_task(case.touch("a"))
    await settle()
    use.cancel()
    await settle()
    case.source.gate.set()
    await case.touch("a")
    assert len(case.source.loads) == 1


async def test_a_failed_load_fails_every_waiting_caller_and_the_next_one_tries_again():
    case = Case(a=40)
    case.source.error = Unavailable(what="The store", problem="gone")
    results = await asyncio.gather(case.touch("a"), case.touch("a"), return_exceptions=True)
    assert results == [case.source.error] * 2
    assert (case.cache.names(), case.used_bytes) == ([], 0)
    case.source.error = None
    await case.touch("a")
    assert len(case.source.loads) == 2


async def test_the_least_recently_used_model_is_evicted_first_with_its_files():
    case = Case(a=40, b=40, c=40)
    for name in ("a", "b", "a", "c"):
        await case.touch(name)
    assert case.cache.names() == ["a", "c"]
    assert case.source.discarded == [Path("b-v1")]
    assert case.used_bytes == 80
    assert case.telemetry.value(metrics.CACHE_EVICTIONS, reason="capacity") == 1


async def test_a_model_in_use_is_not_evicted_and_a_model_that_does_not_fit_next_to_it_is_refused():
    case = Case(a=40, b=40, c=90)
    await case.touch("b")
    async with case.cache.use(Bundle("a", "v1", "")):
        with pytest.raises(QuotaExceeded) as refusal:
            await case.touch("c")
        assert case.cache.names() == ["b", "a"], "nothing is evicted for a model that would not fit anyway"
    assert refusal.value.metadata["value"] == "90"
    await case.touch("c")
    assert case.cache.names() == ["c"]


async def test_a_kept_model_makes_no_room_for_others_but_may_be_replaced_and_dropped():
    case = Case(a=60, b=60, c=30)
    case.cache = ModelCache(case.source, 100, ManualClock(), case.telemetry, kept=("a",))
    await case.touch("a")
    await case.touch("c")
    with pytest.raises(QuotaExceeded, match="Memory for b"):
        await case.touch("b")
    assert case.cache.names() == ["a", "c"]
    await case.touch("a", "v2")
    case.cache.drop("a", metrics.Eviction.UNLOADED)
    await case.touch("b")
    assert case.cache.names() == ["c", "b"]


async def test_a_new_bundle_replaces_the_old_one_and_waits_for_its_last_user():
    case = Case(a=60)
    async with case.cache.use(Bundle("a", "v1", "")) as old:
        new = asyncio.create_task(case.touch("a", "v2"))
        await settle()
        assert not new.done(), "both do not fit"
        assert old.runner is not None
        assert case.source.discarded == []
    await new
    assert case.source.discarded == [Path("a-v1")]
    assert [model.version for model in case.cache.loaded()] == ["v2"]
    assert case.used_bytes == 60


async def test_a_model_dropped_while_in_use_is_freed_when_its_user_is_done():
    case = Case(a=40)
    async with case.cache.use(Bundle("a", "v1", "")):
        case.cache.drop("a", metrics.Eviction.UNLOADED)
        assert (case.cache.names(), case.used_bytes, case.source.discarded) == ([], 40, [])
    assert (case.used_bytes, case.source.discarded) == (0, [Path("a-v1")])
    with pytest.raises(ModelNotFound):
        case.cache.drop("a", metrics.Eviction.UNLOADED)


async def test_a_model_dropped_while_loading_still_serves_its_callers_and_is_then_freed():
    case = Case(a=40)
    case.source.gate.clear()
    use = asyncio.create_task(case.touch("a"))
    await settle()
    case.cache.discard("a")
    case.source.gate.set()
    await use
    await settle()
    assert (case.cache.names(), case.used_bytes, case.source.discarded) == ([], 0, [Path("a-v1")])


async def test_two_hundred_models_rotate_through_a_cache_of_twenty_without_an_error_and_within_its_bytes():
    names = [f"m{number}" for number in range(200)]
    case = Case(**dict.fromkeys(names, 5))
    held: list[float] = []

    async def caller(seed: int) -> None:
        random = Random(seed)
        for _ in range(200):
            name = random.choice(names)
            async with case.cache.use(Bundle(name, "v1", "")) as model:
                await asyncio.sleep(0)
                assert model.runner
                held.append(case.used_bytes)
            if random.random() < 0.05 and name in case.cache.names():
                case.cache.drop(name, metrics.Eviction.UNLOADED)

    await asyncio.gather(*(caller(seed) for seed in range(16)))
    assert max(held) <= 100
    assert len(held) == 16 * 200
    await case.cache.close()
    assert case.used_bytes == 0
    assert len(case.source.discarded) == len(case.source.loads) > 200


async def test_closing_cancels_loads_and_frees_everything():
    case = Case(a=40, b=40)
    await case.touch("a")
    case.source.gate.clear()
    use = asyncio.create_task(case.touch("b"))
    await settle()
    await case.cache.close()
    await asyncio.gather(use, return_exceptions=True)
    assert (case.cache.names(), case.used_bytes, case.source.discarded) == ([], 0, [Path("a-v1")])
