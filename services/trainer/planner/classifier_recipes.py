"""The recipes of the ladder, cheap ones first. What they try was chosen by cross-validation on three image sets."""

from services.trainer.domain import Hyperparameters
from services.trainer.recipe import Depth, Recipe
from services.vision.catalogue import FIRST_BACKBONE, RANDOM_START

SEVERAL = 2  # networks whose features are put together; a third brought nothing
HIGH_RESOLUTION = 320


def first(wanted: Hyperparameters) -> Recipe:
    """A linear head on one frozen network: a usable model after seconds."""
    backbone = wanted.backbones[0] if wanted.backbones else FIRST_BACKBONE
    return _linear((backbone,), wanted.resolution or 0)


def pretrained(backbones: tuple[str, ...], wanted: Hyperparameters) -> list[Recipe]:
    """What follows where pretrained weights are within reach: `backbones`, in order of preference.

    A higher resolution than the weights were trained at (Touvron et al. 2019), then a second network and mirrored
    views, then fine-tuning at a rate that changes the features little, for large budgets.
    """
    resolution = wanted.resolution or HIGH_RESOLUTION
    return [
        _linear(backbones[:1], resolution),
        _linear(backbones[:SEVERAL], resolution, views=2),
        Recipe(
            name=f"{backbones[0]} fine-tuned",
            rung=1,
            backbones=backbones[:1],
            learning_rate=1e-5,
            batch_size=16,
            max_epochs=30,
            patience=5,
            augmentation=0.7,
            label_smoothing=0.05,
            resolution=wanted.resolution or 0,
        ),
    ]


def scratch(wanted: Hyperparameters) -> list[Recipe]:
    """What follows where there are none: the whole network learns from random weights."""
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


def _linear(backbones: tuple[str, ...], resolution: int, views: int = 1) -> Recipe:
    name = "+".join(backbones) + " linear" + (f" at {resolution}" if resolution else "")
    name += f", {views} views" if views > 1 else ""
    return Recipe(name=name, rung=0, backbones=backbones, views=views, resolution=resolution, depth=Depth.HEAD)
