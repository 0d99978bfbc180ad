"""A network's input rule, and a model's card: everything about a trained model but its weights. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

from services.kit import codec
from services.vision.prediction_sets import Calibration

FORMAT_VERSION = 1
UNFITTED_THRESHOLD = 0.3  # of a detector's category if none could be suggested
WEIGHTS_FILE, CARD_FILE, DIGESTS_FILE = "weights.safetensors", "card.json", "digests.json"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_encoder = msgspec.json.Encoder(order="deterministic")


class ModelKind(StrEnum):
    """What a model does."""

    GENERIC_CLASSIFIER = "GENERIC_CLASSIFIER"
    GENERIC_DETECTOR = "GENERIC_DETECTOR"


class WeightsSource(StrEnum):
    """Where a network's weights came from."""

    TORCHVISION = "TORCHVISION"
    YOLOX = "YOLOX"
    TIMM = "TIMM"
    PACKAGE = "PACKAGE"
    STORE = "STORE"
    FOLDER = "FOLDER"
    BASE_MODEL = "BASE_MODEL"
    RANDOM = "RANDOM"


@dataclass(frozen=True, slots=True)
class InputRule:
    """How a network's input is made; serving follows the rule in the card, so that it matches training.

    `resize` is the shorter side before the centre crop of `size` x `size` (fit `crop`). It is ignored if the whole
    image is scaled: to `size` x `size` (fit `stretch`), or, undistorted, to a longer side of `size`, padded with
    grey to multiples of 32 (fit `letterbox`, for detectors). A sample becomes (sample * scale - mean) / std.
    """

    size: int
    resize: int
    fit: Literal["crop", "stretch", "letterbox"] = "crop"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    channel_order: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1 / 255

    @property
    def at_least(self) -> int:
        """The least shorter side at which a JPEG may be decoded: twice what is needed, in steps that rules share.

        For a letterbox, the shorter side is assumed to be at most three quarters of the size, as for nearly all images.
        """
        needed = 0.75 * self.size if self.fit == "letterbox" else max(self.size, self.resize)
        return -int(-2 * needed // 128) * 128

    def resized(self, size: int) -> "InputRule":
        """The same rule at another size, the margin of the crop in proportion."""
        return replace(self, size=size, resize=round(self.resize * size / self.size))


def input_size(pretrained: bool, pretrained_size: int, longer_sides: Sequence[int]) -> int:
    """The side to train at.

    Pretrained weights do best an eighth above their training size, where whole images show objects at the size of
    training's random crops (Touvron et al. 2019, "FixRes"). Random weights have no preferred size, and small images
    train faster at their own: the median longer side rounded up to a multiple of 32, within 64..224.
    """
    if pretrained or not longer_sides:
        return pretrained_size * 8 // 7
    median = sorted(longer_sides)[len(longer_sides) // 2]
    return min(max(-(-median // 32) * 32, 64), 224)


@dataclass(frozen=True, slots=True)
class Suppression:
    """How a detector's candidates become its detections."""

    iou: float = 0.65  # if two boxes of one category overlap more, the lower-scoring one is dropped
    least_score: float = 0.01  # candidates below it are dropped
    most: int = 300  # boxes per image


@dataclass(frozen=True, slots=True)
class CardCategory:
    """A category in the order of the model's outputs."""

    id: int  # as in the training dataset's COCO file
    name: str


@dataclass(frozen=True, slots=True)
class CardBackbone:
    """A network whose features a classifier's head reads, in the head's order; or the detector's only one."""

    name: str
    rule: InputRule
    weights_source: WeightsSource  # where its initial weights came from
    weights_sha256: str = ""
    normalised: bool = False  # the head reads its features scaled to unit length
    tuned: bool = False  # training changed its weights
    shares: int | None = None  # index of an earlier backbone with the same weights, which sees the image another way
    middle: bool = False  # the head reads the features of the stage before the last too, after those of the last


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What callers may need to know about a model without loading it."""

    format_version: int = FORMAT_VERSION
    kind: ModelKind
    categories: tuple[CardCategory, ...]
    backbones: tuple[CardBackbone, ...]
    temperature: float = 1.0  # logits are divided by it
    thresholds: tuple[float, ...] = ()  # of the best F1, one per category; empty if none were fitted
    calibration: Calibration | None = None  # a classifier's; None in bundles of versions without prediction sets
    suppression: Suppression = Suppression()  # a detector's
    data_digest: str = ""  # of the training snapshot
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    metrics_source: str = ""  # TEST_DATASET, HOLD_OUT or CROSS_VALIDATION
    ledger: dict[str, float] = field(default_factory=dict[str, float])  # what training cost, in seconds
    warnings: tuple[str, ...] = ()  # for users, e.g. that training started from random weights
    created: datetime

    @property
    def suggested_thresholds(self) -> tuple[float, ...]:
        """One per category. If none were fitted: UNFITTED_THRESHOLD for a detector, 0 for a classifier."""
        usual = UNFITTED_THRESHOLD if self.kind is ModelKind.GENERIC_DETECTOR else 0.0
        return self.thresholds or (usual,) * len(self.categories)


def graph_file(index: int) -> str:
    """The file in a bundle with the graph of the card's network of that index."""
    return f"network-{index}.onnx"


def write_card(card: ModelCard) -> bytes:
    """Deterministic JSON."""
    return _encoder.encode(card)


def read_card(data: bytes) -> ModelCard:
    """Inverse of `write_card`; raises ValueError for anything else, including other format versions."""
    card = codec.parse(data, ModelCard)
    if card.format_version != FORMAT_VERSION:
        raise ValueError(f"card format {card.format_version} is not {FORMAT_VERSION}")
    return card
