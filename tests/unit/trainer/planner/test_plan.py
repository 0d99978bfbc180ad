"""The ladder: whatever trials cost and deliver, a training ends within its budget and pays for its evaluation."""

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.kit.errors import Failure, InvalidRequest, NotEnoughBudget
from services.trainer.base_model import BaseModel
from services.trainer.domain import (
    MAX_TRIALS,
    Evaluation,
    Hyperparameters,
    Model,
    Served,
    StopReason,
    Trial,
    training_cost,
)
from services.trainer.feature_blocks import FeatureUse
from services.trainer.performance import Source
from services.trainer.planner import classifier_recipes, costs
from services.trainer.planner.budget import BudgetView
from services.trainer.planner.needs import check_budget, check_prediction_cost
from services.trainer.planner.plan import plan
from services.trainer.planner.steps import Fail, Finish, StartEvaluation, StartTrial, Wait
from services.trainer.prediction_cost import keeps_to, recipe_seconds
from services.trainer.recipe import Recipe
from services.trainer.work import Work
from services.vision.card import ModelKind
from services.vision.catalogue import BACKBONES
from tests.unit.trainer.support import (
    START,
    TTL,
    minimum_budget,
    model,
    performance,
    result,
    snapshot,
    suggested_budget,
    training,
)

DIVERGED = Failure(9, "diverged", "It diverged.")
CLASSIFIER = ModelKind.GENERIC_CLASSIFIER
NAMES = sorted(BACKBONES)
TWO = (NAMES[0], NAMES[1])

outcomes = st.lists(
    st.tuples(st.sampled_from(["succeed", "stop", "fail", "cancel"]), st.floats(0, 1), st.integers(0, 100)),
    min_size=40,
    max_size=40,
)
wanted = st.builds(
    Hyperparameters,
    backbones=st.lists(st.sampled_from(NAMES), max_size=4, unique=True).map(tuple),
    max_rung=st.none() | st.integers(0, 2),
    max_trials=st.none() | st.integers(1, 5),
    resolution=st.none() | st.sampled_from([32, 224, 512]),
    max_prediction_seconds=st.none() | st.floats(0.001, 0.3),
)


def refused(asked: Hyperparameters) -> bool:
    """Whether CreateModel refuses the limit of a prediction's cost."""
    try:
        check_prediction_cost(CLASSIFIER, asked)
    except InvalidRequest:
        return True
    return False


def planned(model: Model, number: int, step: StartTrial) -> Trial:
    return Trial(
        name=f"{model.name}/trials/t{number:03d}",
        model_uid=model.uid,
        number=number,
        training=snapshot(),
        recipe=step.recipe,
        holdout_fraction=0.2,
        seed=0,
        work=Work(create_time=START, allowance=step.allowance).taken("t", "w", START, TTL),
        update_time=START,
    )


def ended(trial: Trial, how: str, share: float, right: int, known: tuple[str, ...]) -> Trial:
    used = share * trial.work.allowance
    work = trial.work.beaten(START, TTL, used=used, progress=share, phase="fit")
    match how:
        case "succeed":
            brought = result(trial, right, backbones=known)
            return replace(trial, work=work.succeeded(START, used), result=brought)
        case "stop":
            return replace(trial, work=work.stopped(START))
        case "cancel":
            return replace(trial, work=work.cancelled(START))
        case _:
            return replace(trial, work=work.failed(START, DIVERGED))


def served(model: Model, trials: list[Trial]) -> Model:
    """As in the coordinator, but by score alone."""
    found = [(trial.result.score, trial) for trial in trials if trial.result]
    if not found:
        return model
    best = max(found, key=lambda pair: pair[0])[1]
    assert best.result
    bundle = Served(
        trial=best.name,
        version=best.name,
        bundle_key=best.result.bundle_key,
        performance=performance(),
        performance_key="p",
    )
    return replace(model, served=bundle)


