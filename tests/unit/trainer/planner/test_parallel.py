"""Trials side by side: only independent ones, only for free workers, and never for more than the budget."""

from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.kit.errors import Failure
from services.trainer.domain import Hyperparameters, Model, Trial, granted
from services.trainer.planner import classifier_recipes, costs, detector_recipes
from services.trainer.planner.plan import plan
from services.trainer.planner.steps import Fail, Finish, StartEvaluation, StartTrial, Step, Wait
from services.trainer.recipe import BoxStatistics, Recipe
from services.trainer.work import Work
from services.vision.card import ModelKind, WeightsSource
from tests.unit.trainer.support import (
    START,
    TTL,
    boxes,
    detector_result,
    result,
    served_by_score,
    snapshot,
    training,
)

DIVERGED = Failure(9, "diverged", "It diverged.")
CLASSIFIER, DETECTOR = ModelKind.GENERIC_CLASSIFIER, ModelKind.GENERIC_DETECTOR


def begun(kind: ModelKind, seconds: float, images: int = 100, tests: int = 0, **asked: Any) -> Model:
    test = snapshot("datasets/test", tests) if tests else None
    found = training(model_kind=kind, budget=timedelta(seconds=seconds), test=test)
    return replace(found, training=snapshot(count=images), hyperparameters=Hyperparameters(**asked))


def planned(model: Model, number: int, step: StartTrial) -> Trial:
    assert model.training
    return Trial(
        name=f"{model.name}/trials/t{number:03d}",
        model_uid=model.uid,
        number=number,
        training=model.training,
        recipe=step.recipe,
        holdout_fraction=0.2,
        seed=0,
        parent_trial=step.parent_trial,
        work=Work(create_time=START, allowance=step.allowance).taken("t", "w", START, TTL),
        update_time=START,
    )


def done(trial: Trial, used: timedelta, right: int = 80, **described: Any) -> Trial:
    work = trial.work.beaten(START, TTL, used=used, progress=1.0, phase="train").succeeded(START, used)
    brought = (result if trial.recipe.kind is CLASSIFIER else detector_result)(trial, right, **described)
    return replace(trial, work=work, result=brought)


class Search:
    """A search with some workers, whose trials end when the test says so."""

    def __init__(self, model: Model, workers: int = 2, pace: float = 1.0) -> None:
        self.model, self.workers, self.pace = model, workers, pace
        self.trials: list[Trial] = []

    @property
    def running(self) -> list[int]:
        return [trial.number for trial in self.trials if not trial.work.ended]

    def step(self) -> Step:
        """What the planner says now."""
        self.model = served_by_score(self.model, self.trials)
        return plan(self.model, self.trials, None, self.workers - len(self.running))

    def start(self) -> list[int]:
        """Starts what the planner asks for until it waits or stops; returns the numbers of what runs."""
        while isinstance(step := self.step(), StartTrial):
            assert len(self.running) < self.workers or not self.running
            self.trials.append(planned(self.model, len(self.trials), step))
            assert granted(self.trials, None) <= self.model.budget
        return self.running

    def end(self, number: int, right: int = 80, **described: Any) -> None:
        """The trial succeeds after its expected time, or what it is allowed."""
        trial = self.trials[number]
        seconds = self.pace * costs.expected_seconds(trial.recipe, trial.training.image_count)
        self.trials[number] = done(trial, min(timedelta(seconds=seconds), trial.work.allowance), right, **described)

    def recipe(self, number: int) -> Recipe:
        return self.trials[number].recipe


def test_nothing_runs_beside_the_first_trial_which_shows_what_there_is() -> None:
    for kind in (CLASSIFIER, DETECTOR):
        search = Search(begun(kind, 3600), workers=4)
        assert search.start() == [0]


def test_without_a_free_worker_trials_run_in_turn() -> None:
    for free in (0, 1):
        search = Search(begun(DETECTOR, 3600), workers=free)
        for number in range(3):
            assert search.start() == [number]
            search.end(number)


