"""A detector's ladder: its settings suit the boxes, and most of the budget, never exceeded, goes to the last trials."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.kit.errors import Failure, NotEnoughBudget
from services.trainer.domain import Hyperparameters, Model, StopReason, Trial, training_cost
from services.trainer.ledger import total
from services.trainer.planner import costs, detector_recipes
from services.trainer.planner.needs import check_budget
from services.trainer.planner.plan import plan
from services.trainer.planner.steps import Fail, Finish, StartEvaluation, StartTrial, Step, Wait
from services.trainer.prediction_cost import keeps_to, least_seconds
from services.trainer.recipe import BoxStatistics, Depth, Recipe
from services.trainer.work import Work
from services.vision.card import ModelKind, WeightsSource
from services.vision.catalogue import DETECTORS
from tests.unit.trainer.support import (
    START,
    TTL,
    boxes,
    detector_result,
    minimum_budget,
    model,
    served_by_score,
    snapshot,
    suggested_budget,
    training,
)

DETECTOR = ModelKind.GENERIC_DETECTOR
DIVERGED = Failure(9, "diverged", "It diverged.")
RANDOM = WeightsSource.RANDOM
NANO = "yolox_nano"
NETWORKS = sorted(DETECTORS)

Score = Callable[[Recipe], float]


def detector(budget: float, images: int = 100, tests: int = 0, **hyperparameters: Any) -> Model:
    begun = training(
        model_kind=DETECTOR, budget=timedelta(seconds=budget), test=snapshot("datasets/test", tests) if tests else None
    )
    return replace(begun, training=snapshot(count=images), hyperparameters=Hyperparameters(**hyperparameters))


def planned(model: Model, trials: list[Trial], step: StartTrial) -> Trial:
    assert model.training
    return Trial(
        name=f"{model.name}/trials/t{len(trials):03d}",
        model_uid=model.uid,
        number=len(trials),
        training=model.training,
        recipe=step.recipe,
        holdout_fraction=0.2,
        seed=0,
        parent_trial=step.parent_trial,
        work=Work(create_time=START, allowance=step.allowance).taken("t", "w", START, TTL),
        update_time=START,
    )


def ended(trial: Trial, used: timedelta, **changes: Any) -> Trial:
    """The trial after it has succeeded in this time."""
    work = trial.work.beaten(START, TTL, used=used, progress=1.0, phase="train").succeeded(START, used)
    return replace(trial, work=work, result=detector_result(trial, **changes))


def climbed(
    asked: Model,
    score: Score = lambda recipe: 0.5 + 0.1 * recipe.rung,
    *,
    pace: float = 1.0,
    found: BoxStatistics | None = None,
    **described: Any,
) -> tuple[list[Trial], Step]:
    """A whole training whose trials take `pace` times the predicted time and find boxes like `found`."""
    trials: list[Trial] = []
    while isinstance(step := plan(served_by_score(asked, trials), trials, None), StartTrial):
        trial = planned(asked, trials, step)
        whole = pace * costs.expected_seconds(trial.recipe, trial.training.image_count)
        used = min(timedelta(seconds=whole), trial.work.allowance)
        changes: dict[str, Any] = {
            "epochs": max(1, int(trial.recipe.max_epochs * used.total_seconds() / whole)),
            "boxes": found or boxes(),
            "score": 0.0 if trial.recipe.refit else score(trial.recipe),
        } | described
        trials.append(ended(trial, used, **changes))
    return trials, step


def tuned(trials: list[Trial]) -> list[Recipe]:
    return [trial.recipe for trial in trials if trial.recipe.rung]


def long_recipe(images: int) -> Recipe:
    return detector_recipes.long(detector_recipes.SearchPoint(NANO, 416, detector_recipes.RATE), images)


outcomes = st.lists(
    st.tuples(st.sampled_from(["succeed", "stop", "fail", "cancel"]), st.floats(0.01, 1), st.integers(0, 100)),
    min_size=60,
    max_size=60,
)
wanted = st.builds(
    Hyperparameters,
    backbones=st.lists(st.sampled_from(NETWORKS), max_size=3, unique=True).map(tuple),
    max_rung=st.none() | st.integers(0, 2),
    max_trials=st.none() | st.integers(1, 5),
    resolution=st.none() | st.sampled_from([320, 640]),
    max_prediction_seconds=st.none() | st.floats(0.0005, 1.0),
)
statistics = st.none() | st.builds(
    BoxStatistics,
    count=st.integers(1, 10**5),
    fewest=st.integers(1, 1000),
    small_size=st.floats(0.005, 0.9),
    longer_side=st.integers(50, 10_000),
)


@settings(max_examples=200, deadline=None)
@given(
    budget=st.floats(2, 20_000),
    images=st.sampled_from([2, 30, 300, 5000]),
    tests=st.sampled_from([0, 50]),
    asked=wanted,
    results=outcomes,
    reach=st.lists(st.sampled_from([*NETWORKS, "unheard_of"]), max_size=4, unique=True).map(tuple),
    source=st.sampled_from([WeightsSource.FOLDER, WeightsSource.YOLOX, WeightsSource.RANDOM]),
    found=statistics,
)
def test_every_training_ends_within_its_budget(
    budget: float,
    images: int,
    tests: int,
    asked: Hyperparameters,
    results: list[tuple[str, float, int]],
    reach: tuple[str, ...],
    source: str,
    found: BoxStatistics | None,
) -> None:
    present = replace(detector(budget, images, tests), hyperparameters=asked)
    trials: list[Trial] = []
    for how, share, right in results:
        present = served_by_score(present, trials)
        step = plan(present, trials, None)
        if not isinstance(step, StartTrial):
            break
        assert step.allowance_seconds > 0
        trial = planned(present, trials, step)
        assert plan(present, [*trials, trial], None) == Wait()
        used = share * step.allowance
        work = trial.work.beaten(START, TTL, used=used, progress=share, phase="train")
        brought = None
        match how:
            case "succeed":
                work = work.succeeded(START, used)
                brought = detector_result(trial, right, boxes=found, backbones=reach, weights_source=source)
            case "stop":
                work = work.stopped(START)
            case "cancel":
                work = work.cancelled(START)
            case _:
                work = work.failed(START, DIVERGED)
        trials.append(replace(trial, work=work, result=brought))
    else:
        pytest.fail("it never ended")
    assert training_cost(trials, None) <= present.budget
    recipes = [trial.recipe for trial in trials]
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    assert [recipe.rung for recipe in recipes[:1]] == [0] * len(recipes[:1])
    assert not any(recipe.refit for recipe in recipes[:-1]), "a refit is the end"
    assert asked.max_trials is None or len(trials) <= asked.max_trials
    assert asked.max_rung is None or all(recipe.rung <= asked.max_rung for recipe in recipes)
    assert asked.resolution is None or all(recipe.resolution == asked.resolution for recipe in recipes)
    if (asked.max_prediction_seconds or 1) >= least_seconds(DETECTOR, asked.backbones, asked.resolution)[0]:
        assert all(keeps_to(recipe, asked.max_prediction_seconds) for recipe in recipes)
    assert all(recipe.resolution % 32 == 0 and recipe.kind is DETECTOR for recipe in recipes)
    if present.served is None:
        assert isinstance(step, Fail)
    elif not tests:
        assert isinstance(step, Finish)
    else:
        assert isinstance(step, StartEvaluation)
        assert training_cost(trials, None) + step.allowance <= present.budget


def test_a_budget_of_seconds_pays_only_for_a_head() -> None:
    asked = detector(1.0, images=28)
    with pytest.raises(NotEnoughBudget) as caught:
        check_budget(asked, 28, 0)
    least = float(caught.value.metadata["minimum_seconds"])
    assert least < 30
    trials, step = climbed(detector(least, images=28))
    assert [trial.recipe.depth for trial in trials] == [Depth.HEAD]
    assert step == Finish(StopReason.BUDGET_REACHED)


def test_the_suggested_budget_pays_for_the_whole_ladder() -> None:
    suggested = suggested_budget(DETECTOR, Hyperparameters(), 100, 20)
    trials, _ = climbed(detector(suggested, tests=20))
    assert trials[0].recipe.depth is Depth.HEAD
    assert trials[-1].recipe.refit


def test_few_boxes_lead_to_a_lower_rate_if_the_frozen_network_finds_such_objects() -> None:
    few, many = boxes(fewest=20), boxes(fewest=500)

    def first(found: BoxStatistics, head: float) -> float:
        trials, _ = climbed(detector(600), lambda recipe: 0.9 if recipe.rung else head, found=found)
        return tuned(trials)[0].learning_rate

    assert first(few, 0.5) == detector_recipes.GENTLE_RATE
    assert first(few, 0.1) == first(many, 0.5) == first(many, 0.1) == detector_recipes.RATE


def test_small_boxes_lead_to_a_larger_input_if_the_budget_pays_for_it() -> None:
    small = boxes(small_size=0.02, longer_side=1200)
    assert tuned(climbed(detector(36_000), found=small)[0])[0].resolution == detector_recipes.MAX_SIDE
    assert tuned(climbed(detector(200), found=small)[0])[0].resolution == DETECTORS[NANO].rule.size
    coarse = boxes(small_size=0.03, longer_side=300)
    assert tuned(climbed(detector(36_000), found=coarse)[0])[0].resolution < detector_recipes.MAX_SIDE


@pytest.mark.parametrize(("longer_side", "side"), [(300, 416), (480, 480), (640, 640), (4000, 640)])
def test_however_large_the_boxes_are_inputs_are_as_large_as_the_images_up_to_the_usual_side(
    longer_side: int, side: int
) -> None:
    found = boxes(small_size=0.3, longer_side=longer_side)
    assert tuned(climbed(detector(3600), found=found)[0])[0].resolution == side


@pytest.mark.parametrize(("budget", "side"), [(480, 640), (180, 512), (100, 416)])
def test_a_larger_input_is_chosen_only_if_most_of_the_long_schedule_fits_after_its_probe(
    budget: float, side: int
) -> None:
    trials, _ = climbed(detector(budget, 60), found=boxes(small_size=0.3))
    assert tuned(trials)[0].resolution == side


def test_a_larger_input_that_does_better_is_used_in_the_end() -> None:
    medium = boxes(small_size=0.08, longer_side=1000)
    usual, next_ = detector_recipes.USUAL_SIDE, detector_recipes.larger_side(detector_recipes.USUAL_SIDE, medium)
    assert next_ is not None
    trials, _ = climbed(detector(7200), lambda recipe: 0.4 + recipe.resolution / 3000, found=medium)
    assert (tuned(trials)[0].resolution, tuned(trials)[-1].resolution) == (usual, next_)
    trials, _ = climbed(detector(7200), lambda recipe: 0.9 - recipe.resolution / 3000, found=medium)
    assert [recipe.resolution for recipe in tuned(trials)].count(next_) == 1
    assert tuned(trials)[-1].resolution < next_


def test_input_and_rate_are_varied_however_few_boxes_there_are() -> None:
    few = boxes(count=28, fewest=14, small_size=0.4, longer_side=800)
    trials, _ = climbed(detector(3600, 28), lambda recipe: 0.8 + 0.1 * (recipe.resolution == 640), found=few)
    probed = [trial.recipe for trial in trials if trial.recipe.name.endswith("probe")]
    assert {recipe.resolution for recipe in probed} == {416, 640, 800}
    assert len({recipe.learning_rate for recipe in probed}) == 2


def test_a_smaller_input_is_tried_unless_it_would_lose_boxes() -> None:
    for size, tried in ((0.3, True), (0.04, False)):
        found = boxes(small_size=size, longer_side=640)
        trials, _ = climbed(detector(7200), lambda recipe: recipe.resolution / 1000, found=found)
        assert (416 in {recipe.resolution for recipe in tuned(trials)}) == tried


def test_the_rate_that_does_best_is_used_in_the_end() -> None:
    trials, _ = climbed(detector(7200), lambda recipe: 0.5 + 0.1 * recipe.rung - recipe.learning_rate)
    rates = [recipe.learning_rate for recipe in tuned(trials)]
    assert len(set(rates)) > 2
    assert rates[-1] == min(rates)
    *_, long, refit = trials
    assert refit.recipe.refit
    assert refit.parent_trial == long.name
    assert refit.recipe.max_epochs == long.recipe.max_epochs


def test_a_large_budget_tries_head_and_neck_alone_and_keeps_them_if_they_do_better() -> None:
    trials, _ = climbed(detector(7200), lambda recipe: 0.8 if recipe.depth is Depth.NECK else 0.5)
    assert tuned(trials)[0].depth is Depth.ALL
    assert tuned(trials)[-1].depth is Depth.NECK
    trials, _ = climbed(detector(7200), lambda recipe: 0.5 if recipe.depth is Depth.NECK else 0.8)
    assert [recipe.depth for recipe in tuned(trials)].count(Depth.NECK) == 1
    assert tuned(trials)[-1].depth is Depth.ALL


@pytest.mark.parametrize(("images", "budget"), [(270, 600), (60, 300), (28, 240)])
@pytest.mark.parametrize("pace", [0.5, 1.0, 2.0])
def test_most_of_a_small_budget_is_spent_on_the_last_trials(images: int, budget: float, pace: float) -> None:
    trials, _ = climbed(detector(budget, images, 50), lambda recipe: 0.5 + recipe.resolution / 1e4, pace=pace)
    long = [t.work.charged for t in trials if t.recipe.rung and not t.recipe.name.endswith("probe")]
    assert long
    assert total(long) >= 0.45 * training_cost(trials, None)
    assert trials[-1].recipe.rung


def test_a_large_set_keeps_its_validation_images() -> None:
    trials, _ = climbed(detector(100_000, images=detector_recipes.REFIT_IMAGES + 1))
    assert not any(trial.recipe.refit for trial in trials)
    assert detector_recipes.is_long(trials[-1].recipe, trials[-1].training.image_count)
    assert trials[-1].recipe.patience  # enough images to stop early by


def test_a_long_schedule_that_did_worse_is_not_refitted() -> None:
    long = long_recipe(100)
    trials, _ = climbed(detector(7200), lambda recipe: 0.9 - 0.01 * (recipe.max_epochs >= long.max_epochs))
    *_, refit = trials
    assert refit.recipe.refit
    assert refit.recipe.max_epochs < long.max_epochs


def test_a_long_schedule_that_had_no_time_for_all_epochs_is_refitted_with_as_many() -> None:
    asked, trials = detector(480, images=80), list[Trial]()
    for seconds, epochs in ((50, detector_recipes.HEAD_EPOCHS), (192, 30)):  # the machine was busy at first
        step = plan(served_by_score(asked, trials), trials, None)
        assert isinstance(step, StartTrial)
        used = timedelta(seconds=seconds)
        trials.append(ended(planned(asked, trials, step), used, epochs=epochs, score=0.5 + 0.1 * step.recipe.rung))
    assert trials[-1].recipe.max_epochs == 40
    step = plan(served_by_score(asked, trials), trials, None)
    assert isinstance(step, StartTrial)
    assert (step.recipe.refit, step.recipe.max_epochs) == (True, 30)


@pytest.mark.parametrize("pace", [1.0, 8.0, 16.0, 20.0])
def test_on_a_slow_machine_a_short_schedule_follows_the_head_rather_than_none(pace: float) -> None:
    trials, _ = climbed(detector(480, images=80, tests=50), pace=pace)
    assert tuned(trials)


def test_a_perfect_score_ends_the_search_but_not_before_a_refit() -> None:
    trials, step = climbed(detector(7200), lambda recipe: 1.0)
    assert [trial.recipe.rung for trial in trials] == [0, 1, 1]
    assert trials[-1].recipe.refit
    assert step == Finish(StopReason.CONVERGED)
    trials, step = climbed(detector(100_000, images=10_000), lambda recipe: 1.0)
    assert len(trials) == 1
    assert step == Finish(StopReason.CONVERGED)


def test_larger_networks_are_tried_if_the_budget_pays_for_them() -> None:
    for larger in ("yolox_s", "dfine_nano", "rfdetr_small"):
        reach = (NANO, larger)
        rich, _ = climbed(
            detector(36_000), lambda recipe, name=larger: 0.5 + 0.3 * (name in recipe.backbones), backbones=reach
        )
        assert rich[-1].recipe.backbones == (larger,)
        poor, _ = climbed(detector(400), backbones=reach)
        assert {trial.recipe.backbones for trial in poor} == {(NANO,)}


def test_transformers_have_their_own_rates_and_come_before_other_networks() -> None:
    reach = (NANO, "yolox_s", "dfine_nano")
    trials, _ = climbed(detector(36_000), backbones=reach)
    first, second, third = tuned(trials)[:3]
    assert [recipe.backbones for recipe in (first, second, third)] == [(NANO,), ("dfine_nano",), ("yolox_s",)]
    assert (first.learning_rate, first.backbone_rate) == (detector_recipes.RATE, 1.0)
    assert (second.learning_rate, second.backbone_rate) == (detector_recipes.TRANSFORMER_RATE, 0.5)
    assert tuned(climbed(detector(36_000), backbones=(NANO,))[0])[1].backbones == (NANO,)


def test_without_pretrained_weights_it_trains_random_ones_for_longer() -> None:
    trials, _ = climbed(detector(7200), weights_source=RANDOM, backbones=())
    first, second = tuned(trials)
    assert not first.pretrained
    assert first.max_epochs > long_recipe(100).max_epochs
    assert first.learning_rate > detector_recipes.RATE
    assert second.refit


def test_random_weights_are_trained_on_inputs_as_small_as_the_boxes_allow() -> None:
    for size, side in ((0.5, 160), (0.22, 192), (0.15, 256), (0.001, 256)):
        found = boxes(small_size=size, longer_side=256)
        trials, _ = climbed(detector(7200), weights_source=RANDOM, backbones=(), found=found)
        assert tuned(trials)[0].resolution == side


@pytest.mark.parametrize("budget", [40, 60, 300])
def test_from_random_weights_one_long_schedule_takes_the_whole_budget(budget: float) -> None:
    trials, step = climbed(detector(budget, 240), weights_source=RANDOM, backbones=(), found=boxes(longer_side=256))
    assert len(trials) == 2
    assert trials[1].work.allowance.total_seconds() == pytest.approx(budget - trials[0].work.charged.total_seconds())
    assert not trials[1].recipe.mirror
    assert step == Finish(StopReason.BUDGET_REACHED)


@pytest.mark.parametrize("budget", range(160, 700, 20))
def test_no_probe_shortens_the_end_with_the_settings_that_it_did_not_beat(budget: int) -> None:
    trials, _ = climbed(detector(budget, 90), lambda recipe: 0.5 + recipe.resolution / 1e4)
    first, *others, last = tuned(trials)
    if any(recipe.name.endswith("probe") for recipe in others):
        assert last.refit
        whole = costs.expected_seconds(last, 90)
        assert trials[-1].work.charged.total_seconds() >= 0.99 * whole
        assert last.max_epochs >= long_recipe(90).max_epochs
        assert last.resolution == first.resolution


def test_what_the_probes_leave_lengthens_the_long_schedule_and_its_refit() -> None:
    usual = long_recipe(60).max_epochs
    ends: list[int] = []
    for budget in (300, 1000, 36_000):
        trials, step = climbed(detector(budget, 60), lambda recipe: 0.5 + 0.1 * recipe.rung + recipe.max_epochs / 1e4)
        *_, last = tuned(trials)
        assert last.refit
        assert {recipe.max_epochs for recipe in tuned(trials) if recipe.max_epochs >= usual} == {last.max_epochs}
        ends.append(last.max_epochs)
    assert step == Finish(StopReason.LADDER_COMPLETED)
    assert ends == sorted(ends)
    assert usual <= ends[0] < ends[-1] == detector_recipes.LONGEST * usual


def test_the_ladder_ends_with_budget_left_only_when_nothing_is_left_to_try() -> None:
    for budget in (200, 300, 480, 700, 1000):
        trials, step = climbed(detector(budget, 60), lambda recipe: 0.5 + 0.1 * recipe.rung + recipe.resolution / 1e5)
        assert training_cost(trials, None).total_seconds() > 0.75 * budget, (budget, step)


def test_only_networks_with_available_weights_are_tuned() -> None:
    trials, _ = climbed(detector(3600), weights_source=RANDOM, backbones=("ssdlite320_mobilenet_v3_large",))
    assert {recipe.backbones for recipe in tuned(trials)} == {("ssdlite320_mobilenet_v3_large",)}
    assert all(recipe.pretrained for recipe in tuned(trials))


def test_a_detector_without_a_bundle_ends_with_its_last_failure() -> None:
    asked, trials = detector(3600), list[Trial]()
    while isinstance(step := plan(asked, trials, None), StartTrial):
        trial = planned(asked, trials, step)
        trials.append(replace(trial, work=trial.work.failed(START, DIVERGED)))
    assert step == Fail(DIVERGED)
    assert len(trials) > 2


def test_the_pace_is_that_of_the_latest_trial() -> None:
    trials, _ = climbed(detector(3600), pace=3.0)
    assert costs.slowness(trials) == pytest.approx(3.0, rel=0.1)


@given(count=st.integers(2, 200_000), tests=st.integers(0, 10**5), asked=wanted)
def test_the_suggested_budget_is_never_below_the_minimum(count: int, tests: int, asked: Hyperparameters) -> None:
    minimum = minimum_budget(DETECTOR, asked, count, tests)
    assert minimum <= suggested_budget(DETECTOR, asked, count, tests)
    fresh = model(model_kind=DETECTOR, hyperparameters=asked, budget=timedelta(seconds=minimum))
    check_budget(fresh, count, tests)