@settings(max_examples=150, deadline=None)
@example(
    budget=12.0,
    images=100,
    tests=1,
    asked=Hyperparameters(),
    results=[("succeed", 0.0, 0)] * 3 + [("succeed", 1.0, 0)] + [("succeed", 0.0, 0)] * 36,
    known=("mobilenet_v2",),
)
@given(
    budget=st.floats(2, 5000),
    images=st.sampled_from([100, 1_000, 30_000]),
    tests=st.sampled_from([0, 1, 50, 400]),
    asked=wanted,
    results=outcomes,
    known=st.lists(st.sampled_from([*NAMES, "unheard_of"]), max_size=5, unique=True).map(tuple),
)
def test_every_training_ends_within_its_budget(
    budget: float,
    images: int,
    tests: int,
    asked: Hyperparameters,
    results: list[tuple[str, float, int]],
    known: tuple[str, ...],
) -> None:
    test = snapshot("datasets/test", tests) if tests else None
    present = training(budget=timedelta(seconds=budget), test=test, hyperparameters=asked)
    present = replace(present, training=snapshot(count=images))
    trials: list[Trial] = []
    for how, share, right in results:
        present = served(present, trials)
        step = plan(present, trials, None)
        if not isinstance(step, StartTrial):
            break
        assert step.allowance_seconds > 0
        assert step.recipe.backbones
        trial = planned(present, len(trials), step)
        assert plan(present, [*trials, trial], None) == Wait()
        trials.append(ended(trial, how, share, right, known))
    else:
        pytest.fail("it never ended")
    assert training_cost(trials, None) <= present.budget
    assert len({trial.recipe.name for trial in trials}) == len(trials)
    assert asked.max_trials is None or len(trials) <= asked.max_trials
    assert asked.max_rung is None or all(trial.recipe.rung <= asked.max_rung for trial in trials)
    assert asked.resolution is None or all(trial.recipe.resolution == asked.resolution for trial in trials)
    if not refused(asked):
        assert all(keeps_to(trial.recipe, asked.max_prediction_seconds) for trial in trials)
    if present.served is None:
        assert isinstance(step, Fail)
        assert step.error.message
        return
    if test is None:
        assert isinstance(step, Finish)
        return
    assert isinstance(step, StartEvaluation)
    best = next(trial for trial in trials if present.served.trial == trial.name)
    pace = min(1.0, costs.slowness(trials))  # before a trial shows it, it is 1
    reserve = costs.reserve_seconds(best.recipe, tests, costs.resolution_of(trials), pace)
    assert step.allowance.total_seconds() >= reserve - 1e-5
    assert training_cost(trials, None) + step.allowance == present.budget
    final = evaluation(present, step.allowance)
    assert plan(present, trials, final) == Wait()
    done = replace(final, work=final.work.taken("e", "w", START, TTL).stopped(START))
    assert isinstance(plan(present, trials, done), Finish)
    assert training_cost(trials, done) <= present.budget


def evaluation(model: Model, allowance: timedelta) -> Evaluation:
    return Evaluation(
        name=f"{model.name}/evaluations/final",
        model_uid=model.uid,
        test_dataset="datasets/test",
        test=snapshot("datasets/test"),
        model_version="v",
        bundle_key="b/",
        model_kind=ModelKind.GENERIC_CLASSIFIER,
        work=Work(create_time=START, allowance=allowance),
        update_time=START,
    )


def test_a_more_expensive_served_bundle_keeps_its_reserve_while_a_cheaper_one_is_tried() -> None:
    present = training(
        budget=timedelta(seconds=200.0),
        test=snapshot("datasets/test", 400),
        hyperparameters=Hyperparameters(backbones=("mobilenet_v3_small", "convnext_tiny")),
    )
    trials: list[Trial] = []
    while isinstance(step := plan(served(present, trials), trials, None), StartTrial):
        trial = planned(present, len(trials), step)
        right = 90 if len(step.recipe.backbones) > 1 else 50
        share = 1.0 if trials else step.expected_seconds / step.allowance_seconds
        trials.append(ended(trial, "succeed", share, right, ("mobilenet_v3_small", "convnext_tiny")))
    present = served(present, trials)
    assert present.served
    best = next(trial for trial in trials if trial.name == present.served.trial)
    assert len(best.recipe.backbones) > 1
    assert isinstance(step, StartEvaluation)
    assert step.allowance.total_seconds() >= costs.reserve_seconds(best.recipe, 400, costs.resolution_of(trials)) - 1e-5


