"""The operator's settings."""

from pydantic import Field

from services.kit import settings
from sightline.client.transport.addresses import Addresses


class OperatorSettings(settings.Settings):
    """Where the services are, and which resources are served; each field is read from `SIGHTLINE_<FIELD>`."""

    dataset_address: settings.Address = "127.0.0.1:50051"
    trainer_address: settings.Address = "127.0.0.1:50052"
    predictor_address: settings.Address = "127.0.0.1:50053"
    operator_namespaces: str = ""  # whose resources are served, by commas; empty: all
    operator_project: str = ""  # in which all are created; empty: each namespace is a project of its name

    operator_look_seconds: float = Field(default=60.0, gt=0)  # between looks for a new version that retrains a model

    @property
    def addresses(self) -> Addresses:
        """Where the services are."""
        return Addresses(self.dataset_address, self.trainer_address, self.predictor_address)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces of `operator_namespaces`."""
        return tuple(name.strip() for name in self.operator_namespaces.split(",") if name.strip())

    def project_of(self, namespace: str) -> str:
        """The project in which a namespace's resources are created."""
        return self.operator_project or namespace
