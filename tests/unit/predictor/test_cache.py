"""The model cache: shared loads, eviction, and models in use."""

import asyncio
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from services.kit.clock import ManualClock
from services.kit.errors import ModelNotFound, ProjectQuotaExceeded, QuotaExceeded, Unavailable
from services.kit.telemetry import MemoryTelemetry
from services.predictor import metrics
from services.predictor.cache import ModelCache
from services.predictor.domain import Bundle, LoadedModel
from tests.unit.predictor.support import FakeSource


class Case:
    """A cache of 100 bytes."""

    def __init__(self, share: float = 1.0, **sizes: int) -> None:
        self.source = FakeSource(**sizes)
        self.telemetry = MemoryTelemetry()
        self.cache = ModelCache(self.source, 100, ManualClock(), self.telemetry, project_share=share)

    async def touch(self, name: str, version: str = "v1") -> None:
        async with self.cache.use(Bundle(name, version, "")):
            pass

    async def keep(self, name: str, version: str = "v1") -> LoadedModel:
        async with self.cache.use(Bundle(name, version, "")) as entry:
            return self.cache.keep(entry)

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
    assert refusal.value.metadata["value"] == "130"
    await case.touch("c")
    assert case.cache.names() == ["c"]


async def test_a_kept_model_makes_no_room_for_others_but_may_be_replaced_and_dropped():
    case = Case(a=60, b=60, c=30)
    case.cache = ModelCache(case.source, 100, ManualClock(), case.telemetry, preloaded=("a",))
    await case.touch("a")
    await case.touch("c")
    with pytest.raises(QuotaExceeded, match="Memory for b"):
        await case.touch("b")
    assert case.cache.names() == ["a", "c"]
    await case.touch("a", "v2")
    case.cache.unload("a")
    await case.touch("b")
    assert case.cache.names() == ["c", "b"]


async def test_what_was_asked_to_stay_makes_no_room_for_others_with_any_bundle_until_it_is_unloaded():
    case = Case(a=60, b=60, c=30)
    assert (await case.keep("a")).kept
    await case.touch("c")
    with pytest.raises(QuotaExceeded, match="Memory for b, together with the models in use and those that are kept"):
        await case.touch("b")
    await case.touch("a", "v2")
    with pytest.raises(QuotaExceeded):
        await case.touch("b")
    assert [(model.name, model.kept) for model in case.cache.loaded()] == [("c", False), ("a", True)]
    assert case.telemetry.value(metrics.KEPT_MODELS) == 1
    case.cache.unload("a")
    assert case.telemetry.value(metrics.KEPT_MODELS) == 0
    await case.touch("a")
    await case.touch("b")
    assert case.cache.names() == ["b"], "a is kept no longer"


async def test_what_is_kept_does_not_fit_if_all_of_it_together_would_not():
    case = Case(a=60, b=60)
    await case.keep("a")
    with pytest.raises(QuotaExceeded) as refusal:
        await case.keep("b")
    assert (refusal.value.metadata["value"], refusal.value.metadata["limit"]) == ("120", "100")
    case.cache.unload("a")
    assert (await case.keep("b")).kept


async def test_a_project_keeps_no_more_than_its_share_and_leaves_others_theirs():
    sizes = {"models/a": 30, "models/b": 30, "models/c": 30, "projects/acme/models/a": 30}
    case = Case(0.5, **sizes)
    await case.keep("models/a")
    with pytest.raises(ProjectQuotaExceeded, match=r"Project default, .* 30 bytes in use, and 30 more .* limit of 50"):
        await case.keep("models/b")
    assert [model.kept for model in case.cache.loaded()] == [True, False], "loaded, as for a prediction"
    assert (await case.keep("models/a")).kept, "it is already"
    assert (await case.keep("projects/acme/models/a")).kept
    await case.touch("models/c")
    assert case.cache.names() == ["models/a", "projects/acme/models/a", "models/c"]


async def test_a_model_that_is_unloaded_or_deleted_while_it_loads_is_not_kept():
    for end in ("unload", "discard"):
        case = Case(a=60, b=60)
        case.source.gate.clear()
        asked = asyncio.create_task(case.keep("a"))
        await settle()
        getattr(case.cache, end)("a")
        again = asyncio.create_task(case.touch("a"))  # by a prediction that comes later
        await settle()
        case.source.gate.set()
        assert not (await asked).kept
        await again
        await case.touch("b")
        assert case.cache.names() == ["b"]


async def test_a_model_that_gets_a_better_bundle_while_it_loads_is_kept():
    case = Case(a=20)
    case.source.gate.clear()
    asked = asyncio.create_task(case.keep("a"))
    await settle()
    better = asyncio.create_task(case.touch("a", "v2"))
    await settle()
    case.source.gate.set()
    await asyncio.gather(asked, better)
    assert [(model.version, model.kept) for model in case.cache.loaded()] == [("v2", True)]


async def test_a_load_that_fails_or_is_given_up_keeps_nothing():
    case = Case(a=60, b=60)
    case.source.error = Unavailable(what="The store", problem="gone")
    with pytest.raises(Unavailable):
        await case.keep("a")
    case.source.error = None
    case.source.gate.clear()
    asked = asyncio.create_task(case.keep("a"))
    await settle()
    asked.cancel()
    await settle()
    case.source.gate.set()
    await case.touch("a")
    await case.touch("b")
    assert (case.cache.names(), case.cache.keeps("a")) == (["b"], False)