def test_a_budget_of_one_second_is_refused_with_the_minimum() -> None:
    asked = model(budget=timedelta(seconds=1.0))
    with pytest.raises(NotEnoughBudget) as caught:
        check_budget(asked, 100, 20)
    minimum, suggested = (float(caught.value.metadata[f"{word}_seconds"]) for word in ("minimum", "suggested"))
    assert f"the minimum is {minimum:g} s, {suggested:g} s is suggested" in caught.value.message
    assert 1 < minimum <= suggested
    check_budget(replace(asked, budget=timedelta(seconds=minimum)), 100, 20)


@given(count=st.integers(2, 10**6), tests=st.integers(0, 10**5), asked=wanted)
def test_the_suggested_budget_is_never_below_the_minimum(count: int, tests: int, asked: Hyperparameters) -> None:
    minimum = minimum_budget(CLASSIFIER, asked, count, tests)
    assert minimum <= suggested_budget(CLASSIFIER, asked, count, tests)


def test_larger_images_need_a_larger_budget() -> None:
    plain, large = Hyperparameters(), Hyperparameters(resolution=448)
    assert minimum_budget(CLASSIFIER, large, 1000, 0) > 2 * minimum_budget(CLASSIFIER, plain, 1000, 0)


@pytest.mark.parametrize(("images", "ends"), [(99, False), (100, True)])
def test_a_perfect_score_on_enough_images_ends_the_search(images: int, ends: bool) -> None:
    present = replace(training(), training=snapshot(count=images))
    step = plan(present, [], None)
    assert isinstance(step, StartTrial)
    trials = [ended(planned(present, 0, step), "succeed", 0.01, 100, ("mobilenet_v2",))]
    assert (plan(served(present, trials), trials, None) == Finish(StopReason.CONVERGED)) == ends


def test_a_first_trial_that_fails_is_not_followed_by_a_training_from_random_weights() -> None:
    present = replace(training(budget=timedelta(hours=1)), training=snapshot(count=1_000))
    step = plan(present, [], None)
    assert isinstance(step, StartTrial)
    trials = [ended(planned(present, 0, step), "fail", 0.0, 0, ())]
    assert plan(present, trials, None) == Fail(DIVERGED)


def test_without_images_to_measure_on_only_frozen_features_are_tried() -> None:
    present, trials = training(budget=timedelta(seconds=5000.0)), list[Trial]()
    while isinstance(step := plan(served(present, trials), trials, None), StartTrial):
        trial = planned(present, len(trials), step)
        brought = result(trial, 60, performance=performance(0.6, Source.CROSS_VALIDATION))
        trials.append(replace(trial, work=trial.work.succeeded(START, timedelta(seconds=1)), result=brought))
    assert {trial.recipe.rung for trial in trials} == {0}


def test_a_training_without_a_bundle_ends_with_its_last_failure_or_a_sufficient_budget() -> None:
    present = training()
    step = plan(present, [], None)
    assert isinstance(step, StartTrial)
    trials = [ended(planned(present, 0, step), "fail", 0.0, 0, ())]
    while isinstance(step := plan(present, trials, None), StartTrial):
        trials.append(ended(planned(present, len(trials), step), "fail", 0.0, 0, ()))
    assert step == Fail(DIVERGED)
    stopped = [ended(planned(present, 0, StartTrial(trials[0].recipe, 600.0, 1.0)), "stop", 1.0, 0, ())]
    step = plan(present, stopped, None)
    assert isinstance(step, Fail)
    assert step.error.reason == "notEnoughBudget"
    assert float(step.error.metadata["minimum_seconds"]) > present.budget.total_seconds()


def test_a_training_some_of_whose_trials_were_too_expensive_ends_with_its_budget() -> None:
    present, trials = training(), list[Trial]()
    while isinstance(step := plan(served(present, trials), trials, None), StartTrial):
        trial = planned(present, len(trials), step)
        work = trial.work.failed(START, Failure(9, "notEnoughBudget", "It takes longer than was expected."))
        failed = replace(trial, work=work)
        trials.append(failed if trials else ended(trial, "succeed", 0.01, 60, ("mobilenet_v2",)))
    assert len(trials) > 1
    assert step == Finish(StopReason.BUDGET_REACHED)


