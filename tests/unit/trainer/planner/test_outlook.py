"""Estimates: measured paces become budgets by the planner's own steps, and agree in kind with CreateModel's check."""

from datetime import timedelta
from itertools import pairwise

import pytest
from msgspec.structs import replace

from services.trainer.base_model import BaseModel
from services.trainer.domain import Hyperparameters, Model
from services.trainer.estimate import Estimate
from services.trainer.feature_blocks import passes_of
from services.trainer.planner import ladder
from services.trainer.planner.costs import BY_GRAPH
from services.trainer.planner.needs import check_budget
from services.trainer.planner.outlook import outlook, with_recipes
from services.trainer.planner.prospect import Prospect
from services.trainer.planner.rehearsal import Rehearsal
from services.trainer.planner.rehearsal import rehearse as rehearse_prospect
from services.trainer.recipe import Recipe, is_linear
from services.trainer.work import Work
from services.vision.card import ModelKind, WeightsSource
from tests.unit.trainer.support import START, boxes, minimum_budget, model, observed, probe, snapshot, suggested_budget

DETECTOR = ModelKind.GENERIC_DETECTOR


def estimate(wanted: Model | None = None, pace: float = 1.0, count: int = 500, **changes: object) -> Estimate:
    """A probe that found the table's times, unless changed; as many test images as `tests`."""
    wanted = replace(wanted or model(), training=snapshot(count=count))
    tests = int(str(changes.pop("tests", 0)))
    if tests:
        wanted = replace(wanted, test=snapshot("datasets/test", tests))
    asked = with_recipes(
        Estimate(
            name="estimates/e",
            model=wanted,
            fewest=50,
            work=Work(create_time=START, allowance=timedelta(minutes=10)),
            update_time=START,
        )
    )
    detects = wanted.model_kind is DETECTOR
    found = probe(asked.recipes, pace, boxes=boxes() if detects else None)
    return replace(asked, probe=found, **changes)


def rehearse(asked: Estimate, budget: timedelta) -> Rehearsal:
    return rehearse_prospect(Prospect.of(asked), budget)


@pytest.mark.parametrize("count", [30, 500, 3000])
@pytest.mark.parametrize("kind", list(ModelKind))
def test_a_device_at_the_tables_pace_gets_the_budgets_that_create_model_names(kind: ModelKind, count: int) -> None:
    found = outlook(estimate(model(model_kind=kind), count=count, tests=100))
    asked = kind, Hyperparameters(), count, 100
    assert found.minimum.total_seconds() == pytest.approx(minimum_budget(*asked), rel=0.05, abs=1)
    assert found.suggested.total_seconds() == pytest.approx(suggested_budget(*asked), rel=0.06, abs=1)


