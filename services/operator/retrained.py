"""What the status remembers of each retraining of a Model resource."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any

import msgspec
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from services.operator.resource import Resource
from services.operator.spec import parsed
from sightline.v1.model_pb2 import Model

MIN_INTERVAL, HISTORY_LIMIT = "86400s", 3  # unless the spec has others; the definition has the same defaults
MAX_NAME = 200  # characters of a resource's name that its models' names begin with


class Phase(StrEnum):
    """Where a retraining is. From each of the first three it goes to the next, or ends as one of the others.

    SWITCHING returns to COMPARING if the alias has been switched to a third model meanwhile.
    """

    TRAINING = "Training"  # its model is to be created, or is being trained
    COMPARING = "Comparing"  # it and the serving model are being measured
    SWITCHING = "Switching"  # it is not worse: the alias is to be switched
    REPLACED = "Replaced"  # the alias was switched to it
    WORSE = "Worse"
    NOT_COMPARED = "NotCompared"
    FAILED = "Failed"


class Retraining(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One entry of `status.retrained`, below the id of its model."""

    dataset_version: int
    dataset_digest: str
    start_time: datetime
    phase: Phase = Phase.TRAINING
    created: bool = False  # whether its model has been created; it is not created twice
    compared_with: str = ""  # the model that served when it was compared
    message: str = ""  # how it ended
    model: str

    @property
    def id(self) -> str:
        """Its model's id."""
        return self.model.removeprefix("models/")

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to be done."""
        return self.phase not in (Phase.TRAINING, Phase.COMPARING, Phase.SWITCHING)


def retrained(resource: Resource) -> list[Retraining]:
    """All that the status has, the latest first."""
    found: Mapping[str, Any] = resource.status.get("retrained") or {}
    entries = [msgspec.convert(dict(one), Retraining) for one in found.values()]
    return sorted(entries, key=lambda one: (one.start_time, one.dataset_version), reverse=True)


def in_status(entries: Iterable[Retraining]) -> dict[str, Any]:
    """The entries as `status.retrained`. A map, so that what two operators add at once is kept by merging."""
    return {one.id: msgspec.to_builtins(one) for one in entries}


def begun(resource: Resource, version: int, digest: str, now: datetime) -> Retraining:
    """A retraining on a version of the dataset: under one name, whoever begins it and however often.

    The name has a digest, because a dataset that is deleted begins at version 1 again.
    """
    unique = sha256(f"{resource.uid} {digest}".encode()).hexdigest()[:8]
    return Retraining(
        model=f"models/{resource.name[:MAX_NAME]}-v{version}-{unique}",
        dataset_version=version,
        dataset_digest=digest,
        start_time=now.astimezone(UTC).replace(microsecond=0),
    )


def min_interval(resource: Resource) -> timedelta:
    """The least time between the starts of two trainings; json_format.ParseError."""
    text = resource.spec.get("retrainMinInterval", MIN_INTERVAL)
    return json_format.ParseDict(text, Duration()).ToTimedelta()


def wanted(resource: Resource) -> Model:
    """The model to train: as the first one, but for the budget if the spec has another; json_format.ParseError."""
    model = parsed(resource, Model())
    if budget := resource.spec.get("retrainTimeBudget"):
        json_format.ParseDict(budget, model.training_parameters.time_budget)
    return model


def superfluous(resource: Resource, serving: str) -> list[Retraining]:
    """Retrainings to remove: beyond the history's limit, and all that a later one has overtaken before they ended."""
    entries = retrained(resource)
    limit = int(resource.spec.get("retrainHistoryLimit", HISTORY_LIMIT))
    active = [one for one in entries if not one.has_ended]
    ended = [one for one in entries if one.has_ended and one.model != serving]
    return [*active[1:], *ended[limit:]]
