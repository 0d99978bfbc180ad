"""The recipes of a detector's ladder, as data. What they try was chosen on a few image sets."""

from dataclasses import dataclass

import msgspec

from services.trainer.domain import Hyperparameters
from services.trainer.prediction_cost import LEAST_SIDE, largest_side, pass_seconds
from services.trainer.recipe import BoxStatistics, Depth, Recipe
from services.vision.card import ModelKind
from services.vision.catalogue import DETECTORS, FIRST_DETECTOR

STRIDE = 32  # input sides are multiples of it
LARGER_NETWORKS = 4  # tried in addition to the first

FEW_BOXES = 100  # in a category, below which a gentle rate applies to objects that pretraining knows
KNOWN_SCORE = 0.3  # of the head alone, from which pretraining knows the objects
RATE, GENTLE_RATE, SCRATCH_RATE = 1e-3, 2e-4, 4e-3
TRANSFORMER_RATE, GENTLE_TRANSFORMER_RATE = 2e-4, 1e-4
TRANSFORMER_BACKBONE_RATE = 0.5  # of that rate, as published
RATE_FACTORS, GENTLE_RATE_FACTORS = (2.0, 0.5), (2.5,)  # the other rates to try, relative to the first
NECK_BOXES = 250  # in total, below which validation cannot tell depths apart

USUAL_SIDE = 640  # of the input, if the images are as large and the budget pays for it
BOX_SIDE = 28  # pixels of the input that a category's median box should have
SCRATCH_BOX_SIDE = 42  # from random weights
MAX_SIDE = 960
MAX_MAGNIFICATION = 2.0  # of an image; a larger input shows nothing more
LARGER_SIDE = 1.5  # the next side to try, relative to the best so far
LARGE_ENOUGH = 64  # pixels of a box, above which no input larger than the images is tried
SCRATCH_SIDES = (160, 192, 224, 256, 320, 416)

SEEN = 4_000  # images in the long schedule
EPOCHS = (12, 40)  # its minimum and maximum
LONGEST = 2.0  # times as many epochs, if the budget pays for them
SCRATCH_SEEN = 40_000  # from random weights; as many as most budgets pay for
SCRATCH_EPOCHS = (20, 200)
PROBE_SHARE = 0.3  # of the long schedule
HEAD_EPOCHS = 6
REFIT_IMAGES = 2_000  # up to this many, a refit on all images is worthwhile
PATIENCE = 3  # validations without improvement, after which a long schedule on more images ends


@dataclass(frozen=True, slots=True)
class SearchPoint:
    """The settings that the search decides."""

    backbone: str
    side: int
    rate: float
    pretrained: bool = True
    depth: Depth = Depth.ALL

    @classmethod
    def of(cls, recipe: Recipe) -> "SearchPoint":
        """The settings of a recipe that tunes."""
        return cls(recipe.backbones[0], recipe.resolution, recipe.learning_rate, recipe.pretrained, recipe.depth)

    def __str__(self) -> str:
        origin = "" if self.pretrained else " from scratch"
        part = " head and neck" if self.depth is Depth.NECK else ""
        return f"{self.backbone}{part}{origin} at {self.side}, rate {self.rate:g}"


def side_of(backbone: str, wanted: Hyperparameters) -> int:
    """The input's longer side before anything is known: as requested, or the network's default within the limit."""
    return wanted.resolution or min(DETECTORS[backbone].rule.size, most_side(backbone, wanted))


def most_side(backbone: str, wanted: Hyperparameters) -> int:
    """The largest side to try: a prediction costs no more than it may."""
    limit, most = wanted.max_prediction_seconds, max(MAX_SIDE, DETECTORS[backbone].rule.size)
    return most if limit is None else min(most, largest_side(ModelKind.GENERIC_DETECTOR, backbone, limit))


def affordable(backbone: str, wanted: Hyperparameters, least: int) -> bool:
    """Whether the network keeps to the limit of a prediction's cost at the requested side, or else at `least`."""
    limit = wanted.max_prediction_seconds
    side = wanted.resolution or least
    return limit is None or pass_seconds(ModelKind.GENERIC_DETECTOR, backbone, side) <= limit


def head(wanted: Hyperparameters) -> Recipe:
    """Only the head, on a frozen network: a usable model after seconds."""
    preferred = wanted.backbones or (FIRST_DETECTOR, *DETECTORS)
    backbone = next((name for name in preferred if affordable(name, wanted, LEAST_SIDE)), preferred[0])
    point = SearchPoint(backbone, side_of(backbone, wanted), rates(backbone, gentle=False)[0])
    name, epochs = f"{backbone} head at {point.side}", HEAD_EPOCHS
    recipe = _tuned(name, point, epochs)
    return msgspec.structs.replace(recipe, rung=0, depth=Depth.HEAD, min_epochs=1, linear_head=True)


def probe(point: SearchPoint, image_count: int) -> Recipe:
    """A short schedule, to see how good the settings are."""
    return _tuned(f"{point}, probe", point, max(4, round(PROBE_SHARE * _epochs(point, image_count))))


