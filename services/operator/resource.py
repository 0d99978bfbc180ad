"""A custom resource as the operator sees it, and the conditions that it writes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

GROUP, VERSION = "sightline.dev", "v1alpha1"
READY, ACCEPTED, UP_TO_DATE = "Ready", "Accepted", "UpToDate"
MAX_MESSAGE = 2_000  # characters of a condition's message
RETRAINING_FIELDS = frozenset({"retrainWhen", "retrainTimeBudget", "retrainMinInterval", "retrainHistoryLimit"})
OWN_FIELDS = RETRAINING_FIELDS | {"alias", "deletionPolicy", "model"}  # of a spec; others are the contract's
# Of which kind what may change; everything else is fixed by the creation.
MUTABLE = {
    "Dataset": frozenset({"annotationFileUris", "customProperties", "deletionPolicy", "displayName"}),
    "Model": RETRAINING_FIELDS | {"alias", "customProperties", "deletionPolicy", "displayName"},
}
MUTABLE_BY_DEFAULT = frozenset({"deletionPolicy"})


@dataclass(frozen=True, slots=True)
class Resource:
    """One custom resource, as the api server had it when the step began."""

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    spec: Mapping[str, Any]
    status: Mapping[str, Any]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Resource":
        """The resource in the api server's document."""
        meta = body["metadata"]
        return cls(
            kind=body["kind"],
            namespace=meta.get("namespace", "default"),
            name=meta["name"],
            uid=meta["uid"],
            generation=meta.get("generation", 1),
            spec=dict(body.get("spec") or {}),
            status=dict(body.get("status") or {}),
        )

    @property
    def contract(self) -> dict[str, Any]:
        """The part of the spec that is a message of the contract, as JSON."""
        return {name: value for name, value in self.spec.items() if name not in OWN_FIELDS}

    @property
    def is_created(self) -> bool:
        """Whether the resource of the contract has been created for this one."""
        return bool(self.status.get("created"))

    @property
    def was_refused(self) -> bool:
        """Whether nothing was created for it, because what it asks for cannot be."""
        return any(one["type"] == ACCEPTED and one["status"] == "False" for one in self.status.get("conditions", ()))

    @property
    def fixed_digest(self) -> str:
        """A digest of the fields that its creation fixes."""
        mutable = MUTABLE.get(self.kind, MUTABLE_BY_DEFAULT)
        fixed = {name: value for name, value in self.spec.items() if name not in mutable}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def is_kept(self) -> bool:
        """Whether the resource of the contract outlives this one."""
        return self.spec.get("deletionPolicy") == "Keep"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, without the time of its last change."""

    type: str
    status: str  # `True`, `False` or `Unknown`
    reason: str
    message: str = ""


def with_conditions(resource: Resource, new: Sequence[Condition], now: datetime) -> list[dict[str, Any]]:
    """The resource's conditions with the new ones in their places; times change only where the status does."""
    present = {one["type"]: dict(one) for one in resource.status.get("conditions", ())}
    for condition in new:
        before = present.get(condition.type, {})
        unchanged = before.get("status") == condition.status
        present[condition.type] = {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message[:MAX_MESSAGE],
            "observedGeneration": resource.generation,
            "lastTransitionTime": before["lastTransitionTime"] if unchanged else f"{now:%Y-%m-%dT%H:%M:%SZ}",
        }
    return list(present.values())
