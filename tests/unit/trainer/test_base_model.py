"""What a card tells of a model that a training continues."""

from dataclasses import replace
from datetime import UTC, datetime

from services.trainer.base_model import base_model, brought_backbones
from services.vision.card import CardBackbone, CardCategory, ModelCard, ModelKind, WeightsSource
from services.vision.catalogue import BACKBONES, DETECTORS

RULE = BACKBONES["mobilenet_v2"].rule.resized(256)
FROZEN = CardBackbone("mobilenet_v2", RULE, WeightsSource.FOLDER, "ab")
OTHER = CardBackbone("resnet18", BACKBONES["resnet18"].rule.resized(256), WeightsSource.STORE, "cd")


def card(*backbones: CardBackbone, kind: ModelKind = ModelKind.GENERIC_CLASSIFIER) -> ModelCard:
    made = datetime(2026, 11, 1, tzinfo=UTC)
    return ModelCard(kind=kind, categories=(CardCategory(1, "owl"),), backbones=backbones, created=made)


def test_a_fine_tuned_network_comes_first_and_replaces_the_frozen_one_of_its_name() -> None:
    tuned = replace(FROZEN, tuned=True)
    whole = card(OTHER, FROZEN, replace(FROZEN, shares=1), tuned)
    assert brought_backbones(whole) == {"resnet18": OTHER, "mobilenet_v2": tuned}
    found = base_model("models/b", "v", "k/", whole)
    assert (found.networks, found.resolution) == (("mobilenet_v2", "resnet18"), None)


def test_of_a_network_that_was_tuned_twice_the_last_result_is_continued() -> None:
    again, before = replace(FROZEN, tuned=True, weights_sha256="new"), replace(FROZEN, tuned=True)
    assert brought_backbones(card(again, before)) == {"mobilenet_v2": again}, "the fine-tuned network comes first"


def test_an_unusual_input_size_of_a_fine_tuned_network_is_kept() -> None:
    small = replace(FROZEN, rule=RULE.resized(96), tuned=True, weights_source=WeightsSource.RANDOM)
    assert base_model("models/b", "v", "k/", card(small)).resolution == 96
    assert base_model("models/b", "v", "k/", card(replace(FROZEN, rule=RULE.resized(96)))).resolution is None


def test_random_weights_that_nothing_trained_are_not_brought() -> None:
    assert base_model("models/b", "v", "k/", card(replace(FROZEN, weights_source=WeightsSource.RANDOM))).networks == ()


def test_a_detector_brings_its_network_and_leaves_its_input_to_the_search() -> None:
    rule = DETECTORS["yolox_nano"].rule.resized(640)
    own = CardBackbone("yolox_nano", rule, WeightsSource.RANDOM, tuned=True)
    found = base_model("models/b", "v", "k/", card(own, kind=ModelKind.GENERIC_DETECTOR))
    assert (found.networks, found.resolution) == (("yolox_nano",), None)
