"""What a trial does and what it measured: the recipe, the split of the images, and figures for later trials."""

from enum import StrEnum

import msgspec

from services.vision.card import ModelKind


class Depth(StrEnum):
    """Which layers a fine-tuning changes."""

    HEAD = "HEAD"
    NECK = "NECK"  # of a detector: the head and the feature pyramid
    LAST_STAGES = "LAST_STAGES"
    ALL = "ALL"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial trains. Rung 0 fits a linear head on frozen features; rung 1 changes the backbone too."""

    name: str  # for people: "mobilenet_v2 linear"
    rung: int
    kind: ModelKind = ModelKind.GENERIC_CLASSIFIER
    backbones: tuple[str, ...]  # several: rung 0 only, features concatenated
    pretrained: bool = True  # False: random weights on purpose, even where a file is at hand
    views: int = 1  # of each training image: 1 plain, 2 mirrored too, 3 and more closer crops as well
    resolution: int = 0  # pixels, the whole picture; 0: the backbone's own rule, or less for small images, untrained
    depth: Depth = Depth.ALL  # from here on rung 1 only
    learning_rate: float = 1e-3  # of the changed layers; the peak of the schedule
    weight_decay: float = 1e-4
    batch_size: int = 32  # the effective one, whatever micro-batch fits in memory
    max_epochs: int = 40
    min_epochs: int = 2  # fewer than these in the allowance: refused as notEnoughBudget, nothing trained
    patience: int = 0  # epochs without a better validation loss before it stops; 0: never stops early
    label_smoothing: float = 0.1
    augmentation: float = 0.5  # 0 none .. 1 strong
    mirror: bool = True  # training pictures may be mirrored; not where left and right differ, as in text
    average_decay: float = 0.98  # of the moving average of the weights, per step; 0: the last weights

    linear_head: bool = True  # start from the head that rung 0 would fit on the training folds alone (LP-FT)
    multi_scale: float = 0.0  # detectors: each step's input side is drawn from resolution x (1 - this .. 1 + this)
    refit: bool = False  # train on the first fold too, once a trial has shown what to do; nothing then validates


def is_linear(recipe: Recipe) -> bool:
    """Whether it fits a classifier's head on features and changes no network."""
    return recipe.kind is ModelKind.GENERIC_CLASSIFIER and recipe.rung == 0


HOLDOUT_FRACTION = 0.2  # of the training images, where no test dataset is given


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How a snapshot is divided; the same values give every trial of a model the same images.

    The hold-out is drawn first, stratified, only where every category keeps 20 images; 0 says that there is none
    because a test dataset is given. The rest falls into stratified folds, at most `folds`, at most the images
    of the smallest category. Rung 1 trains on all folds but the first, and validates on the first.
    """

    seed: int = 0
    folds: int = 5
    holdout_fraction: float = 0.0


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Measured in this task, for the next one's estimate; None where it was not measured."""

    forward_images_per_second: float | None = None  # decode, preprocess and forward, of all backbones together
    train_images_per_second: float | None = None  # forward, backward, step and augmentation
    fixed_seconds: float = 0.0  # everything that does not grow with the images


class BoxStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How many and how large the regions of a snapshot's training images are, crowds left out.

    A box's size is the square root of its area by the longer side of its image: times the side of the input it is
    its size in the network's pixels.
    """

    count: int
    fewest: int  # of the category that has the fewest
    small_size: float  # the median box's, of the category with the smallest
    median_size: float
    longer_side: int  # of the median image, in pixels as stored
