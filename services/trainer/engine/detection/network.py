"""The network that a recipe names, with the best available weights, its input rule, and what of it trains."""

from dataclasses import dataclass, replace

import safetensors
from torch import nn

from services.kit.errors import InvalidRequest
from services.trainer.engine.base_bundle import open_base
from services.trainer.engine.pretrained import resolver
from services.trainer.messages import TrainTask
from services.trainer.recipe import Depth
from services.vision.card import CardBackbone, InputRule, WeightsSource
from services.vision.catalogue import DETECTORS, DetectorSpec
from services.vision.detector_builder import build_detector, load_detector_weights
from services.vision.detector_network import DetectorNetwork
from services.vision.packs import PackUnusable
from services.vision.weights import PretrainedWeights, pretrained_detector

TRAINED_PARTS = {Depth.HEAD: 1, Depth.NECK: 2, Depth.ALL: 3}  # of head, neck and backbone


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a network came from."""

    spec: DetectorSpec
    rule: InputRule
    weights: PretrainedWeights

    @property
    def pretrained(self) -> bool:
        """Whether its weights were trained before."""
        return self.weights.pretrained

    def card(self) -> CardBackbone:
        """The backbone's entry in the model's card."""
        return CardBackbone(self.spec.name, self.rule, self.weights.source, self.weights.sha256, tuned=True)


def load_network(task: TrainTask, categories: tuple[str, ...]) -> tuple[DetectorNetwork, Origin]:
    """The network with pretrained weights if the recipe wants them and they are available, else random by the seed.

    Raises InvalidRequest for an unknown network or depth, a side that is not a multiple of 32, or broken weights.
    """
    recipe = task.recipe
    name = recipe.backbones[0] if len(recipe.backbones) == 1 else "+".join(recipe.backbones)
    if name not in DETECTORS:
        problem = f"{name!r} is not a detector; the detectors are {', '.join(DETECTORS)}"
        raise InvalidRequest(field="recipe.backbones", problem=problem)
    if recipe.depth not in TRAINED_PARTS:
        raise InvalidRequest(field="recipe.depth", problem=f"a detector has no {recipe.depth}")
    if recipe.resolution % 32:
        raise InvalidRequest(field="recipe.resolution", problem=f"{recipe.resolution} is not a multiple of 32")
    spec = DETECTORS[name]
    rule = spec.rule.resized(recipe.resolution or spec.rule.size)
    if not recipe.pretrained:
        note = f"{name} started from random weights, as its recipe asks."
        weights = PretrainedWeights({}, WeightsSource.RANDOM, f"seed {task.seed}", note)
        return build_detector(name, len(categories), seed=task.seed), Origin(spec, rule, weights)
    try:
        network, weights = _pretrained(task, name, categories)
    except PackUnusable as fault:
        raise InvalidRequest(field="weights", problem=str(fault)) from fault
    except (safetensors.SafetensorError, RuntimeError) as fault:
        raise InvalidRequest(field="weights", problem=f"the weights of {name} are broken: {fault}") from fault
    if not weights.pretrained:
        weights = replace(weights, note=f"{weights.note} Training starts from random weights.")
    return network, Origin(spec, rule, weights)


def _pretrained(task: TrainTask, name: str, categories: tuple[str, ...]) -> tuple[DetectorNetwork, PretrainedWeights]:
    """With the base model's weights if it is of this network, else the published ones."""
    base = open_base(task)
    weights = base.detector_weights(name) if base else None
    if base is None or weights is None:
        return pretrained_detector(name, len(categories), resolver(task), seed=task.seed)
    network = build_detector(name, len(categories), seed=task.seed)
    load_detector_weights(network, weights.state)
    base.keep_categories(network, categories)
    return network, weights


def frozen_layers(network: DetectorNetwork, depth: Depth, origin: Origin) -> tuple[nn.Module, ...]:
    """What does not train: the parts beyond `depth`, and the layers that a pretrained network keeps."""
    return (*network.parts()[TRAINED_PARTS[depth] :], *(network.kept() if origin.pretrained else ()))
