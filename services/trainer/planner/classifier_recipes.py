"""The recipes of the ladder, cheap ones first. What they try was chosen on some image sets and confirmed on others."""

from msgspec.structs import replace

from services.trainer.domain import Hyperparameters
from services.trainer.recipe import Depth, Framing, Recipe
from services.vision.card import input_size
from services.vision.catalogue import BACKBONES, FIRST_BACKBONE, RANDOM_START

SEVERAL = 2  # networks whose features are put together
BOTH = (Framing.STRETCH, Framing.CROP)  # which of them is better differs from set to set
BOTH_UP_TO, MIRRORED_UP_TO = 20_000, 5_000  # images; of more, the features would fill the memory
TUNED_FROM = 1_000  # images; with fewer, last stages are tuned on stored maps instead, which leaves no fold out
STAGES_FROM = 120  # images; with 60 and fewer, tuning only made the network worse
STAGES_UP_TO = 5_000  # images; of more, the maps would fill the memory
TUNED_SHARE = 0.75  # of a frozen network's side, at which last stages are tuned: as good, in 0.6 of the time


def first(wanted: Hyperparameters) -> Recipe:
    """A linear head on one frozen network: a usable model within seconds."""
    backbone = wanted.backbones[0] if wanted.backbones else FIRST_BACKBONE
    recipe = _linear((backbone,), wanted)
    return recipe if wanted.backbones else replace(recipe, choose=True)


def pretrained(
    backbones: tuple[str, ...], wanted: Hyperparameters, image_count: int, *, mirror: bool = True
) -> list[Recipe]:
    """What follows if pretrained weights are available: `backbones`, in order of preference.

    Two networks that see images in both framings, and mirrored, or, if there is no time for that, whole; then, with
    enough images, the first of them tuned from its linear head, its predictions blended with theirs: its last stages,
    or with many images and the time for it, all.
    """
    several = backbones[:SEVERAL]
    framings = BOTH if image_count <= BOTH_UP_TO else BOTH[:1]
    views = 2 if image_count <= MIRRORED_UP_TO else 1
    heads = dict.fromkeys((_linear(several, wanted, framings, views), _linear(several, wanted)))
    tuned = Recipe(
        name=f"{backbones[0]} fine-tuned, with {'+'.join(several)}",
        rung=1,
        backbones=several,
        framings=framings,
        views=views,
        learning_rate=3e-4,
        batch_size=16,
        max_epochs=12,
        min_epochs=4,
        augmentation=0.67,
        label_smoothing=0.0,
        mirror=mirror,
        resolution=wanted.resolution or 0,
        names=not wanted.ignore_category_names,
    )
    stages = replace(
        tuned,
        name=f"{backbones[0]}'s last stages tuned, with {'+'.join(several)}",
        depth=Depth.LAST_STAGES,
        tuned_resolution=0 if wanted.resolution else _smaller_side(backbones[0]),
        stored_maps=True,
        min_epochs=8,
    )
    whole = [tuned] if image_count >= TUNED_FROM else []
    in_part = STAGES_FROM <= image_count <= STAGES_UP_TO and BACKBONES[backbones[0]].stage_starts
    return [*heads, *whole, *([stages] if in_part else [])]


def _smaller_side(backbone: str) -> int:
    """The input's side at which last stages are tuned, a multiple of 32."""
    usual = input_size(True, BACKBONES[backbone].rule.size, ())
    return round(TUNED_SHARE * usual / 32) * 32


def scratch(wanted: Hyperparameters) -> list[Recipe]:
    """What follows if there are none: the whole network learns from random weights."""
    backbone = wanted.backbones[0] if wanted.backbones else RANDOM_START
    recipe = Recipe(
        name=f"{backbone} from scratch",
        rung=1,
        backbones=(backbone,),
        pretrained=False,
        learning_rate=3e-3,
        max_epochs=8,
        augmentation=0.2,
        mirror=False,
        label_smoothing=0.05,
        average_decay=0.97,
        resolution=wanted.resolution or 0,
    )
    return [recipe]


def _linear(
    backbones: tuple[str, ...],
    wanted: Hyperparameters,
    framings: tuple[Framing, ...] = (Framing.STRETCH,),
    views: int = 1,
) -> Recipe:
    resolution = wanted.resolution or 0
    name = "+".join(backbones) + " linear" + (f" at {resolution}" if resolution else "")
    name += ", crop and stretch" if len(framings) > 1 else ""
    name += f", {views} views" if views > 1 else ""
    return Recipe(
        name=name,
        rung=0,
        backbones=backbones,
        framings=framings,
        views=views,
        resolution=resolution,
        names=not wanted.ignore_category_names,
        depth=Depth.HEAD,
    )