def long(point: SearchPoint, image_count: int, times: float = 1.0) -> Recipe:
    """The whole schedule, or `times` as many epochs; if no refit follows, validation may stop it early."""
    patience = PATIENCE if point.pretrained and image_count > REFIT_IMAGES else 0
    recipe = _tuned(str(point), point, round(times * _epochs(point, image_count)))
    return msgspec.structs.replace(recipe, patience=patience)


def is_long(recipe: Recipe, image_count: int) -> bool:
    """Whether the recipe has the whole schedule."""
    return recipe.rung > 0 and recipe.max_epochs >= _epochs(SearchPoint.of(recipe), image_count)


def refit(recipe: Recipe) -> Recipe:
    """The recipe again, trained on the validation images too."""
    return msgspec.structs.replace(recipe, name=f"{recipe.name}, all images", refit=True)


def rates(backbone: str, *, gentle: bool) -> list[float]:
    """The rates to try, the first one first; a high one forgets what it cannot learn again from few boxes."""
    if DETECTORS[backbone].transformer:
        first = GENTLE_TRANSFORMER_RATE if gentle else TRANSFORMER_RATE
    else:
        first = GENTLE_RATE if gentle else RATE
    return [first, *(factor * first for factor in (GENTLE_RATE_FACTORS if gentle else RATE_FACTORS))]


def prior_side(backbone: str, boxes: BoxStatistics | None) -> int:
    """The first input side to try: boxes of every category are large enough to be found, and few pixels are lost."""
    own = DETECTORS[backbone].rule.size
    if boxes is None:
        return own
    found = min(_multiple(BOX_SIDE / boxes.small_size), _most(boxes))
    return max(own, found, min(USUAL_SIDE, _multiple(boxes.longer_side)))


def smaller_sides(backbone: str, side: int) -> list[int]:
    """Sides to choose from if the budget is too small for `side`, ascending up to it."""
    own = DETECTORS[backbone].rule.size
    return sorted({own, _multiple((own + side) / 2), side}) if side > own else [side]


def larger_side(side: int, boxes: BoxStatistics) -> int | None:
    """The next input side to try: up to the images' own, or beyond it for small boxes; None if there is none."""
    limit = _most(boxes) if side * boxes.small_size < LARGE_ENOUGH else min(MAX_SIDE, _multiple(boxes.longer_side))
    larger = min(_multiple(LARGER_SIDE * side), limit)
    return larger if larger > side else None


def smaller_side(backbone: str, side: int, boxes: BoxStatistics) -> int | None:
    """The network's own side, if it is smaller and every category's boxes are large enough there; else None."""
    own = DETECTORS[backbone].rule.size
    return own if own < side and own * boxes.small_size >= BOX_SIDE else None


def improves_on(new: Recipe, old: Recipe) -> bool:
    """Whether `new` is expected to be better: a network that is more accurate on COCO, or only a larger input."""
    ours, theirs = (SearchPoint.of(recipe) for recipe in (new, old))
    if not (ours.pretrained and theirs.pretrained) or ours.depth is not theirs.depth:
        return False
    if ours.backbone != theirs.backbone:
        return DETECTORS[ours.backbone].coco_ap > DETECTORS[theirs.backbone].coco_ap
    return ours.rate == theirs.rate and ours.side > theirs.side


def scratch_side(backbone: str, boxes: BoxStatistics | None) -> int:
    """The input side for random weights: as small as the boxes allow, as steps matter more than pixels."""
    own = DETECTORS[backbone].rule.size
    if boxes is None:
        return own
    most = min(own, _multiple(boxes.longer_side))
    return next((side for side in SCRATCH_SIDES if side * boxes.small_size >= SCRATCH_BOX_SIDE and side <= most), most)


def _most(boxes: BoxStatistics) -> int:
    return min(MAX_SIDE, _multiple(MAX_MAGNIFICATION * boxes.longer_side))


def _multiple(side: float) -> int:
    return max(STRIDE, round(side / STRIDE) * STRIDE)


def _epochs(point: SearchPoint, image_count: int) -> int:
    """Epochs of the whole schedule: the fewer images, the more epochs."""
    seen, (least, most) = (SEEN, EPOCHS) if point.pretrained else (SCRATCH_SEEN, SCRATCH_EPOCHS)
    return min(max(round(seen / max(1, image_count)), least), most)


def _tuned(name: str, point: SearchPoint, epochs: int) -> Recipe:
    """A fine-tuning of pretrained weights, or a training from random ones."""
    transformer = DETECTORS[point.backbone].transformer is not None
    return Recipe(
        name=name,
        rung=1,
        kind=ModelKind.GENERIC_DETECTOR,
        backbones=(point.backbone,),
        pretrained=point.pretrained,
        resolution=point.side,
        depth=point.depth,
        learning_rate=point.rate,
        backbone_rate=TRANSFORMER_BACKBONE_RATE if transformer and point.pretrained else 1.0,
        weight_decay=0.01 if point.pretrained else 0.05,
        batch_size=4 if point.pretrained else 8,
        max_epochs=epochs,
        augmentation=0.5,
        mirror=point.pretrained,  # random weights have no steps to spare for views that serving never shows
        average_decay=0.98 if point.pretrained else 0.995,
        linear_head=False,  # outputs of similar pretrained categories help only in short schedules
        label_smoothing=0.0,
    )
