"""What predicting one image costs, in seconds of one core of the reference device, and recipes that keep to a limit."""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from services.trainer.recipe import Framing, Recipe
from services.vision.card import CardBackbone, ModelKind, input_size
from services.vision.catalogue import NETWORKS

LARGEST_UNTRAINED_SIDE = 224  # of a classifier's input that starts from random weights and leaves its side open
STRIDE = 32  # sides of smaller inputs are multiples of it
LEAST_SIDE = 128  # of an input that a limit makes smaller


def pass_seconds(kind: ModelKind, name: str, side: int) -> float:
    """Of one image's pass through a network, decoding included: by the catalogue, proportional to the pixels."""
    network = NETWORKS[kind][name]
    return network.seconds * (side / network.rule.size) ** 2


def bundle_seconds(kind: ModelKind, backbones: Iterable[CardBackbone]) -> float:
    """Of a prediction with a trained model; each of the card's backbones is one pass."""
    return sum(pass_seconds(kind, backbone.name, backbone.rule.size) for backbone in backbones)


def recipe_seconds(recipe: Recipe) -> float:
    """Of a prediction with what the recipe trains, before anything is known about the images: the most it may be."""
    if recipe.kind is ModelKind.GENERIC_DETECTOR or not recipe.pretrained:
        return sum(_seconds(recipe, name, recipe.framings[0]) for name in recipe.backbones)
    seconds = sum(_seconds(recipe, name, framing) for name in recipe.backbones for framing in recipe.framings)
    if not recipe.rung:
        return seconds
    tuned = replace(recipe, resolution=recipe.tuned_resolution or recipe.resolution)  # the frozen networks join it
    return seconds + _seconds(tuned, recipe.backbones[0], recipe.framings[0])


def keeps_to(recipe: Recipe, limit: float | None) -> bool:
    """Whether a prediction costs at most the limit, if there is one."""
    return limit is None or recipe_seconds(recipe) <= limit


def narrowed(recipe: Recipe, limit: float | None) -> Recipe | None:
    """The recipe itself if it keeps to the limit, else with as many of its networks and framings as do; None if none.

    What ships without networks or framings is less accurate, so the most expensive choice that fits is the best guess.
    """
    if limit is None:
        return recipe
    fitting = [replace(each, max_prediction_seconds=limit) for each in _narrower(recipe) if keeps_to(each, limit)]
    return max(fitting, key=recipe_seconds, default=None)


def largest_side(kind: ModelKind, name: str, limit: float) -> int:
    """The largest side, a multiple of STRIDE, at which a pass through the network costs at most the limit; maybe 0."""
    network = NETWORKS[kind][name]
    return int(network.rule.size * (limit / network.seconds) ** 0.5 + 1e-6) // STRIDE * STRIDE


def least_seconds(kind: ModelKind, backbones: Iterable[str], resolution: int | None) -> tuple[float, str]:
    """(seconds, network) of the cheapest prediction that a model on one of the networks can make."""
    side = resolution or LEAST_SIDE
    return min((pass_seconds(kind, name, side), name) for name in backbones or NETWORKS[kind])


def _narrower(recipe: Recipe) -> Iterator[Recipe]:
    yield recipe
    for networks in range(len(recipe.backbones), 0, -1):
        for framings in range(len(recipe.framings), 0, -1):
            backbones, kept = recipe.backbones[:networks], recipe.framings[:framings]
            if (backbones, kept) != (recipe.backbones, recipe.framings):
                name = f"{recipe.name}, of these {'+'.join(backbones)}, {' and '.join(kept)}"
                yield replace(recipe, name=name, backbones=backbones, framings=kept)


def _seconds(recipe: Recipe, name: str, framing: Framing) -> float:
    own = NETWORKS[recipe.kind][name].rule.size
    side = own if framing is Framing.CROP else input_size(True, own, ())
    if not recipe.pretrained:
        side = LARGEST_UNTRAINED_SIDE
    return pass_seconds(recipe.kind, name, recipe.resolution or side)
