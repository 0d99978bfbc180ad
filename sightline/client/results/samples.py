"""Images of a dataset, to be looked at."""

from dataclasses import dataclass, field
from typing import Self

from sightline.v1 import dataset_service_pb2 as service


@dataclass(frozen=True, slots=True)
class SampleBox:
    """A box in pixels of the upright image."""

    x: float  # the left edge
    y: float  # the upper edge
    width: float
    height: float
    category: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An image of a dataset with its annotations."""

    image_id: int  # as in findings
    file: str  # as the annotation file names it
    width: int  # of the upright image, in pixels
    height: int
    category: str  # empty for object detection
    boxes: tuple[SampleBox, ...]
    image: bytes = field(repr=False)  # a JPEG or PNG file; empty if it is too large

    @classmethod
    def of(cls, message: service.DatasetSample) -> Self:
        """The content of the message."""
        return cls(
            image_id=message.image_id,
            file=message.file,
            width=message.width,
            height=message.height,
            category=message.category,
            boxes=tuple(SampleBox(box.x, box.y, box.width, box.height, box.category) for box in message.boxes),
            image=message.image,
        )

    def shows(self, category: str) -> bool:
        """Whether the image has an annotation of the category."""
        return self.category == category or any(box.category == category for box in self.boxes)


@dataclass(frozen=True, slots=True)
class Samples:
    """Some images of a dataset, and the sizes (width, height) of many."""

    images: tuple[Sample, ...]  # by id
    sizes: tuple[tuple[int, int], ...]
    message: service.ListDatasetSamplesResponse = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: service.ListDatasetSamplesResponse) -> Self:
        """The content of the message, which has all pages."""
        sizes = tuple((one.width, one.height) for one in message.sizes)
        return cls(tuple(Sample.of(sample) for sample in message.samples), sizes, message)