async def test_a_kept_model_whose_new_bundle_cannot_be_loaded_can_still_be_unloaded():
    case = Case(a=60)
    await case.keep("a")
    case.source.error = Unavailable(what="The store", problem="gone")
    with pytest.raises(Unavailable):
        await case.touch("a", "v2")
    assert case.cache.names() == ["a"], "so that a sweep tries again, or notices its deletion"
    case.cache.unload("a")
    with pytest.raises(ModelNotFound):
        case.cache.unload("a")


async def test_a_new_bundle_that_cannot_be_loaded_leaves_the_old_one_and_is_tried_when_it_is_named_or_swept():
    case, new = Case(a=40), Bundle("a", "v2", "")

    async def version(*, or_earlier: bool = True) -> str:
        async with case.cache.use(new, or_earlier=or_earlier) as entry:
            return entry.bundle.version

    await case.touch("a")
    case.source.error = Unavailable(what="The store", problem="gone")
    assert [await version() for _ in range(3)] == ["v1"] * 3
    assert len(case.source.loads) == 2, "tried once"
    assert case.cache.lacks(new)
    with pytest.raises(Unavailable):
        await version(or_earlier=False)
    case.source.gate.clear()
    again = asyncio.create_task(version(or_earlier=False))
    await settle()
    assert await version() == "v1", "others do not wait for another attempt"
    assert [model.version for model in case.cache.loaded()] == ["v1"]
    case.source.error = None
    case.source.gate.set()
    assert (await again, await version()) == ("v2", "v2")
    assert (case.used_bytes, case.source.discarded, case.cache.lacks(new)) == (40, [Path("a-v1")], False)
    assert case.telemetry.value(metrics.CACHE_EVICTIONS, reason="replaced") == 1


async def test_a_new_bundle_that_is_too_large_leaves_a_kept_model_as_it_is():
    case = Case(a=60)
    await case.keep("a")
    case.source.sizes["a"] = 101
    async with case.cache.use(Bundle("a", "v2", ""), or_earlier=True) as entry:
        assert entry.bundle.version == "v1"
    assert (case.used_bytes, case.source.discarded) == (60, [])
    case.cache.unload("a")
    assert (case.used_bytes, case.source.discarded) == (0, [Path("a-v1")])


async def test_a_bundle_that_is_being_replaced_makes_room_for_others():
    case = Case(a=40, b=60)
    await case.touch("a")
    case.source.gate.clear()
    uses = [asyncio.create_task(use) for use in (case.touch("a", "v2"), case.touch("b"))]
    await settle()
    assert case.source.discarded == [Path("a-v1")]
    case.source.gate.set()
    await asyncio.gather(*uses)
    assert sorted(case.cache.names()) == ["a", "b"]
    assert case.used_bytes == 100


async def test_a_model_that_is_deleted_while_a_new_bundle_loads_answers_with_neither():
    case = Case(a=40)
    await case.touch("a")
    case.source.gate.clear()
    new = asyncio.create_task(case.touch("a", "v2"))
    await settle()
    case.cache.discard("a")
    case.source.error = Unavailable(what="The store", problem="gone")
    case.source.gate.set()
    with pytest.raises(Unavailable):
        await new
    assert (case.cache.names(), case.used_bytes, case.source.discarded) == ([], 0, [Path("a-v1")])


async def test_of_a_deleted_model_nothing_answers_for_a_later_one_of_the_name():
    case = Case(a=40)
    async with case.cache.use(Bundle("a", "v1", "s3://b/models/a/x/trials/t/1/bundle/")):
        pass
    case.source.error = Unavailable(what="The store", problem="gone")
    with pytest.raises(Unavailable):
        async with case.cache.use(Bundle("a", "v2", "s3://b/models/a/y/trials/t/1/bundle/"), or_earlier=True):
            pass
    assert case.cache.names() == []


async def test_the_last_of_several_new_bundles_replaces_the_one_that_is_loaded():
    case = Case(a=30)
    await case.touch("a")
    case.source.gate.clear()
    uses = [asyncio.create_task(case.touch("a", version)) for version in ("v2", "v3")]
    await settle()
    case.source.gate.set()
    await asyncio.gather(*uses)
    assert [model.version for model in case.cache.loaded()] == ["v3"]
    assert (case.used_bytes, sorted(case.source.discarded)) == (30, [Path("a-v1"), Path("a-v2")])


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
        case.cache.unload("a")
        assert (case.cache.names(), case.used_bytes, case.source.discarded) == ([], 40, [])
    assert (case.used_bytes, case.source.discarded) == (0, [Path("a-v1")])
    with pytest.raises(ModelNotFound):
        case.cache.unload("a")


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
    case = Case(0.1, **dict.fromkeys(names, 5))
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
                case.cache.unload(name)
            if random.random() < 0.05:
                with suppress(ProjectQuotaExceeded):
                    await case.keep(name)
            assert sum(model.size_bytes for model in case.cache.loaded() if model.kept) <= 10

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