@pytest.mark.parametrize("kind", [CLASSIFIER, DETECTOR])
def test_one_worker_gets_the_same_trials_and_allowances_whether_it_is_counted_or_not(kind: ModelKind) -> None:
    both = [Search(begun(kind, 9_000, 2_000), workers=free) for free in (0, 1)]
    for number in range(20):
        steps = [search.step() for search in both]
        assert steps[0] == steps[1]
        if not isinstance(steps[0], StartTrial):
            break
        for search in both:
            search.start()
            search.end(number)
    assert len(both[0].trials) > 2


def test_probes_run_side_by_side() -> None:
    search = Search(begun(DETECTOR, 3600))
    search.start()
    search.end(0)
    assert search.start() == [1, 2]
    assert len({search.recipe(number).name for number in (1, 2)}) == 2
    assert all("probe" in search.recipe(number).name for number in (1, 2))
    search.end(2)
    assert search.start() == [1, 3]


def after_probes(model: Model) -> Search:
    """A detector's search whose probes have ended; nothing runs."""
    search = Search(model, 2)
    while True:
        step = search.step()
        if isinstance(step, StartTrial) and detector_recipes.is_long(step.recipe, 100):
            return search
        for number in search.start():
            search.end(number, 80, epochs=search.recipe(number).max_epochs)


def test_the_long_run_waits_for_all_probes() -> None:
    search = Search(begun(DETECTOR, 900))
    search.start()
    search.end(0)
    while len(search.start()) == 2:
        search.end(search.running[0])
    (last,) = search.running
    assert "probe" in search.recipe(last).name
    assert search.step() == Wait()
    search.end(last)
    while isinstance(step := search.step(), StartTrial) and "probe" in step.recipe.name:
        for number in search.start():  # what the probes did not use pays for another
            assert "probe" in search.recipe(number).name
            search.end(number)
    assert isinstance(step, StartTrial)
    assert detector_recipes.is_long(step.recipe, 100)


def test_the_refit_runs_beside_the_long_run_and_counts_once_that_is_the_best() -> None:
    search = after_probes(begun(DETECTOR, 900))
    long, refit = search.start()
    assert detector_recipes.is_long(search.recipe(long), 100)
    assert search.recipe(refit) == detector_recipes.refit(search.recipe(long))
    assert search.trials[refit].parent_trial == search.trials[long].name
    shares = [search.trials[number].work.allowance.total_seconds() for number in (long, refit)]
    expected = [costs.expected_seconds(search.recipe(number), 100, 416) for number in (long, refit)]
    assert shares[0] / shares[1] == pytest.approx(expected[0] / expected[1], rel=0.01)
    search.end(refit)
    first = served_by_score(search.model, search.trials).served
    assert first
    assert first.trial not in (search.trials[long].name, search.trials[refit].name)
    assert search.step() == Wait()
    search.end(long, 90)
    assert isinstance(search.step(), Finish)
    assert search.model.served
    assert search.model.served.trial == search.trials[refit].name


def test_if_the_long_run_is_not_the_best_the_best_trial_still_gets_its_refit() -> None:
    search = after_probes(begun(DETECTOR, 1800))
    long, refit = search.start()
    search.end(refit)
    search.end(long, 10)
    assert search.model.served
    best = search.model.served.trial
    (last,) = search.start()
    assert search.recipe(last).refit
    assert search.trials[last].parent_trial == best
    search.end(last)
    assert isinstance(search.step(), Finish)
    assert search.model.served.trial == search.trials[last].name


def test_a_fine_tuning_waits_for_the_head_that_tells_whether_it_may_mirror() -> None:
    few, many = (Search(begun(CLASSIFIER, 36_000, images)) for images in (1_000, 30_000))
    for search in (few, many):
        search.start()
        search.end(0)
    assert [few.recipe(number).rung for number in few.start()] == [0]
    assert [many.recipe(number).rung for number in many.start()] == [0, 1]
    few.end(1, mirror=False)
    whole, in_part = map(few.recipe, few.start())
    assert (whole.stored_maps, in_part.stored_maps) == (False, True)
    assert not whole.mirror
    assert not in_part.mirror


