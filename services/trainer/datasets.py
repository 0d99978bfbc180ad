"""A dataset as the trainer sees it, and the checks that a model can be trained or evaluated on it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.kit import codec, names
from services.kit.errors import (
    DatasetAnnotationsInvalid,
    DatasetEmpty,
    DatasetNotReady,
    IncorrectModelKind,
)
from services.vision.card import ModelKind
from services.vision.snapshot import MIN_IMAGES_PER_CATEGORY, AnnotationKind
from sightline.plurals import counted, listed

MAX_NAMES_KIB = 192  # of all categories of a model, whose record has them: the rest of it needs less than 64 KiB
ANNOTATION_KIND = {
    ModelKind.GENERIC_CLASSIFIER: AnnotationKind.IMAGE_CLASSIFICATION,
    ModelKind.GENERIC_DETECTOR: AnnotationKind.OBJECT_DETECTION,
}
NO_ANNOTATIONS = (
    "it has no annotations that can be used (crowds cannot); register a COCO file that lists some under `annotations`."
)


class DatasetState(StrEnum):
    """Where a dataset is in its life, as the contract names it."""

    UNSPECIFIED = "STATE_UNSPECIFIED"
    VALIDATING = "VALIDATING"
    READY = "READY"
    FAILED = "FAILED"
    DELETING = "DELETING"


USABLE = (DatasetState.READY, DatasetState.VALIDATING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset as the dataset service describes it."""

    name: str
    state: DatasetState
    annotation_kind: str
    image_count: int
    categories: tuple[tuple[str, int, int], ...]  # name, number of images, number of annotations
    digest: str
    manifest_key: str
    revision: int = 0  # of its record
    version: int = 0
    phase: str = ""  # of its validation, as the contract names it
    images_done: int = 0
    images_total: int = 0
    fraction: float = 0.0

    @property
    def category_names(self) -> tuple[str, ...]:
        """In the order of the snapshot, which is the order of a model's outputs."""
        return tuple(name for name, _, _ in self.categories)

    def snapshot(self) -> "Snapshot":
        """The part that training needs; DatasetNotReady unless it is READY."""
        if self.state is not DatasetState.READY:
            raise DatasetNotReady(name=self.name, state=self.state)
        return Snapshot(
            dataset=self.name,
            digest=self.digest,
            manifest_key=self.manifest_key,
            image_count=self.image_count,
            version=self.version,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The immutable images of one dataset."""

    dataset: str
    digest: str
    manifest_key: str
    image_count: int
    version: int = 0  # of the dataset; 0 in records from before datasets had versions

    @property
    def features_prefix(self) -> str:
        """Prefix of the features that trainings computed from it: under the dataset's, so that they go with it."""
        project, key = names.split(self.manifest_key)
        return names.root(project) + "/".join(key.split("/")[:3]) + "/features/"


class Datasets(Protocol):
    """The dataset service as seen from here."""

    async def get(self, name: str) -> Dataset:
        """The dataset; DatasetNotFound, or Unavailable."""
        ...


async def usable(datasets: Datasets, name: str) -> Dataset:
    """A dataset that is READY or may become READY; DatasetNotFound, DatasetNotReady."""
    return check_usable(await datasets.get(name))


def check_usable(dataset: Dataset) -> Dataset:
    """The dataset; DatasetNotReady unless it is READY or may become READY."""
    if dataset.state not in USABLE:
        raise DatasetNotReady(name=dataset.name, state=dataset.state)
    return dataset


def check_training_dataset(dataset: Dataset, kind: ModelKind) -> None:
    """Raises the reason why a model of the kind cannot be trained on a READY dataset, if there is one.

    The maximum size is up to the dataset service, by its settings.
    """
    check_kind(dataset, kind)
    minimum = ANNOTATION_KIND[kind].min_categories
    if len(dataset.categories) < minimum:
        have = counted(len(dataset.categories), "category", "categories")
        problem = f"it has {have}; a {kind} needs at least {minimum}."
        raise DatasetAnnotationsInvalid(file=dataset.name, problem=problem)
    size = len(codec.encode(dataset.category_names))
    if size > MAX_NAMES_KIB * 1024:
        have = counted(len(dataset.categories), "category", "categories")
        problem = (
            f"the names of its {have} take {-(-size // 1024)} KiB together, and a model has room for "
            f"{MAX_NAMES_KIB} KiB; shorten them, or leave categories out."
        )
        raise DatasetAnnotationsInvalid(file=dataset.name, problem=problem)
    poor = [name for name, count, _ in dataset.categories if count < MIN_IMAGES_PER_CATEGORY]
    if poor:
        poorest = listed([repr(name) for name in poor], 10)
        have = counted(len(poor), "of its categories has", "of its categories have")
        problem = (
            f"{have} fewer than {MIN_IMAGES_PER_CATEGORY} images: {poorest}; add images of them, or leave them out."
        )
        raise DatasetAnnotationsInvalid(file=dataset.name, problem=problem)


def check_kind(dataset: Dataset, kind: ModelKind) -> None:
    """IncorrectModelKind unless the dataset has the annotations that the kind needs.

    DatasetEmpty without images, DatasetAnnotationsInvalid without annotations.
    """
    if dataset.annotation_kind != ANNOTATION_KIND[kind]:
        raise IncorrectModelKind(model_kind=kind, dataset=dataset.name, annotation_kind=dataset.annotation_kind)
    if not dataset.image_count:
        raise DatasetEmpty(dataset=dataset.name, detail="")
    if not any(images for _, images, _ in dataset.categories):
        raise DatasetAnnotationsInvalid(file=dataset.name, problem=NO_ANNOTATIONS)
