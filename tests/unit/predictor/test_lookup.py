"""Lookups of models at the trainer, during outages too."""

import asyncio
import logging

import pytest

from services.kit.clock import ManualClock
from services.kit.errors import ModelNotFound, Unavailable
from services.predictor.lookup import ModelLookup
from tests.unit.predictor.support import FakeModels, info

FRESH_SECONDS = 2.0


class Case:
    """A trainer with the model `models/m`."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.models = FakeModels(info())
        self.gone: list[str] = []
        self.lookup = ModelLookup(self.models, self.clock, FRESH_SECONDS, self.gone.append)

    async def version(self) -> str:
        return (await self.lookup.find("models/m")).version

    async def answered(self) -> None:
        """Returns once no lookup is in flight."""
        await asyncio.gather(*self.lookup._asking.values(), return_exceptions=True)


async def test_concurrent_lookups_ask_the_trainer_once():
    case = Case()
    await asyncio.gather(*(case.version() for _ in range(50)))
    await case.version()
    assert case.models.calls == 1


async def test_a_new_bundle_is_noticed_once_the_answer_is_no_longer_fresh():
    case = Case()
    assert await case.version() == "v1"
    case.models.models["models/m"] = info(version="v2")
    case.clock.advance(FRESH_SECONDS - 0.1)
    assert await case.version() == "v1"
    case.clock.advance(0.1)
    assert await case.version() == "v2"


async def test_a_deleted_model_is_reported_once_its_answer_is_no_longer_fresh():
    case = Case()
    await case.version()
    case.models.models.clear()
    case.clock.advance(FRESH_SECONDS)
    with pytest.raises(ModelNotFound):
        await case.version()
    assert case.gone == ["models/m"]


async def test_while_the_trainer_does_not_respond_its_last_answer_is_used_and_logged_once(
    caplog: pytest.LogCaptureFixture,
):
    case = Case()
    await case.version()
    case.models.error = Unavailable(what="The trainer", problem="gone")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            case.clock.advance(FRESH_SECONDS)
            assert await case.version() == "v1"
            await case.answered()
    assert [record.message for record in caplog.records] == ["trainer_unreachable"]


async def test_after_an_outage_the_trainers_answers_are_used_again():
    case = Case()
    await case.version()
    case.models.error = Unavailable(what="The trainer", problem="gone")
    case.clock.advance(FRESH_SECONDS)
    await case.version()
    case.models.error = None
    case.models.models["models/m"] = info(version="v2")
    case.clock.advance(FRESH_SECONDS)
    assert await case.version() == "v1", "no caller waits for a trainer that did not respond"
    await case.answered()
    assert await case.version() == "v2"


async def test_a_model_without_an_earlier_answer_is_unavailable_while_the_trainer_does_not_respond():
    case = Case()
    case.models.error = Unavailable(what="The trainer", problem="gone")
    with pytest.raises(Unavailable):
        await case.version()


async def test_a_forgotten_model_is_looked_up_again():
    case = Case()
    await case.version()
    case.lookup.forget_except(["models/other"])
    await case.version()
    assert case.models.calls == 2


async def test_an_alias_is_remembered_with_the_model_it_stands_for():
    case = Case()
    case.models.models["models/birds@live"] = info()
    await case.lookup.find("models/birds@live")
    case.lookup.forget_except(["models/m"])
    case.models.error = Unavailable(what="The trainer", problem="gone")
    case.clock.advance(FRESH_SECONDS)
    assert (await case.lookup.find("models/birds@live")).name == "models/m", "an outage does not end predictions"
