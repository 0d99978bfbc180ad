"""An estimate of a training: a record that lives as long as a caller waits for it, and what a worker's probe found."""

import dataclasses
import hashlib
from datetime import UTC, datetime
from typing import Self

import msgspec
from msgspec.structs import replace

from services.kit import codec
from services.kit.names import split
from services.trainer.domain import Model
from services.trainer.feature_blocks import FeaturePass
from services.trainer.performance import Interval
from services.trainer.recipe import BoxStatistics, Recipe
from services.trainer.work import Work
from services.vision.card import WeightsSource

COLLECTION = "estimates"
METRIC = "accuracy_top1"  # that a probe can foretell, of classifiers


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """The accuracy that a head is expected to reach with all images."""

    value: float
    interval: Interval


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What a recipe took on a sample of the images, in seconds of the worker's device."""

    recipe: Recipe  # as it ran: with few epochs
    image_count: int
    seconds: float  # from its start to its result
    scaling_seconds: float  # the part that grows with the images and epochs
    resolution: int
    score: float = 0.0  # on images of the sample that it had not seen, as a trial's
    expectation: Expectation | None = None


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker measured; the first observation is of the ladder's first recipe."""

    device: str  # for people
    observations: tuple[Observation, ...]
    weights_source: WeightsSource
    backbones: tuple[str, ...]  # whose pretrained weights the worker has or can fetch
    mirror: bool = True
    by_graph: bool = False  # features, see `FeatureUse`
    boxes: BoxStatistics | None = None  # of all images
    stored: tuple[FeaturePass, ...] = ()  # whose features of all images the feature bank has


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """`estimates/{estimate}`: a probe of a training that nobody has created, and who waits for it.

    Its name follows from what is asked, so a call that is repeated after a restart finds the same record, and equal
    calls share one probe. Nobody pays for it.
    """

    name: str
    model: Model  # in NOT_STARTED, with its snapshots
    fewest: int  # images of the rarest category
    recipes: tuple[Recipe, ...] = ()  # to measure, in order
    work: Work
    update_time: datetime
    callers: dict[str, datetime] = {}  # until when each is known to wait
    device_factor: float = 1.0  # of the worker that measured
    probe: Probe | None = None

    @property
    def project(self) -> str:
        """The project of its callers, which is that of the datasets."""
        return split(self.model.training_dataset)[0]

    @property
    def blob_prefix(self) -> str:
        """Prefix of its blobs, of which it has none."""
        return f"{self.name}/"

    def with_work(self, work: Work, now: datetime) -> Self:
        """The estimate with changed work; itself if the work is the same."""
        return self if work is self.work else replace(self, work=work, update_time=now)

    def is_wanted(self, now: datetime) -> bool:
        """Whether a caller waits for it."""
        return any(until > now for until in self.callers.values())

    def awaited(self, caller: str, now: datetime, until: datetime) -> Self:
        """The estimate with the caller waiting until then, and without those that are gone."""
        present = {name: end for name, end in self.callers.items() if end > now}
        return replace(self, callers={**present, caller: until})

    def left_by(self, caller: str) -> Self:
        """The estimate without the caller; itself if the caller does not wait."""
        if caller not in self.callers:
            return self
        return replace(self, callers={name: end for name, end in self.callers.items() if name != caller})


def anonymous(model: Model) -> Model:
    """The model without what differs between equal calls, and without the seed, as any sample of images will do."""
    moment, wanted = datetime.fromtimestamp(0, UTC), dataclasses.replace(model.hyperparameters, seed=0)
    return replace(
        model,
        name="models/estimate",
        uid="estimate",
        create_time=moment,
        update_time=moment,
        hyperparameters=wanted,
    )


def name_for(model: Model) -> str:
    """The name of the estimate of an anonymous model with its snapshots."""
    return f"{COLLECTION}/{hashlib.sha256(codec.encode(model)).hexdigest()[:32]}"
