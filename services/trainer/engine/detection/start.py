"""The network that a recipe names, with the best weights to be had, and the rule by which it wants its input."""

from dataclasses import dataclass

import safetensors

from services.kit.errors import InvalidRequest
from services.trainer.engine.pretrained import resolver
from services.trainer.messages import TrainTask
from services.vision.card import CardBackbone, InputRule, WeightsSource
from services.vision.catalogue import DETECTORS, DetectorSpec
from services.vision.detector_builder import build_detector
from services.vision.detector_network import DetectorNetwork
from services.vision.weights import PretrainedWeights, pretrained_detector


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a network came from."""

    spec: DetectorSpec
    rule: InputRule
    weights: PretrainedWeights

    @property
    def pretrained(self) -> bool:
        """Whether it had learned anything before."""
        return self.weights.pretrained

    def card(self) -> CardBackbone:
        """As the model's card names it."""
        return CardBackbone(self.spec.name, self.rule, self.weights.source, self.weights.sha256)


def load_network(task: TrainTask, categories: int) -> tuple[DetectorNetwork, Origin]:
    """With pretrained weights if the recipe wants them and they can be had. Random ones depend on the seed alone.

    Raises InvalidRequest for a network that is not known, a side that is no multiple of 32, or broken weights.
    """
    recipe = task.recipe
    name = recipe.backbones[0] if len(recipe.backbones) == 1 else "+".join(recipe.backbones)
    if name not in DETECTORS:
        problem = f"{name!r} is no detector; known are {', '.join(DETECTORS)}"
        raise InvalidRequest(field="recipe.backbones", problem=problem)
    if recipe.resolution % 32:
        raise InvalidRequest(field="recipe.resolution", problem=f"{recipe.resolution} is no multiple of 32")
    spec = DETECTORS[name]
    rule = spec.rule.resized(recipe.resolution or spec.rule.size)
    if not recipe.pretrained:
        note = f"{name} started from random weights, as its recipe asks."
        weights = PretrainedWeights({}, WeightsSource.RANDOM, f"seed {task.seed}", note)
        return build_detector(name, categories, seed=task.seed), Origin(spec, rule, weights)
    try:
        network, weights = pretrained_detector(name, categories, resolver(task), seed=task.seed)
    except (safetensors.SafetensorError, RuntimeError) as fault:
        raise InvalidRequest(field="weights", problem=f"those of {name} are broken: {fault}") from fault
    return network, Origin(spec, rule, weights)
