"""Trainings in which everything dies at random end within their budgets, without a lost or a repeated trial.

SIGHTLINE_CAMPAIGN sets their number; `make campaign` runs 500. The seed of a failure is in the test's id.
"""

import logging
import os
from dataclasses import replace
from datetime import timedelta
from functools import cache
from random import Random
from typing import Any

import pytest
from msgspec import structs

from services.trainer.datasets import Dataset
from services.trainer.domain import Hyperparameters, Model, Trial
from services.trainer.planner import classifier_recipes, selection
from services.trainer.recipe import Recipe
from services.trainer.work import WorkState
from services.vision.card import ModelKind
from tests.unit.trainer.campaign.world import Setting, World
from tests.unit.trainer.support import dataset, minimum_budget, model

TRAININGS = int(os.environ.get("SIGHTLINE_CAMPAIGN", "8"))
KINDS = {ModelKind.GENERIC_CLASSIFIER: "IMAGE_CLASSIFICATION", ModelKind.GENERIC_DETECTOR: "OBJECT_DETECTION"}
COMPARED = cache(selection._beats)
Asked = tuple[Model, tuple[Dataset, ...]]
RATES = (1e-4, 3e-4, 1e-3)


def asked(number: int, kind: ModelKind, images: int, tests: int, share: float, limits: Hyperparameters) -> Asked:
    """A model and its datasets; its budget is so many times the minimum."""
    names = [f"datasets/d{number}", *([f"datasets/t{number}"] if tests else [])]
    described: dict[str, Any] = {
        "annotation_kind": KINDS[kind],
        "categories": (("owl", images, images), ("wren", images, images)),
    }
    datasets = tuple(
        dataset(name, image_count=count, **described) for name, count in zip(names, (images, tests), strict=False)
    )
    seconds, test = share * minimum_budget(kind, limits, images, tests), names[1] if tests else ""
    fresh = model(f"models/m{number}", model_kind=kind, training_dataset=names[0], hyperparameters=limits)
    return structs.replace(fresh, budget=timedelta(seconds=seconds), test_dataset=test), datasets


def at_random(luck: Random, number: int) -> Asked:
    """The budget pays for anything between one trial and the whole ladder."""
    kind, images, tests = luck.choice(list(KINDS)), luck.choice([30, 60, 200, 1_200]), luck.choice([0, 20])
    limits = Hyperparameters(max_trials=luck.choice([None] * 7 + [3]), max_rung=luck.choice([None] * 7 + [0]))
    return asked(number, kind, images, tests, luck.choice([1.01, 5, 20, 50, 200]), limits)


def setting(seed: int, **changes: Any) -> Setting:
    luck = Random(seed)
    models = [at_random(luck, number) for number in range(luck.choice([1, 1, 2]))]
    described: dict[str, Any] = {
        "workers": luck.randint(1, 4),
        "trouble": luck.choice([0.0, 0.02, 0.08]),
        "cancels": 0.15,
        "factors": (0.5, 1.0, 3.0),
    }
    return Setting(
        seed=seed,
        models=tuple(model for model, _ in models),
        datasets=tuple(each for _, datasets in models for each in datasets),
        **(described | changes),
    )


@pytest.fixture(autouse=True)
def several_fine_tunings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier's ladder with trials that may run side by side."""
    short = classifier_recipes.pretrained

    def longer(*args: Any, **kwargs: Any) -> list[Recipe]:
        *others, last = short(*args, **kwargs)
        if not last.rung:
            return [*others, last]
        return [
            *others,
            *(structs.replace(last, name=f"{last.name}, rate {rate}", learning_rate=rate) for rate in RATES),
        ]

    monkeypatch.setattr(classifier_recipes, "pretrained", longer)


@pytest.fixture(autouse=True)
def remembered_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair of predictions is compared once in all trainings: every coordinator would come to the same result."""
    monkeypatch.setattr(selection, "_beats", COMPARED)


@pytest.mark.parametrize("seed", range(TRAININGS))
async def test_a_training_ends_within_its_budget_whatever_dies(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    await World(setting(seed)).run()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("seed", range(max(1, TRAININGS // 8)))
async def test_with_one_worker_the_trials_are_the_same_whatever_dies(seed: int) -> None:
    found: list[list[Trial]] = []
    for trouble in (0.0, 0.03, 0.06):
        one = setting(seed, workers=1, trouble=trouble, cancels=0.0, factors=(1.0,), trouble_seed=len(found))
        world = World(replace(one, models=one.models[:1]))
        await world.run()
        assert world.most_at_once == 1
        found.append(world.trials(one.models[0].name))
    undisturbed, *disturbed = found
    for trials in disturbed:
        given_up = [number for number, trial in enumerate(trials) if trial.work.state is WorkState.FAILED]
        until = given_up[0] + 1 if given_up else None  # after one whose every attempt died, more is left for others
        for one, other in zip(trials[:until], undisturbed[:until], strict=True):
            assert (one.name, one.recipe, one.parent_trial) == (other.name, other.recipe, other.parent_trial)
            allowances = [trial.work.allowance.total_seconds() for trial in (one, other)]
            assert allowances[0] == pytest.approx(allowances[1], abs=0.01)


@pytest.mark.parametrize(("kind", "images"), [("GENERIC_CLASSIFIER", 1_200), ("GENERIC_DETECTOR", 60)])
async def test_several_workers_run_trials_of_a_model_at_once_and_get_more_done(kind: str, images: int) -> None:
    pace: list[float] = []  # compute per second; with more workers, the search may also try more
    for workers in (1, 3):
        alone, datasets = asked(0, ModelKind(kind), images, 0, 200, Hyperparameters())
        world = World(Setting(seed=1, models=(alone,), datasets=datasets, workers=workers))
        await world.run()
        assert (world.most_at_once > 1) == (workers > 1)
        compute = sum(trial.work.charged.total_seconds() for trial in world.trials(alone.name))
        pace.append(compute / world.clock.monotonic())
    assert pace[1] > 1.2 * pace[0]