def test_no_more_trials_are_planned_than_names_can_keep_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"t{MAX_TRIALS - 1:03d}" == "t999"
    present = training(budget=timedelta(seconds=3600.0))
    step = plan(present, [], None)
    assert isinstance(step, StartTrial)
    first = ended(planned(present, 0, step), "succeed", 0.001, 60, ("mobilenet_v2",))
    assert isinstance(plan(present, [first], None), StartTrial)
    monkeypatch.setattr("services.trainer.planner.budget.MAX_TRIALS", 1)
    assert not isinstance(plan(present, [first], None), StartTrial)


def test_a_fine_tuning_needs_many_images_and_follows_what_the_head_says_of_mirrored_ones() -> None:
    few, many = (classifier_recipes.pretrained(TWO, Hyperparameters(), count) for count in (999, 1_000))
    assert [recipe.rung for recipe in few] == [0, 0]
    assert [(recipe.rung, recipe.mirror) for recipe in many] == [(0, True), (0, True), (1, True)]
    unmirrored = classifier_recipes.pretrained(TWO, Hyperparameters(), 1_000, mirror=False)
    assert not unmirrored[-1].mirror


def test_some_images_are_enough_to_tune_last_stages_on_stored_maps() -> None:
    known = ("mobilenet_v2", "efficientnet_lite2")
    few, some, most, many, more = (
        classifier_recipes.pretrained(known, Hyperparameters(), count) for count in (119, 120, 999, 1_000, 5_001)
    )
    assert [recipe.rung for recipe in few] == [0, 0]
    assert [(recipe.rung, recipe.stored_maps) for recipe in some] == [(0, False), (0, False), (1, True)]
    assert [recipe.name for recipe in most] == [recipe.name for recipe in some]
    assert (some[-1].resolution, some[-1].tuned_resolution) == (0, 192)
    (*_, asked) = classifier_recipes.pretrained(known, Hyperparameters(resolution=320), 120)
    assert (asked.resolution, asked.tuned_resolution) == (320, 0)
    assert [recipe.stored_maps for recipe in many] == [False, False, False, True]
    assert [recipe.stored_maps for recipe in more] == [False, False, False]
    in_one_piece = ("tiny_vit_5m_224.dist_in22k_ft_in1k", "mobilenet_v2")
    assert not any(recipe.rung for recipe in classifier_recipes.pretrained(in_one_piece, Hyperparameters(), 500))


def test_without_the_time_for_all_views_two_networks_see_whole_images() -> None:
    known = ("mobilenet_v2", "efficientnet_lite2")
    shapes = list[list[tuple[int, int, int]]]()
    for minutes in (1, 3, 60):
        present = replace(training(budget=timedelta(minutes=minutes)), training=snapshot(count=1_000))
        trials = list[Trial]()
        while isinstance(step := plan(served(present, trials), trials, None), StartTrial):
            share = min(1.0, step.expected_seconds / step.allowance_seconds)
            trial = replace(planned(present, len(trials), step), training=present.training)
            trials.append(ended(trial, "succeed", share, 50 + len(trials), known))
        heads = [trial.recipe for trial in trials if not trial.recipe.rung]
        shapes.append([(len(each.backbones), len(each.framings), each.views) for each in heads])
    assert shapes == [[(1, 1, 1)], [(1, 1, 1), (2, 1, 1)], [(1, 1, 1), (2, 2, 2)]]


@pytest.mark.parametrize(("images", "rungs"), [(300, [0, 0, 1]), (1_000, [0, 0, 1, 1])])
def test_without_held_out_images_tuning_is_measured_on_every_fold_or_if_it_is_large_on_the_first(
    images: int, rungs: list[int]
) -> None:
    present = replace(training(budget=timedelta(hours=9)), training=snapshot(count=images))
    trials = list[Trial]()
    while isinstance(step := plan(served(present, trials), trials, None), StartTrial):
        trial = ended(planned(present, len(trials), step), "succeed", 1e-5, 50, ("mobilenet_v2", "efficientnet_lite2"))
        assert trial.result
        crossed = performance(source=Source.CROSS_VALIDATION)
        trials.append(replace(trial, result=dataclasses.replace(trial.result, performance=crossed)))
    assert [trial.recipe.rung for trial in trials] == rungs


