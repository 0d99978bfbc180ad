"""The planner's tables name the networks that there are: it must not import torch to know them."""

from services.trainer.planner import classifier_recipes, costs, detector_recipes
from services.trainer.recipe import ModelKind
from services.vision.backbones import BACKBONES
from services.vision.detectors import DETECTORS


def test_costs_are_known_of_every_network_and_of_no_other():
    assert set(costs.BACKBONES[ModelKind.GENERIC_DETECTOR]) == set(DETECTORS)
    assert set(costs.BACKBONES[ModelKind.GENERIC_CLASSIFIER]) == set(BACKBONES)


def test_detectors_sides_are_those_of_their_rules():
    assert {name: spec.rule.size for name, spec in DETECTORS.items()} == costs.DETECTOR_SIDES


def test_every_network_has_its_place_in_the_preferences():
    assert sorted(detector_recipes.PREFERENCE) == sorted(DETECTORS)
    assert set(classifier_recipes.PREFERENCE) <= set(BACKBONES)
