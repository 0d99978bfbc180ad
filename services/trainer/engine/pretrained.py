"""The frozen networks that a recipe names, with their weights and input rules."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors

from services.kit.errors import InvalidRequest
from services.trainer.engine.data import Images
from services.trainer.messages import TrainTask
from services.trainer.recipe import Framing, Recipe
from services.vision.backbones import Network, build
from services.vision.card import CardBackbone, InputRule, WeightsSource, input_size
from services.vision.catalogue import BACKBONES, NETWORKS, RANDOM_START
from services.vision.packs import PackUnusable
from services.vision.weights import PretrainedWeights, WeightsResolver, pretrained_network


@dataclass(frozen=True, slots=True)
class LoadedBackbone:
    """A backbone that can embed images, in one framing."""

    network: Network
    rule: InputRule
    weights: PretrainedWeights
    shares: int | None = None  # index of an earlier one with the same network

    @property
    def name(self) -> str:
        """The backbone's name."""
        return self.network.backbone.name

    @property
    def widths(self) -> tuple[int, ...]:
        """The numbers of features of the last stage and, of pretrained weights, of the stage before it."""
        backbone = self.network.backbone
        return (backbone.feature_dim, backbone.middle_dim) if self.has_middle else (backbone.feature_dim,)

    @property
    def has_middle(self) -> bool:
        """Whether the stage before the last is read too: it tells more of images unlike those of the pretraining."""
        return self.weights.pretrained and self.network.backbone.middle_dim > 0

    @property
    def identity(self) -> str:
        """Equal identities give equal features for an image."""
        return f"{self.name} {self.weights.sha256 or 'random'} {self.rule} {self.widths}"

    def card(self, *, frozen: bool = True, normalised: bool = True, shift: int = 0) -> CardBackbone:
        """The backbone's entry in the model's card, `shift` places further down.

        A fine-tuned one has a head on its last stage alone.
        """
        return CardBackbone(
            self.name,
            self.rule,
            self.weights.source,
            self.weights.sha256,
            normalised=normalised,
            shares=None if self.shares is None else self.shares + shift,
            middle=frozen and self.has_middle,
        )


def middle_blocks(backbones: Sequence[LoadedBackbone]) -> tuple[bool, ...]:
    """Which of their blocks of features, in order, are of a stage before the last."""
    return tuple(index > 0 for backbone in backbones for index in range(len(backbone.widths)))


def origin(backbones: list[LoadedBackbone]) -> WeightsSource:
    """The source of several backbones' weights: RANDOM if that of any is, otherwise the first's."""
    sources = [backbone.weights.source for backbone in backbones]
    return WeightsSource.RANDOM if WeightsSource.RANDOM in sources else sources[0]


def load_backbones(task: TrainTask, images: Images) -> list[LoadedBackbone]:
    """One per backbone and framing of the recipe. Random weights depend on the task's seed alone.

    A backbone without pretrained weights is replaced by the next in the catalogue whose weights are on this machine.
    Without any, a single network starts from random weights.
    Raises InvalidRequest for an unknown backbone or broken weights.
    """
    loaded: list[LoadedBackbone] = []
    for network, weights in _networks(task, len(images.categories)):
        framings = task.recipe.framings if weights.pretrained else (Framing.STRETCH,)
        first = len(loaded)
        for framing in framings:
            rule = _rule(network, weights, framing, task.recipe, images)
            loaded.append(LoadedBackbone(network, rule, weights, None if len(loaded) == first else first))
    return loaded


def within_reach(task: TrainTask) -> tuple[str, ...]:
    """The networks of the recipe's kind whose pretrained weights are on this machine."""
    found = resolver(task)
    return tuple(name for name, network in NETWORKS[task.recipe.kind].items() if found.available(network))


def resolver(task: TrainTask) -> WeightsResolver:
    """Finds weights where the task may look for them."""
    folder = Path(task.weights_directory) if task.weights_directory else None
    cache, packages = Path(task.cache_directory), task.installed_weights
    return WeightsResolver(folder, cache, packages=packages, download=task.download_weights)


def _networks(task: TrainTask, categories: int) -> list[tuple[Network, PretrainedWeights]]:
    found, recipe = resolver(task), task.recipe
    if unknown := [name for name in recipe.backbones if name not in BACKBONES]:
        problem = f"{unknown[0]!r} is not a backbone; the backbones are {', '.join(BACKBONES)}"
        raise InvalidRequest(field="recipe.backbones", problem=problem)
    if not recipe.pretrained:
        asked = "started from random weights, as its recipe asks."
        return [_random(name, categories, task, f"{name} {asked}") for name in recipe.backbones]
    spare = [name for name in within_reach(task) if name not in recipe.backbones]
    networks: list[tuple[Network, PretrainedWeights]] = []
    missing = ""  # why the first network without weights and without a replacement has none
    for name in recipe.backbones:
        network, weights = _pretrained(name, categories, task, found)
        if not weights.pretrained:
            why = weights.note
            if not spare:
                missing = missing or why
                continue
            network, weights = _pretrained(spare.pop(0), categories, task, found)
            weights = replace(weights, note=f"{why} {network.backbone.name} took its place.")
        networks.append((network, replace(weights, state={})))  # the network has them now
    if networks:
        return networks
    note = f"{missing} Training starts from random weights, of {RANDOM_START}, which learns best from them."
    return [_random(RANDOM_START, categories, task, note)]


def _pretrained(
    name: str, categories: int, task: TrainTask, found: WeightsResolver
) -> tuple[Network, PretrainedWeights]:
    try:
        return pretrained_network(name, categories, found, seed=task.seed)
    except PackUnusable as fault:
        raise InvalidRequest(field="weights", problem=str(fault)) from fault
    except (safetensors.SafetensorError, RuntimeError) as fault:
        raise InvalidRequest(field="weights", problem=f"the weights of {name} are broken: {fault}") from fault


def _random(name: str, categories: int, task: TrainTask, note: str) -> tuple[Network, PretrainedWeights]:
    weights = PretrainedWeights({}, WeightsSource.RANDOM, f"seed {task.seed}", note)
    return build(name, categories, seed=task.seed), weights


def _rule(network: Network, weights: PretrainedWeights, framing: Framing, recipe: Recipe, images: Images) -> InputRule:
    """As the weights want their colours, in the framing, at the size that the recipe or small images ask for."""
    rule = network.backbone.rule
    if weights.pack:
        rule = weights.pack.adapted(rule)
    if framing is Framing.CROP:
        return rule.resized(recipe.resolution or rule.size)
    size = recipe.resolution or input_size(weights.pretrained, rule.size, images.longer_sides())
    return replace(rule, size=size, resize=size, fit="stretch")
