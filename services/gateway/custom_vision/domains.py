"""Domains: what a project does. Of the retired service's many, the two that have a meaning here, also as `compact`."""

from dataclasses import dataclass
from typing import Any

from services.gateway.custom_vision.errors import Missing
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.model_pb2 import TrainingParameters

CLASSIFICATION, DETECTION = "Classification", "ObjectDetection"
KINDS = {
    CLASSIFICATION: (Dataset.IMAGE_CLASSIFICATION, TrainingParameters.GENERIC_CLASSIFIER),
    DETECTION: (Dataset.OBJECT_DETECTION, TrainingParameters.GENERIC_DETECTOR),
}
EXPORTS = ["ONNX"]


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain; every model can be exported, whatever its domain."""

    id: str
    name: str
    type: str

    @property
    def detects(self) -> bool:
        """Whether its models find objects."""
        return self.type == DETECTION

    @property
    def least_tags(self) -> int:
        """How many tags a training needs."""
        return 1 if self.detects else 2

    def json(self) -> dict[str, Any]:
        """As this API shows it."""
        shown = {"id": self.id, "name": self.name, "type": self.type}
        return shown | {"exportable": True, "enabled": True, "exportablePlatforms": EXPORTS}


DOMAINS = (
    Domain("ee85a74c-405e-4adc-bb47-ffa8ca0c9f31", "General", CLASSIFICATION),
    Domain("0732100f-1a38-4e49-a514-c9b44c697ab5", "General (compact)", CLASSIFICATION),
    Domain("da2e3a8a-40a5-4171-82f4-58522f70fbc1", "General", DETECTION),
    Domain("a27d5ca5-bb19-49d8-a70a-fec086c47f5b", "General (compact)", DETECTION),
)


def domain_of(domain_id: str) -> Domain:
    """The domain; the first without an id; Missing."""
    wanted = domain_id.lower() or DOMAINS[0].id
    found = next((one for one in DOMAINS if one.id == wanted), None)
    if found is None:
        raise Missing("NotFoundDomain", what="domain", name=domain_id)
    return found
