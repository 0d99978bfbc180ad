"""The recipes of a detector's ladder, as data. What they try was chosen by cross-validation on two image sets."""

from dataclasses import dataclass

import msgspec

from services.trainer.costs import DETECTOR_SIDES
from services.trainer.domain import Hyperparameters
from services.trainer.protocol import BoxStatistics, Depth, ModelKind, Recipe

# The networks to try where their weights are within reach: the first by what it finds for its cost on two cores, and
# larger ones where the budget pays for them.
PREFERENCE = (
    "yolox_nano",
    "yolox_tiny",
    "yolox_s",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "ssdlite320_mobilenet_v3_large",
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn_v2",
)
LARGER_NETWORKS = 2  # tried beside the first
SIDES = (416, 640, 960)
SMALL_BOX = 32  # pixels of the input: where a quarter of the boxes are smaller, a larger one is begun with
LARGE_ENOUGH = 64  # pixels: where a quarter of the boxes are smaller, a larger one is tried
MAX_MAGNIFICATION = 2.0  # of a picture; beyond, a larger input shows nothing more

FEW_BOXES = 50  # of a category, below which the settings are those for few images
RATE, FEW_RATE, SCRATCH_RATE = 1e-3, 5e-4, 2e-3
RATE_FACTORS = (2.5, 0.4)  # of the rate to begin with: what else is tried
PROBE_SHARE = 0.25  # of the long schedule
EPOCHS = (20, 80)  # of the long schedule, at least and at most
SEEN = 8_000  # images that the long schedule shows, in between
SCRATCH_FACTOR = 4  # random weights need so many times as long
REFIT_IMAGES = 2_000  # of at most so many, those that validate are worth training on


@dataclass(frozen=True, slots=True)
class Settings:
    """What the search decides."""

    backbone: str
    side: int
    rate: float
    pretrained: bool = True

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        """Those of a recipe that tunes."""
        return cls(recipe.backbones[0], recipe.resolution, recipe.learning_rate, recipe.pretrained)

    def __str__(self) -> str:
        origin = "" if self.pretrained else " from scratch"
        return f"{self.backbone}{origin} at {self.side}, rate {self.rate:g}"


def side_of(backbone: str, wanted: Hyperparameters) -> int:
    """The input's longer side where nothing is known yet: as asked for, or the network's own."""
    return wanted.resolution or DETECTOR_SIDES[backbone]


def head(wanted: Hyperparameters) -> Recipe:
    """The head alone on a frozen network: a usable model after seconds."""
    backbone = wanted.backbones[0] if wanted.backbones else PREFERENCE[0]
    side = side_of(backbone, wanted)
    return Recipe(
        name=f"{backbone} head at {side}",
        rung=0,
        kind=ModelKind.GENERIC_DETECTOR,
        backbones=(backbone,),
        resolution=side,
        depth=Depth.HEAD,
        learning_rate=2e-3,
        batch_size=8,
        max_epochs=6,
        min_epochs=1,
        augmentation=0.3,
        average_decay=0.95,
        label_smoothing=0.0,
    )


def probe(settings: Settings, image_count: int) -> Recipe:
    """A short schedule, to see what the settings are good for."""
    return _tuned(f"{settings}, probe", settings, max(4, round(PROBE_SHARE * _epochs(settings, image_count))))


def long(settings: Settings, image_count: int) -> Recipe:
    """The whole schedule."""
    return _tuned(str(settings), settings, _epochs(settings, image_count))


def is_long(recipe: Recipe, image_count: int) -> bool:
    """Whether the recipe has the whole schedule."""
    return recipe.rung > 0 and recipe.max_epochs >= _epochs(Settings.of(recipe), image_count)


def refit(recipe: Recipe) -> Recipe:
    """The same once more, on the images too that validated it."""
    return msgspec.structs.replace(recipe, name=f"{recipe.name}, all images", refit=True)


def prior_rate(*, few: bool) -> float:
    """The rate to begin with: with few boxes, a high one forgets more than it learns."""
    return FEW_RATE if few else RATE


def prior_side(backbone: str, boxes: BoxStatistics | None) -> int:
    """The input to begin with: the least at which three quarters of the boxes are not small."""
    sides = sides_for(backbone, boxes)
    if boxes is None:
        return sides[0]
    return next((side for side in sides if side * boxes.small_size >= SMALL_BOX), sides[-1])


def sides_for(backbone: str, boxes: BoxStatistics | None) -> list[int]:
    """The inputs to choose from, ascending: from the network's own up to what still shows more of the pictures."""
    own = DETECTOR_SIDES[backbone]
    limit = MAX_MAGNIFICATION * boxes.longer_side if boxes else own
    return [own, *(side for side in SIDES if own < side <= limit)]


def _epochs(settings: Settings, image_count: int) -> int:
    """Of the whole schedule: the fewer images there are, the more often each is shown."""
    least, most = EPOCHS
    epochs = min(max(round(SEEN / max(1, image_count)), least), most)
    return epochs if settings.pretrained else SCRATCH_FACTOR * epochs


def _tuned(name: str, settings: Settings, epochs: int) -> Recipe:
    """The whole network, from published weights at a rate that keeps what they know, or from random ones."""
    return Recipe(
        name=name,
        rung=1,
        kind=ModelKind.GENERIC_DETECTOR,
        backbones=(settings.backbone,),
        pretrained=settings.pretrained,
        resolution=settings.side,
        depth=Depth.ALL,
        learning_rate=settings.rate,
        weight_decay=5e-4,
        batch_size=8,
        max_epochs=epochs,
        augmentation=0.5,
        multi_scale=0.2,
        average_decay=0.98,
        label_smoothing=0.0,
    )