def test_tuning_last_stages_costs_less_than_tuning_the_network_once_for_each_fold() -> None:
    *_, whole, stages = classifier_recipes.pretrained(("mobilenet_v2", "efficientnet_lite2"), Hyperparameters(), 1_000)
    of_stages, of_whole = (costs.expected_seconds(recipe, 500) for recipe in (stages, whole))
    assert of_stages < 2 * of_whole
    assert of_stages > costs.scaling_seconds(stages, 500, epochs=1) > 500 * costs.forward_seconds(whole, 256)
    larger = replace(stages, tuned_resolution=256)
    assert costs.scaling_seconds(larger, 500) == pytest.approx((256 / 192) ** 2 * costs.scaling_seconds(stages, 500))
    assert costs.forward_seconds(larger, 256) == costs.forward_seconds(whole, 256) > costs.forward_seconds(stages, 256)
    assert recipe_seconds(larger) == recipe_seconds(whole) > recipe_seconds(stages)


def test_a_machine_is_as_slow_as_its_first_trial_would_have_been_without_reused_features() -> None:
    step = plan(training(), [], None)
    assert isinstance(step, StartTrial)
    trial = planned(training(), 0, step)

    def measured(took: timedelta, saved: timedelta) -> float:
        features = FeatureUse(reused=1, computed=0, saved=saved)
        work = trial.work.succeeded(START, took)
        return costs.slowness([replace(trial, work=work, result=result(trial, features=features))])

    slow = timedelta(seconds=4 * step.expected_seconds)
    assert measured(slow, timedelta()) > 3
    assert measured(slow * 0.1, slow * 0.9) == pytest.approx(measured(slow, timedelta()))


def test_a_fast_device_is_told_from_a_slow_one_however_fast_it_is() -> None:
    step = plan(training(), [], None)
    assert isinstance(step, StartTrial)
    trial = replace(planned(training(), 0, step), training=snapshot(count=5_000))
    expected = costs.expected_seconds(step.recipe, 5_000)

    def measured(seconds: float) -> float:
        work = replace(trial.work, allowance=timedelta(hours=1)).succeeded(START, timedelta(seconds=seconds))
        return costs.slowness([replace(trial, work=work, result=result(trial, resolution=256))])

    assert measured(costs.FIXED_SECONDS + 0.02 * (expected - costs.FIXED_SECONDS)) == pytest.approx(0.02)
    assert measured(0.5) < 0.02, "at most half of it is fixed"
    assert measured(expected) == pytest.approx(1.0)
    assert measured(3 * expected) == pytest.approx(3.0)


def test_training_takes_longer_than_the_pace_of_graphs_promises() -> None:
    step = plan(training(), [], None)
    assert isinstance(step, StartTrial)
    trial = planned(training(), 0, step)
    *_, whole, stages = classifier_recipes.pretrained(("mobilenet_v2",), Hyperparameters(), 1_000)

    def views(recipe: Recipe) -> list[float]:
        found = list[float]()
        for by_graph in (False, True):
            features = FeatureUse(reused=0, computed=1, saved=timedelta(), by_graph=by_graph)
            work = trial.work.succeeded(START, timedelta(seconds=step.expected_seconds))
            budget = BudgetView.of(training(), [replace(trial, work=work, result=result(trial, features=features))])
            found.append(budget.expected(recipe) - costs.FIXED_SECONDS)
        return found

    for recipe in (whole, stages):
        by_torch, by_graph = views(recipe)
        assert by_graph == pytest.approx(by_torch / costs.BY_GRAPH, rel=0.01)
    by_torch, by_graph = views(step.recipe)
    assert by_graph == by_torch


def test_what_a_fast_device_is_expected_to_take_includes_what_does_not_shrink() -> None:
    head = classifier_recipes.first(Hyperparameters())
    assert costs.expected_seconds(head, 10, pace=0.001) >= costs.FIXED_SECONDS
    assert costs.reserve_seconds(head, 10, pace=0.001) >= costs.EVALUATION_FIXED_SECONDS


def test_very_many_images_are_seen_in_one_framing_and_not_mirrored() -> None:
    for count, framings, views in ((5_000, 2, 2), (20_000, 2, 1), (20_001, 1, 1)):
        head, *_ = classifier_recipes.pretrained(TWO, Hyperparameters(), count)
        assert (len(head.framings), head.views) == (framings, views)


