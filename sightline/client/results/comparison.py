"""What a training and a test dataset share, and how they differ."""

from dataclasses import dataclass, field
from typing import Self

from sightline.client.results.dataset import Finding
from sightline.v1 import dataset_service_pb2 as service


@dataclass(frozen=True, slots=True)
class SharedImage:
    """A test image that is in the training dataset too, exactly or nearly."""

    training_file: str  # as its annotation file names it
    training_image_id: int
    test_file: str
    test_image_id: int
    distance: int  # bits of 256 in which their perceptual hashes differ
    exact: bool  # equal pixel for pixel


@dataclass(frozen=True, slots=True)
class CategoryComparison:
    """How often a category occurs in each dataset; a name is empty where the category is missing."""

    training_category: str
    test_category: str
    training_image_count: int
    test_image_count: int
    training_annotation_count: int
    test_annotation_count: int


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """The sizes of a dataset's images, in pixels."""

    median_width: int
    median_height: int
    smallest_side: int
    largest_side: int

    @classmethod
    def of(cls, message: service.ImageSizes) -> Self:
        """The content of the message."""
        return cls(message.median_width, message.median_height, message.smallest_side, message.largest_side)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A training dataset compared with a test dataset."""

    shared: tuple[SharedImage, ...]  # exact ones first, then by distance
    exact_count: int
    near_count: int
    categories: tuple[CategoryComparison, ...]
    training_sizes: ImageSizes
    test_sizes: ImageSizes
    findings: tuple[Finding, ...]  # worst first
    message: service.CompareDatasetsResponse = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: service.CompareDatasetsResponse) -> Self:
        """The content of the message, which has all pages."""
        return cls(
            shared=tuple(
                SharedImage(
                    pair.training_file,
                    pair.training_image_id,
                    pair.test_file,
                    pair.test_image_id,
                    pair.distance,
                    pair.exact,
                )
                for pair in message.pairs
            ),
            exact_count=message.exact_count,
            near_count=message.near_count,
            categories=tuple(
                CategoryComparison(
                    one.training_category,
                    one.test_category,
                    one.training_image_count,
                    one.test_image_count,
                    one.training_annotation_count,
                    one.test_annotation_count,
                )
                for one in message.categories
            ),
            training_sizes=ImageSizes.of(message.training_sizes),
            test_sizes=ImageSizes.of(message.test_sizes),
            findings=tuple(Finding.of(finding) for finding in message.findings),
            message=message,
        )
