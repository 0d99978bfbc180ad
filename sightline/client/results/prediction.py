"""Predictions: the tags of an image, or the objects in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

from sightline.client.errors import SightlineError
from sightline.client.results.kinds import ModelKind
from sightline.v1 import prediction_pb2


@dataclass(frozen=True, slots=True)
class Tag:
    """A category with the model's confidence in it."""

    name: str
    confidence: float  # 0..1


@dataclass(frozen=True, slots=True)
class PredictionSet:
    """Categories, most confident first, that contain the image's true one with the probability `coverage`."""

    coverage: float
    categories: tuple[str, ...]
    calibration_image_count: int  # images that the model was calibrated on


@dataclass(frozen=True, slots=True)
class Box:
    """A box in whole pixels of the upright image."""

    x: int  # the left edge
    y: int  # the upper edge
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Object:
    """One object in an image."""

    box: Box
    tags: tuple[Tag, ...]  # one

    @property
    def name(self) -> str:
        """The category."""
        return self.tags[0].name

    @property
    def confidence(self) -> float:
        """The model's confidence, 0..1."""
        return self.tags[0].confidence


@dataclass(frozen=True, slots=True)
class Prediction(Sequence[Tag | Object]):
    """The prediction for one image: a sequence of a classifier's tags or a detector's objects, most confident first.

    A failed prediction, among those for many images, has an `error`; reading the sequence raises it.
    """

    image: str  # the file or uri; `image` for bytes
    kind: ModelKind = ModelKind.UNKNOWN  # of the model
    tags: tuple[Tag, ...] = ()  # from a classifier
    objects: tuple[Object, ...] = ()  # from a detector
    prediction_set: PredictionSet | None = None  # from a classifier, if `coverage` was requested
    width: int = 0  # pixels of the upright image
    height: int = 0
    model_version: str = ""  # of the weights
    error: SightlineError | None = None
    message: prediction_pb2.AnalyzeImageResponse | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, message: prediction_pb2.AnalyzeImageResponse, image: str = "image") -> "Prediction":
        """The content of the message."""
        result = message.custom_model_result
        return cls(
            image=image,
            kind=ModelKind.DETECTOR if result.HasField("objects_result") else ModelKind.CLASSIFIER,
            tags=_tags(result.tags_result.values),
            objects=tuple(
                Object(Box(o.bounding_box.x, o.bounding_box.y, o.bounding_box.w, o.bounding_box.h), _tags(o.tags))
                for o in result.objects_result.values
            ),
            prediction_set=_prediction_set(result.tags_result),
            width=message.metadata.width,
            height=message.metadata.height,
            model_version=message.model_version,
            message=message,
        )

    def __len__(self) -> int:
        return len(self._values())

    @overload
    def __getitem__(self, index: int) -> Tag | Object: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tag | Object]: ...
    def __getitem__(self, index: int | slice) -> Tag | Object | Sequence[Tag | Object]:
        return self._values()[index]

    def _values(self) -> Sequence[Tag | Object]:
        if self.error:
            raise self.error
        return self.objects or self.tags


def _prediction_set(result: prediction_pb2.TagsResult) -> PredictionSet | None:
    if not result.HasField("prediction_set"):
        return None
    found = result.prediction_set
    return PredictionSet(found.coverage, tuple(found.categories), found.calibration_image_count)


def _tags(tags: Sequence[prediction_pb2.Tag]) -> tuple[Tag, ...]:
    return tuple(Tag(tag.name, tag.confidence) for tag in tags)
