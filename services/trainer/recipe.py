"""What a trial does and what it measures: the recipe, the split of the images, and figures for later trials."""

from enum import StrEnum

import msgspec

from services.vision.card import ModelKind


class Depth(StrEnum):
    """Which layers a fine-tuning changes."""

    HEAD = "HEAD"
    NECK = "NECK"  # of a detector: the head and the feature pyramid
    LAST_STAGES = "LAST_STAGES"
    ALL = "ALL"


class Framing(StrEnum):
    """How an image becomes a square."""

    CROP = "crop"  # the middle, undistorted
    STRETCH = "stretch"  # the whole, distorted


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial trains. Rung 0 fits a linear head on frozen features; rung 1 changes the backbone too."""

    name: str  # for people: "mobilenet_v2 linear"
    rung: int
    kind: ModelKind = ModelKind.GENERIC_CLASSIFIER
    backbones: tuple[str, ...]  # features concatenated; a fine-tuning changes the first, and reads them all frozen too
    choose: bool = False  # the worker takes one that suits its device and allowance instead of `backbones`
    framings: tuple[Framing, ...] = (Framing.STRETCH,)  # each network sees an image in all of them
    pretrained: bool = True  # False: random weights, even if pretrained ones are available
    views: int = 1  # of each training image: 1 plain, 2 also mirrored, 3 and more also closer crops
    resolution: int = 0  # pixels; 0: by the backbone's rule, or less for small images if untrained
    tuned_resolution: int = 0  # pixels, of the network that is tuned on stored maps; 0: as the frozen ones
    depth: Depth = Depth.ALL  # this and the following: rung 1 only
    learning_rate: float = 1e-3  # the peak of the schedule
    backbone_rate: float = 1.0  # of a detector: its share of the learning rate
    weight_decay: float = 1e-4
    batch_size: int = 32  # per step, however small the micro-batches
    max_epochs: int = 40
    min_epochs: int = 2  # if the allowance has no time for these: notEnoughBudget, nothing is trained
    patience: int = 0  # epochs without a lower validation loss before it stops; 0: never stops early
    label_smoothing: float = 0.1
    augmentation: float = 0.5  # 0 none .. 1 strong
    mirror: bool = True  # training images may be mirrored; False where left and right differ, as in text
    average_decay: float = 0.98  # per step, of the moving average of the weights; 0: the last weights

    names: bool = True  # heads may start from the names of the categories, if a network has its text tower
    linear_head: bool = True  # start from the head that rung 0 would fit on the training folds (LP-FT)
    max_prediction_seconds: float | None = None  # seconds; networks in the place of missing ones keep to it
    stored_maps: bool = False  # train the last stages on stored outputs of those before: each fold, then all images
    refit: bool = False  # train on the first fold too, with settings that a trial has validated


def is_linear(recipe: Recipe) -> bool:
    """Whether it only fits a classifier's head on frozen features."""
    return recipe.kind is ModelKind.GENERIC_CLASSIFIER and recipe.rung == 0


MIN_HELD_OUT_FROM = 20  # images of the smallest category, for there to be a hold-out
HOLDOUT_FRACTION = 0.2  # of the training images, if there is no test dataset


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How a snapshot is divided; the same values give every trial of a model the same images.

    The hold-out is drawn first, stratified, and only if every category keeps 20 images; 0 means none, because there is
    a test dataset. The rest is divided into `folds` stratified folds, or as many as the smallest category has images.
    Rung 1 trains on all folds but the first, and validates on the first.
    """

    seed: int = 0
    folds: int = 5
    holdout_fraction: float = 0.0


class BoxStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How many regions a snapshot's training images have and how large they are, without crowds.

    A box's size is the square root of its area divided by the longer side of its image: multiplied by the side of the
    input, it is the size in the network's pixels.
    """

    count: int
    fewest: int  # in the category with the fewest
    small_size: float  # the median box's, in the category with the smallest boxes
    longer_side: int  # of the median image, in pixels as stored
