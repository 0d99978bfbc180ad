"""The frozen networks that a recipe names, with their weights and input rules."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import safetensors

from services.kit.errors import InvalidRequest
from services.trainer.engine import choice
from services.trainer.engine.base_bundle import BaseBundle, base_networks, open_base
from services.trainer.engine.data import Images
from services.trainer.engine.fetching import opener
from services.trainer.messages import TrainTask
from services.trainer.prediction_cost import keeps_to
from services.trainer.recipe import Framing, Recipe
from services.vision.backbones import Network, build
from services.vision.card import CardBackbone, InputRule, WeightsSource, input_size
from services.vision.catalogue import BACKBONES, DETECTORS, RANDOM_START, preferred
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
            tuned=not frozen or self.weights.source is WeightsSource.BASE_MODEL,
            middle=frozen and self.has_middle,
        )


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where weights come from: the base model first."""

    found: WeightsResolver
    base: BaseBundle | None


def tunable(backbone: LoadedBackbone, task: TrainTask) -> LoadedBackbone:
    """A copy that may change, at the input's side that the recipe has for it."""
    side = task.recipe.tuned_resolution
    rule = backbone.rule.resized(side) if side else backbone.rule
    return replace(backbone, network=copy.deepcopy(backbone.network).to(task.device), rule=rule)


def middle_blocks(backbones: Sequence[LoadedBackbone]) -> tuple[bool, ...]:
    """Which of their blocks of features, in order, are of a stage before the last."""
    return tuple(index > 0 for backbone in backbones for index in range(len(backbone.widths)))


def origin(backbones: list[LoadedBackbone]) -> WeightsSource:
    """The source of several backbones' weights: RANDOM if that of any is, otherwise the first's."""
    sources = [backbone.weights.source for backbone in backbones]
    return WeightsSource.RANDOM if WeightsSource.RANDOM in sources else sources[0]


def load_backbones(task: TrainTask, images: Images) -> list[LoadedBackbone]:
    """One per backbone and framing of the recipe. Random weights depend on the task's seed alone.

    If the recipe leaves the choice to the worker, there is one: the preferred one that is fast enough. Otherwise, a
    backbone without pretrained weights is replaced by the next in the catalogue whose weights are on this machine.
    Without any, a single network starts from random weights.
    Raises InvalidRequest for an unknown backbone or broken weights.
    """
    loaded: list[LoadedBackbone] = []
    sources = _Sources(resolver(task), open_base(task))
    chosen = _chosen(task, images, sources) if task.recipe.choose else None
    for network, weights in [chosen] if chosen else _networks(task, len(images.categories), sources):
        framings = task.recipe.framings if weights.pretrained else (Framing.STRETCH,)
        first = len(loaded)
        for framing in framings:
            rule = _rule(network, weights, framing, task.recipe, images)
            loaded.append(LoadedBackbone(network, rule, weights, None if len(loaded) == first else first))
    return loaded


def detectors_within_reach(task: TrainTask) -> tuple[str, ...]:
    """The detectors whose pretrained weights are on this machine."""
    found, brought = resolver(task), base_networks(task)
    return tuple(name for name, network in DETECTORS.items() if name in brought or found.available(network))


def within_reach(task: TrainTask, used: Sequence[CardBackbone] = ()) -> tuple[str, ...]:
    """The backbones that suit the device and have weights, the preferred ones first.

    The weights are on this machine, or small and on a site from which `used` has some. If the worker chose the network
    that it used, those that it found too slow are left out.
    """
    found, sites, brought = resolver(task), {card.weights_source for card in used}, base_networks(task)
    names = preferred(choice.device_class(task))
    if task.recipe.choose and used and used[0].name in names:
        names = names[names.index(used[0].name) :]
    return tuple(
        name
        for name in dict.fromkeys((*brought, *names))
        if name in brought
        or found.available(row := BACKBONES[name])
        or (row.worth_download and row.download is not None and row.download.source in sites)
    )


def resolver(task: TrainTask) -> WeightsResolver:
    """Finds weights where the task may look for them."""
    folder = Path(task.weights_directory) if task.weights_directory else None
    cache, packages = Path(task.cache_directory), task.installed_weights
    used = {(one.network, one.source): one.sha256 for one in task.weights}
    return WeightsResolver(folder, cache, packages=packages, download=task.download_weights, used=used, opener=opener())


