"""How long a training will still take: at most what the budget has left, and close if all goes as planned."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.trainer.domain import Evaluation, Model, ModelState, Served, Trial, works_of
from services.trainer.ledger import total
from services.trainer.planner.plan import plan
from services.trainer.planner.steps import StartTrial
from services.trainer.planner.time_left import ahead, time_left
from services.trainer.work import Work
from services.vision.card import ModelKind
from tests.unit.trainer.support import START, TTL, detector_result, performance, result, snapshot, training

SECOND = timedelta(seconds=1)
KINDS = (ModelKind.GENERIC_CLASSIFIER, ModelKind.GENERIC_DETECTOR)


def begun(kind: ModelKind, budget: float = 3600, images: int = 300, tests: int = 0) -> Model:
    test = snapshot("datasets/test", tests) if tests else None
    changed = training(model_kind=kind, budget=timedelta(seconds=budget), test=test)
    return replace(changed, training=snapshot(count=images))


def taken(model: Model, trials: list[Trial], step: StartTrial) -> Trial:
    """The planned trial, taken by a worker."""
    assert model.training
    name = f"{model.name}/trials/t{len(trials):03d}"
    return Trial(
        name=name, model_uid=model.uid, number=len(trials), training=model.training, recipe=step.recipe,
        holdout_fraction=0.2, seed=0, expected_seconds=step.expected_seconds, parent_trial=step.parent_trial,
        work=Work(create_time=START, allowance=step.allowance).taken(name, "w", START, TTL), update_time=START,
    )  # fmt: skip


def finished(trial: Trial, right: int = 80, slower: float = 1.0, clock: float = 1.0) -> Trial:
    """It succeeded, `slower` than expected; a second of its compute took `clock` seconds."""
    used = min(trial.work.allowance, timedelta(seconds=slower * trial.expected_seconds))
    brought = (detector_result if trial.recipe.kind is ModelKind.GENERIC_DETECTOR else result)(trial, right)
    return replace(trial, work=trial.work.succeeded(START + clock * used, used), result=brought)


def serving(model: Model, trial: Trial) -> Model:
    assert trial.result
    key = trial.result.bundle_key
    return replace(
        model,
        served=Served(trial=trial.name, version="v", bundle_key=key, performance=performance(), performance_key="k"),
    )


def run(model: Model, right: int = 80) -> tuple[Model, list[Trial], list[timedelta | None]]:
    """A training in which every trial succeeds as expected, and the estimate whenever a trial has begun."""
    trials: list[Trial] = []
    estimates: list[timedelta | None] = []
    while isinstance(step := plan(model, trials, None), StartTrial):
        trial = taken(model, trials, step)
        estimates.append(time_left(model, [*trials, trial], None))
        trials.append(finished(trial, right))
        model = serving(model, trials[-1])
    return model, trials, estimates


def test_there_is_no_estimate_before_the_first_trial_and_after_the_end() -> None:
    model = begun(ModelKind.GENERIC_CLASSIFIER)
    assert time_left(model, [], None) is None
    ended, trials, _ = run(model)
    assert time_left(replace(ended, state=ModelState.SUCCEEDED), trials, None) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [40, 300, 2000])
def test_once_there_is_a_result_the_estimate_is_what_the_trials_take(kind: ModelKind, images: int) -> None:
    _, trials, estimates = run(begun(kind, images=images))
    assert len(trials) > 1
    for number, estimate in enumerate(estimates[1:], 1):
        assert estimate is not None
        took = total(trial.work.charged for trial in trials[number:])
        assert took / 1.5 <= estimate <= took * 1.5, f"after {number} of {len(trials)} trials"


def test_a_running_trial_is_extrapolated_by_its_own_pace_once_it_has_got_somewhere() -> None:
    model = begun(ModelKind.GENERIC_CLASSIFIER)
    step = plan(model, [], None)
    assert isinstance(step, StartTrial)
    trial = taken(model, [], step)
    expected = timedelta(seconds=trial.expected_seconds)
    assert time_left(model, [trial], None) == expected
    early = trial.work.beaten(START, TTL, used=2 * SECOND, progress=0.05, phase="features")
    assert time_left(model, [replace(trial, work=early)], None) == expected - 2 * SECOND
    slow = trial.work.beaten(START, TTL, used=10 * SECOND, progress=0.5, phase="features")
    assert time_left(model, [replace(trial, work=slow)], None) == 10 * SECOND


def test_trials_that_run_side_by_side_take_as_long_as_the_longest() -> None:
    model = begun(ModelKind.GENERIC_CLASSIFIER)
    step = plan(model, [], None)
    assert isinstance(step, StartTrial)
    trials = [taken(model, [], step), taken(model, [], step)]
    halfway = trials[0].work.beaten(START, TTL, used=10 * SECOND, progress=0.5, phase="features")
    assert time_left(model, [replace(trials[0], work=halfway), trials[1]], None) == max(
        10 * SECOND, timedelta(seconds=step.expected_seconds)
    )


def test_the_estimate_is_in_clock_time_by_what_earlier_trials_took() -> None:
    model = begun(ModelKind.GENERIC_CLASSIFIER)
    step = plan(model, [], None)
    assert isinstance(step, StartTrial)
    first = taken(model, [], step)
    at_pace, twice = (finished(first, clock=ratio) for ratio in (1.0, 2.0))
    estimates = [time_left(serving(model, trial), [trial], None) for trial in (at_pace, twice)]
    assert estimates[0]
    assert estimates[1] == 2 * estimates[0]


def test_the_final_evaluation_is_part_of_the_estimate_and_alone_once_it_runs() -> None:
    model, trials, _ = run(begun(ModelKind.GENERIC_CLASSIFIER, tests=500))
    left = time_left(model, trials, None)
    assert left
    assert left > SECOND
    assert model.test
    final = Evaluation(
        name=f"{model.name}/evaluations/final", model_uid=model.uid, test_dataset="datasets/test", test=model.test,
        model_version="v", bundle_key="k", model_kind=model.model_kind, update_time=START,
        work=Work(create_time=START, allowance=timedelta(seconds=600)),
    )  # fmt: skip
    assert time_left(model, trials, final) == left
    halfway = final.work.taken(final.name, "w", START, TTL).beaten(
        START, TTL, used=3 * SECOND, progress=0.75, phase="evaluate"
    )
    assert time_left(model, trials, replace(final, work=halfway)) == SECOND


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    budget=st.floats(20, 4000),
    images=st.integers(4, 3000),
    outcomes=st.lists(st.tuples(st.booleans(), st.floats(0.1, 5), st.integers(0, 100)), min_size=12, max_size=12),
)
def test_it_never_promises_more_compute_than_the_budget_has_left(
    kind: ModelKind, budget: float, images: int, outcomes: list[tuple[bool, float, int]]
) -> None:
    model, trials = begun(kind, budget, images), list[Trial]()
    for succeeds, slower, right in outcomes:
        step = plan(model, trials, None)
        if not isinstance(step, StartTrial):
            break
        trial = taken(model, trials, step)
        estimate = time_left(model, [*trials, trial], None)
        spent = total(work.charged for work in works_of(trials, None))
        assert estimate is not None
        assert timedelta(0) <= estimate <= model.budget - spent
        assert all(later.recipe != trial.recipe for later in ahead(model, [*trials, trial]))
        if succeeds:
            trials.append(finished(trial, right, slower))
            model = serving(model, trials[-1])
        else:
            trials.append(replace(trial, work=trial.work.stopped(START + trial.work.allowance)))
