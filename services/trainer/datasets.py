"""A dataset as the trainer sees it, and whether a model can be trained or measured on it."""

from dataclasses import dataclass
from typing import Protocol

from services.kit.errors import (
    DatasetAnnotationsInvalid,
    DatasetEmpty,
    DatasetNotReady,
    IncorrectModelKind,
    QuotaExceeded,
)
from services.trainer.protocol import ModelKind

MAX_EVALUATION_IMAGES = 100_000
MAX_TRAINING_IMAGES = {ModelKind.GENERIC_CLASSIFIER: 1_000_000, ModelKind.GENERIC_DETECTOR: 200_000}
CATEGORY_RANGE = {ModelKind.GENERIC_CLASSIFIER: (2, 2500), ModelKind.GENERIC_DETECTOR: (1, 1000)}
MIN_IMAGES_PER_CATEGORY = 2
ANNOTATION_KIND = {
    ModelKind.GENERIC_CLASSIFIER: "IMAGE_CLASSIFICATION",
    ModelKind.GENERIC_DETECTOR: "OBJECT_DETECTION",
}
USABLE = ("READY", "VALIDATING")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset as the dataset service describes it."""

    name: str
    state: str
    annotation_kind: str
    image_count: int
    categories: tuple[tuple[str, int], ...]  # name, images with it
    digest: str
    manifest_key: str

    def snapshot(self) -> "Snapshot":
        """What training needs of it; DatasetNotReady unless it is READY."""
        if self.state != "READY":
            raise DatasetNotReady(name=self.name, state=self.state)
        return Snapshot(
            dataset=self.name, digest=self.digest, manifest_key=self.manifest_key, image_count=self.image_count
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The immutable images of one dataset."""

    dataset: str
    digest: str
    manifest_key: str
    image_count: int


class Datasets(Protocol):
    """The dataset service as seen from here."""

    async def get(self, name: str) -> Dataset:
        """The dataset; DatasetNotFound, or Unavailable."""
        ...


async def usable(datasets: Datasets, name: str) -> Dataset:
    """A dataset that is READY or may become so; DatasetNotFound, DatasetNotReady."""
    dataset = await datasets.get(name)
    if dataset.state not in USABLE:
        raise DatasetNotReady(name=name, state=dataset.state)
    return dataset


def check_training_dataset(dataset: Dataset, kind: ModelKind) -> None:
    """Raises what makes a READY dataset unfit to train a model of the kind on."""
    check_kind(dataset, kind)
    limit = MAX_TRAINING_IMAGES[kind]
    if dataset.image_count > limit:
        raise QuotaExceeded(
            subject=f"images of {dataset.name}", value=dataset.image_count, limit=limit, setting="training images"
        )
    low, high = CATEGORY_RANGE[kind]
    if not low <= len(dataset.categories) <= high:
        problem = f"it has {len(dataset.categories)} categories; a {kind} needs {low} to {high}."
        raise DatasetAnnotationsInvalid(file=dataset.name, problem=problem)
    poor = [name for name, count in dataset.categories if count < MIN_IMAGES_PER_CATEGORY]
    if poor:
        listed = ", ".join(repr(name) for name in poor[:10])
        problem = (
            f"{len(poor)} of its categories have fewer than {MIN_IMAGES_PER_CATEGORY} images: {listed}; "
            "add images of them, or leave them out."
        )
        raise DatasetAnnotationsInvalid(file=dataset.name, problem=problem)


def check_test_dataset(dataset: Dataset, kind: ModelKind) -> None:
    """Raises what makes a READY dataset unfit to measure a model of the kind on."""
    check_kind(dataset, kind)
    if dataset.image_count > MAX_EVALUATION_IMAGES:
        raise QuotaExceeded(
            subject=f"images of {dataset.name}",
            value=dataset.image_count,
            limit=MAX_EVALUATION_IMAGES,
            setting="evaluation images",
        )


def check_kind(dataset: Dataset, kind: ModelKind) -> None:
    """IncorrectModelKind unless the dataset's annotations are what the kind needs; DatasetEmpty without images."""
    if dataset.annotation_kind != ANNOTATION_KIND[kind]:
        raise IncorrectModelKind(model_kind=kind, dataset=dataset.name, annotation_kind=dataset.annotation_kind)
    if not dataset.image_count:
        raise DatasetEmpty(dataset=dataset.name, detail="")