def _networks(task: TrainTask, categories: int, sources: _Sources) -> list[tuple[Network, PretrainedWeights]]:
    recipe = task.recipe
    if unknown := [name for name in recipe.backbones if name not in BACKBONES]:
        problem = f"{unknown[0]!r} is not a backbone; the backbones are {', '.join(BACKBONES)}"
        raise InvalidRequest(field="recipe.backbones", problem=problem)
    if not recipe.pretrained:
        asked = "started from random weights, as its recipe asks."
        return [_random(name, categories, task, f"{name} {asked}") for name in recipe.backbones]
    spare = [name for name in within_reach(task) if name not in recipe.backbones]
    names = list(recipe.backbones)
    networks: list[tuple[Network, PretrainedWeights]] = []
    missing = ""  # why the first network without weights and without a replacement has none
    for place, name in enumerate(recipe.backbones):
        network, weights = _pretrained(name, categories, task, sources)
        if not weights.pretrained:
            why = weights.note
            other = next((one for one in spare if _fits([*names[:place], one, *names[place + 1 :]], recipe)), None)
            if other is None:
                missing = missing or why
                continue
            spare.remove(other)
            names[place] = other
            network, weights = _pretrained(other, categories, task, sources)
            weights = replace(weights, note=f"{why} {other} took its place.")
        networks.append((network, replace(weights, state={})))  # the network has them now
    if networks:
        return networks
    if not _fits([RANDOM_START], msgspec.structs.replace(recipe, pretrained=False)):
        note = f"{missing} Training starts from random weights, of {names[0]}."
        return [_random(names[0], categories, task, note)]
    note = f"{missing} Training starts from random weights, of {RANDOM_START}, which learns best from them."
    return [_random(RANDOM_START, categories, task, note)]


def _chosen(task: TrainTask, images: Images, sources: _Sources) -> tuple[Network, PretrainedWeights] | None:
    """The preferred network whose pass over the images fits, or else the fastest; None if none has weights."""
    fastest = None
    for name in choice.candidates(choice.device_class(task), sources.found):
        if fastest and BACKBONES[name].seconds >= fastest[0].backbone.seconds:
            continue  # slower than what is too slow
        if not _fits([name], task.recipe):
            continue
        network, weights = _pretrained(name, len(images.categories), task, sources)
        if not weights.pretrained:
            continue
        rule = _rule(network, weights, Framing.STRETCH, task.recipe, images)
        loaded = network, replace(weights, state={})
        if choice.surely_fast(network.backbone, rule, len(images.samples), task):
            return loaded
        seconds = choice.pass_seconds(network, rule, images, task)
        if seconds <= choice.PASS_SHARE * task.allowance.total_seconds():
            return loaded
        fastest = loaded
    return fastest


def _fits(names: list[str], recipe: Recipe) -> bool:
    """Whether a prediction with these networks keeps to the recipe's limit."""
    return keeps_to(msgspec.structs.replace(recipe, backbones=tuple(names)), recipe.max_prediction_seconds)


def _pretrained(name: str, categories: int, task: TrainTask, sources: _Sources) -> tuple[Network, PretrainedWeights]:
    weights = sources.base.backbone_weights(name) if sources.base else None
    try:
        if weights is None:
            return pretrained_network(name, categories, sources.found, seed=task.seed)
        return _continued(build(name, categories, seed=task.seed), weights), weights
    except PackUnusable as fault:
        raise InvalidRequest(field="weights", problem=str(fault)) from fault
    except (safetensors.SafetensorError, RuntimeError) as fault:
        raise InvalidRequest(field="weights", problem=f"the weights of {name} are broken: {fault}") from fault


def _continued(network: Network, weights: PretrainedWeights) -> Network:
    """The network with the weights of a bundle, which has no head of its own for each network."""
    own = {key: value for key, value in network.state_dict().items() if key.startswith("head.")}
    network.load_state_dict({**weights.state, **own}, strict=True)
    return network


def _random(name: str, categories: int, task: TrainTask, note: str) -> tuple[Network, PretrainedWeights]:
    weights = PretrainedWeights({}, WeightsSource.RANDOM, f"seed {task.seed}", note)
    return build(name, categories, seed=task.seed), weights


def _rule(network: Network, weights: PretrainedWeights, framing: Framing, recipe: Recipe, images: Images) -> InputRule:
    """As the weights want their colours, in the framing, at the size that the recipe or small images ask for."""
    rule, patch = network.backbone.rule, network.backbone.patch
    if weights.pack:
        rule = weights.pack.adapted(rule)
    own = framing is Framing.CROP or patch > 1  # a transformer's positions are learned for its own size
    size = recipe.resolution or (rule.size if own else input_size(weights.pretrained, rule.size, images.longer_sides()))
    size = max(1, size // patch) * patch
    return rule.resized(size) if framing is Framing.CROP else replace(rule, size=size, resize=size, fit="stretch")
