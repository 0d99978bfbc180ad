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
from services.trainer.planner.plan import whole_ladder
from services.trainer.trial_wire import trial_message
from services.vision.card import ModelKind
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
        for chosen in (wanted, dataclasses.replace(wanted, backbones=("resnet18", "resnet50"))):
            ladder = whole_ladder(ModelKind.GENERIC_CLASSIFIER, chosen, 5_000)
            assert len(ladder) > 2
            assert {recipe.names for recipe in ladder} == {not ignored}