def climbed(limit: float | None, known: tuple[str, ...], images: int = 100, **asked: object) -> list[Trial]:
    """The trials of a training with a large budget whose scores improve, and a limit of a prediction's cost."""
    narrowed = Hyperparameters(max_prediction_seconds=limit, **asked)  # type: ignore[arg-type]  # any of its fields
    present = training(budget=timedelta(hours=9), hyperparameters=narrowed)
    present, trials = replace(present, training=snapshot(count=images)), list[Trial]()
    while isinstance(step := plan(served(present, trials), trials, None), StartTrial):
        trials.append(ended(planned(present, len(trials), step), "succeed", 1e-5, 50 + len(trials), known))
    return trials


def test_a_limit_of_a_predictions_cost_leaves_out_framings_and_networks() -> None:
    known = ("mobilenet_v2", "efficientnet_lite2")
    shapes = {
        limit: [(len(trial.recipe.backbones), len(trial.recipe.framings)) for trial in climbed(limit, known)]
        for limit in (None, 1.0, 0.1, 0.05, 0.03)
    }
    assert shapes[None] == shapes[1.0] == [(1, 1), (2, 2)]
    assert shapes[0.1] == [(1, 1), (2, 1)]
    assert shapes[0.05] == [(1, 1), (1, 2)]
    assert shapes[0.03] == [(1, 1), (1, 1)], "mirrored views cost a prediction nothing"


def test_a_fine_tuning_keeps_to_the_limit_with_its_companions() -> None:
    known = ("mobilenet_v2", "efficientnet_lite2")
    free, bound = (climbed(limit, known, 1_000)[-1].recipe for limit in (None, 0.1))
    assert (free.rung, bound.rung) == (1, 1)
    assert recipe_seconds(free) > 0.1 >= recipe_seconds(bound)
    assert bound.backbones[0] == free.backbones[0]


def test_a_limit_below_the_first_network_gives_it_a_smaller_input() -> None:
    (first, *_) = climbed(0.01, ("mobilenet_v2",))
    assert (first.recipe.backbones, first.recipe.resolution) == (("mobilenet_v2",), 160)


def test_a_limit_below_the_cheapest_prediction_is_refused_with_the_minimum() -> None:
    with pytest.raises(InvalidRequest, match=r"1 ms is less than .*: 2\.613 ms \(mobilenet_v3_small\)") as caught:
        check_prediction_cost(CLASSIFIER, Hyperparameters(max_prediction_seconds=0.001))
    assert caught.value.metadata["field"].endswith("hyperparameters.max_prediction_cost")
    check_prediction_cost(CLASSIFIER, Hyperparameters(max_prediction_seconds=0.002613))
    (first, *_) = climbed(0.002613, ("mobilenet_v2",))
    assert first.recipe.backbones == ("mobilenet_v3_small",)
    with pytest.raises(InvalidRequest, match="resnet50"):
        check_prediction_cost(
            CLASSIFIER, Hyperparameters(max_prediction_seconds=0.05, resolution=224, backbones=("resnet50",))
        )


def test_the_networks_of_a_base_model_are_preferred_and_others_follow() -> None:
    base = BaseModel(name="models/b", version="v", bundle_key="k/", networks=("resnet18",), resolution=96)
    present, trials = replace(training(budget=timedelta(hours=9)), base=base), list[Trial]()
    while isinstance(step := plan(served(present, trials), trials, None), StartTrial):
        trials.append(ended(planned(present, len(trials), step), "succeed", 1e-5, 50 + len(trials), ("mobilenet_v2",)))
    first, second = (trial.recipe for trial in trials)
    assert first.backbones == ("resnet18",)
    assert second.backbones == ("resnet18", "mobilenet_v2")
    assert {first.resolution, second.resolution} == {96}
    asked = replace(present, hyperparameters=Hyperparameters(backbones=("resnet50",), resolution=224))
    step = plan(asked, [], None)
    assert isinstance(step, StartTrial)
    assert (step.recipe.backbones, step.recipe.resolution) == (("resnet50",), 224), "the caller's choice comes first"