@pytest.mark.parametrize("pace", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("count", [180, 500, 3000])
def test_a_classifier_is_expected_to_use_most_of_the_suggested_budget(count: int, pace: float) -> None:
    asked = estimate(count=count, pace=pace, tests=count)
    suggested = outlook(asked).suggested
    assert suggested / 1.5 <= rehearse(asked, suggested).cost <= suggested
    assert rehearse(asked, 10 * suggested).cost <= suggested, "no further trial pays"


@pytest.mark.parametrize("pace", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("kind", list(ModelKind))
def test_the_minimum_is_accepted_and_pays_for_a_first_trial(kind: ModelKind, pace: float) -> None:
    asked = estimate(model(model_kind=kind), pace)
    found = outlook(asked)
    check_budget(replace(asked.model, budget=found.minimum), 500, 0)
    assert rehearse(asked, found.minimum).recipes
    assert found.minimum <= found.suggested


@pytest.mark.parametrize("kind", list(ModelKind))
def test_a_device_that_is_three_times_slower_needs_about_three_times_the_budget(kind: ModelKind) -> None:
    even, slow = (outlook(estimate(model(model_kind=kind), pace)) for pace in (1.0, 3.0))
    assert 2.0 < slow.suggested / even.suggested < 3.5
    assert slow.minimum > even.minimum


def test_what_is_charged_for_a_second_scales_the_budgets() -> None:
    even, charged = (outlook(estimate(pace=4.0, device_factor=factor)) for factor in (1.0, 0.5))
    assert charged.suggested / even.suggested == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("kind", list(ModelKind))
def test_the_suggested_budget_pays_for_the_whole_ladder_uncut(kind: ModelKind) -> None:
    wanted = (
        Hyperparameters() if kind is DETECTOR else Hyperparameters(backbones=("mobilenet_v2", "efficientnet_lite2"))
    )
    asked = estimate(model(model_kind=kind, hyperparameters=wanted), 2.0, tests=50)
    suggested = outlook(asked).suggested
    rehearsal = rehearse(asked, suggested)
    assert rehearsal.is_whole
    generous = rehearse(asked, timedelta(days=2)).recipes
    assert ladder.rungs(kind, rehearsal.recipes, 500) == ladder.rungs(kind, generous, 500)
    assert suggested / 1.5 <= rehearsal.cost <= suggested


def test_a_detector_whose_small_boxes_need_a_larger_input_needs_a_larger_budget() -> None:
    asked = estimate(model(model_kind=DETECTOR))
    assert asked.probe is not None
    sizes = boxes(small_size=0.5, longer_side=300), boxes(small_size=0.035, longer_side=1600)
    large, small = (replace(asked, probe=replace(asked.probe, boxes=each)) for each in sizes)
    assert outlook(small).suggested > outlook(large).suggested


@pytest.mark.parametrize("kind", list(ModelKind))
@pytest.mark.parametrize("seconds", [5, 30, 200, 5000])
def test_no_rehearsal_is_charged_more_than_its_budget(kind: ModelKind, seconds: int) -> None:
    budget = timedelta(seconds=seconds)
    assert rehearse(estimate(model(model_kind=kind), 1.7, tests=30), budget).cost <= budget


def test_the_outlook_ascends_and_holds_both_budgets() -> None:
    found = outlook(estimate())
    budgets = [each.budget for each in found.budgets]
    assert {found.minimum, found.suggested} <= set(budgets)
    assert all(one < other for one, other in pairwise(budgets))
    assert all(one.cost <= other.cost for one, other in pairwise(found.budgets))


def test_a_budget_is_expected_to_reach_what_its_trials_were_measured_to_reach() -> None:
    asked = estimate()
    assert asked.probe is not None
    first, second = asked.recipes[:2]
    told = replace(asked.probe, observations=(observed(first, value=0.7), observed(second, value=0.8)))
    found = outlook(replace(asked, probe=told))
    values = [each.expectation.value if each.expectation else None for each in found.budgets]
    assert values[0] == 0.7
    assert values[-1] == 0.8


def test_costs_are_of_the_networks_that_the_worker_chose() -> None:
    asked = estimate()
    assert asked.probe is not None
    assert asked.recipes[0].choose
    quick, slow = (
        replace(asked.probe, observations=tuple(observed(replace(recipe, backbones=names)) for recipe in asked.recipes))
        for names in (("mobilenet_v3_small",), ("resnet50",))
    )
    first, other = (
        outlook(replace(asked, probe=replace(each, backbones=each.observations[0].recipe.backbones)))
        for each in (quick, slow)
    )
    assert other.suggested > 3 * first.suggested


@pytest.mark.parametrize(("count", "trials"), [(40, 1), (41, 2)])
def test_a_perfect_score_on_all_images_ends_the_training(
    count: int, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.trainer.planner.classifier.SURE_FROM", 40)
    asked = estimate(count=count)
    assert asked.probe is not None
    perfect = replace(asked.probe, observations=tuple(replace(each, score=1.0) for each in asked.probe.observations))
    assert len(rehearse(replace(asked, probe=perfect), timedelta(hours=1)).recipes) == trials


def test_features_of_an_earlier_training_make_a_training_cheaper_and_its_pace_no_different() -> None:
    asked = estimate(model(hyperparameters=Hyperparameters(max_trials=2)), tests=50)
    assert asked.probe is not None
    (first, head), budget = asked.recipes[:2], timedelta(hours=1)
    chosen = replace(first, backbones=asked.probe.observations[0].recipe.backbones)
    stored = passes_of(chosen) | passes_of(head)
    fresh, half, again = (
        rehearse(replace(asked, probe=replace(asked.probe, stored=tuple(each))), budget)
        for each in ((), passes_of(chosen), stored)
    )
    assert again.cost < 0.4 * fresh.cost
    assert again.cost < half.cost == fresh.cost - timedelta(seconds=500 * 0.018 * (256 / 224) ** 2)
    assert fresh.recipes == half.recipes == again.recipes


def test_a_head_reads_the_features_of_the_first_one_instead_of_computing_them_again() -> None:
    asked = estimate()
    prospect = Prospect.of(asked)
    costs = [prospect.costs.seconds(recipe, 500, 256) for recipe in asked.recipes]
    expected = sum(costs) - 500 * 0.018 * (256 / 224) ** 2
    assert rehearse(asked, timedelta(hours=1)).cost.total_seconds() == pytest.approx(expected)


def test_a_probe_of_features_by_graphs_does_not_make_training_seem_as_fast() -> None:
    asked = estimate()
    measured = asked.probe
    assert measured is not None
    heads = tuple(seen for seen in measured.observations if is_linear(seen.recipe))
    tuned = next(recipe for recipe in asked.recipes if not is_linear(recipe))

    def growing(recipe: Recipe, *, by_graph: bool) -> float:
        costs = Prospect.of(replace(asked, probe=replace(measured, observations=heads, by_graph=by_graph))).costs
        return costs.seconds(recipe, 2_000, 256) - costs.seconds(recipe, 1_000, 256)

    assert growing(tuned, by_graph=True) == pytest.approx(growing(tuned, by_graph=False) / BY_GRAPH)
    head = heads[0].recipe
    assert growing(head, by_graph=True) == growing(head, by_graph=False)


def test_a_larger_input_of_a_detector_wins_as_selection_expects_it_to() -> None:
    asked = estimate(model(model_kind=DETECTOR))
    assert asked.probe is not None
    large = replace(asked.probe, boxes=boxes(small_size=0.05, longer_side=640))
    *_, long, refit = rehearse(replace(asked, probe=large), timedelta(hours=9)).recipes
    probed = {recipe.resolution for recipe in rehearse(replace(asked, probe=large), timedelta(hours=9)).recipes[1:]}
    assert long.resolution == refit.resolution == max(probed) > min(probed)


def test_a_base_models_networks_come_first() -> None:
    base = BaseModel(name="models/b", version="v", bundle_key="k/", networks=("resnet18",), resolution=96)
    first, second = estimate(model(base=base)).recipes[:2]
    assert (first.backbones, first.resolution) == (("resnet18",), 96)
    assert second.backbones[0] == "resnet18"


def test_nothing_is_expected_of_what_was_not_measured() -> None:
    asked = estimate(model(model_kind=DETECTOR))
    told = probe(asked.recipes, observations=tuple(observed(recipe) for recipe in asked.recipes))
    assert all(each.expectation is None for each in outlook(replace(asked, probe=told)).budgets)


def test_without_pretrained_weights_the_training_from_random_ones_is_rehearsed() -> None:
    asked = estimate()
    assert asked.probe is not None
    bare = replace(asked.probe, weights_source=WeightsSource.RANDOM, backbones=())
    rehearsal = rehearse(replace(asked, probe=bare), timedelta(hours=2))
    assert any(not recipe.pretrained for recipe in rehearsal.recipes)


def test_recipes_that_differ_in_epochs_only_are_measured_once() -> None:
    asked = estimate(model(model_kind=DETECTOR)).recipes
    assert [recipe.rung for recipe in asked] == [0, 1]


@pytest.mark.parametrize("count", [100, 5000])
def test_the_recipes_to_measure_are_those_that_a_training_runs(count: int) -> None:
    asked = estimate(count=count)
    assert asked.recipes == rehearse(asked, timedelta(days=2)).recipes
