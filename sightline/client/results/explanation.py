"""Explanations: which parts of an image support a tag."""

from dataclasses import dataclass, field

from sightline.client.results.prediction import Tag
from sightline.v1 import prediction_service_pb2


@dataclass(frozen=True, slots=True)
class Explanation:
    """How far the confidence in a tag falls when each cell of a grid over the image is covered."""

    image: str  # the file or uri; `image` for bytes
    tag: Tag
    weights: tuple[tuple[float, ...], ...]  # rows of cells from the top, 0..1; 1 where it falls most
    overlay_png: bytes = field(repr=False)  # the weights drawn over the upright image, as a PNG file
    width: int  # pixels of the upright image
    height: int
    model_version: str  # of the weights

    @classmethod
    def of(cls, message: prediction_service_pb2.ExplainImageResponse, image: str) -> "Explanation":
        """The content of the message."""
        flat, across = tuple(message.weights), message.columns
        return cls(
            image=image,
            tag=Tag(message.tag.name, message.tag.confidence),
            weights=tuple(flat[row * across : (row + 1) * across] for row in range(message.rows)),
            overlay_png=message.overlay_png,
            width=message.metadata.width,
            height=message.metadata.height,
            model_version=message.model_version,
        )