@pytest.fixture
def three_tunings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first head is followed by three fine-tunings that do not depend on one another."""

    def several(
        backbones: tuple[str, ...], wanted: Hyperparameters, image_count: int, *, mirror: bool = True
    ) -> list[Recipe]:
        return [Recipe(name=name, rung=1, backbones=("mobilenet_v2",)) for name in "abc"]

    monkeypatch.setattr(classifier_recipes, "pretrained", several)


@pytest.mark.usefixtures("three_tunings")
def test_independent_fine_tunings_divide_the_budget_and_the_last_one_may_use_all_that_is_left() -> None:
    search = Search(begun(CLASSIFIER, 3600))
    search.start()
    search.end(0)
    assert search.start() == [1, 2]
    left = search.model.budget - granted(search.trials, None)
    assert left > search.trials[1].work.allowance == search.trials[2].work.allowance
    search.end(2)
    assert search.start() == [1, 3]
    assert granted(search.trials, None) == search.model.budget


@pytest.mark.usefixtures("three_tunings")
def test_beside_a_trial_that_was_granted_all_that_is_left_nothing_starts() -> None:
    search = Search(begun(CLASSIFIER, 3600), workers=1)
    search.start()
    search.end(0)
    assert search.start() == [1]
    search.workers = 4
    assert search.step() == Wait()
    search.end(1)
    assert search.start() == [2, 3]


statistics = st.builds(
    BoxStatistics,
    count=st.integers(1, 10**5),
    fewest=st.integers(1, 1000),
    small_size=st.floats(0.005, 0.9),
    longer_side=st.integers(50, 10_000),
)


@settings(max_examples=150, deadline=None)
@example(kind=CLASSIFIER, budget=900.0, images=5000, tests=50, workers=3, seed=0, found=boxes(), free=4)
@given(
    kind=st.sampled_from([CLASSIFIER, DETECTOR]),
    budget=st.floats(2, 20_000),
    images=st.sampled_from([30, 300, 1_000, 5_000, 30_000]),
    tests=st.sampled_from([0, 50]),
    workers=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    found=statistics,
    free=st.integers(2, 5),
)
def test_in_whatever_order_trials_end_every_training_ends_within_its_budget(
    kind: ModelKind, budget: float, images: int, tests: int, workers: int, seed: int, found: BoxStatistics, free: int
) -> None:
    random = Random(seed)
    search = Search(begun(kind, budget, images, tests), workers)
    network = {"backbones": ("mobilenet_v2", "efficientnet_lite2") if kind is CLASSIFIER else ("yolox_nano",)}
    for _ in range(200):
        search.start()
        if not search.running:
            break
        number = random.choice(search.running)
        trial = search.trials[number]
        used = random.random() * trial.work.allowance
        match random.choice(["succeed", "succeed", "succeed", "stop", "fail"]):
            case "succeed":
                extra = network if kind is CLASSIFIER else network | {"boxes": found}
                source = random.choice([WeightsSource.FOLDER, WeightsSource.RANDOM])
                search.trials[number] = done(trial, used, random.randint(0, 99), weights_source=source, **extra)
            case "stop":
                search.trials[number] = replace(trial, work=trial.work.stopped(START))
            case _:
                search.trials[number] = replace(trial, work=trial.work.failed(START, DIVERGED))
    else:
        pytest.fail("it never ended")
    names = [trial.recipe.name for trial in search.trials]
    assert len(set(names)) == len(names)
    step = search.step()
    assert type(step) is type(plan(search.model, search.trials, None, free)), "the number of workers decides no end"
    match step:
        case StartEvaluation(allowance):
            assert granted(search.trials, None) + allowance == search.model.budget
            assert allowance > timedelta(0)
        case Finish():
            assert not tests
        case _:
            assert isinstance(step, Fail)
            assert search.model.served is None
