"""What a trial made of category names, from the child's result to what callers see."""

import dataclasses
from collections.abc import AsyncGenerator
from pathlib import Path

from msgspec import structs

from services.kit.records import Versioned
from services.trainer.domain import Hyperparameters
from services.trainer.insight_wire import entry_message
from services.trainer.leaderboard import Entry
from services.trainer.messages import Message, Task
from services.trainer.name_use import NameEffect, NameUse
from services.trainer.planner import classifier_recipes
from services.trainer.trial_wire import trial_message
from sightline.v1 import trial_pb2
from tests.unit.trainer.worker.test_worker import T0, World, outcome


async def test_a_trial_says_what_it_made_of_category_names(tmp_path: Path) -> None:
    use = NameUse(effect=NameEffect.CENTRE, network="net", scale=0.5)

    async def reads_names(task: Task) -> AsyncGenerator[Message]:
        yield structs.replace(outcome(task, 1.0), names=use)

    world = World(tmp_path)
    await world.begin()
    await world.worker(reads_names).handle(T0)
    trial = await world.trial()
    assert trial.result is not None
    assert trial.result.names == use
    message = trial_message(Versioned(trial, 1)).category_names
    assert (message.effect, message.network, message.scale) == (trial_pb2.NameUse.CENTRE, "net", 0.5)
    verdicts: list[str] = []
    for effect in NameEffect:
        made = dataclasses.replace(trial.result, names=structs.replace(use, effect=effect))
        verdicts.append(entry_message(Entry(structs.replace(trial, result=made), True, "")).recipe)
    name = trial.recipe.name
    assert verdicts == [name, f"{name}, from category names", f"{name}, category names alone"]
    untold = dataclasses.replace(trial.result, names=NameUse())
    assert not trial_message(Versioned(structs.replace(trial, result=untold), 1)).HasField("category_names")


def test_every_recipe_of_a_classifier_keeps_to_what_the_caller_wants_of_names() -> None:
    for ignored in (False, True):
        wanted = Hyperparameters(ignore_category_names=ignored)
        for count in (500, 5_000):
            ladder = classifier_recipes.pretrained(("resnet18", "resnet50"), wanted, count)
            recipes = [classifier_recipes.first(wanted), *ladder]
            assert {recipe.names for recipe in recipes} == {not ignored}
