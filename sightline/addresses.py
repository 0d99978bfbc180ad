"""Where the three services listen: `SIGHTLINE_<SERVICE>_ADDRESS`, or the place where `sightline up` puts them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

VARIABLES = {
    "dataset": "SIGHTLINE_DATASET_ADDRESS",
    "trainer": "SIGHTLINE_TRAINER_ADDRESS",
    "predictor": "SIGHTLINE_PREDICTOR_ADDRESS",
}


@dataclass(frozen=True, slots=True)
class Addresses:
    """One gRPC target (`host:port`) per service."""

    dataset: str = "localhost:50051"
    trainer: str = "localhost:50052"
    predictor: str = "localhost:50053"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The addresses that the variables name; the defaults for those that are not set."""
        return cls(**{name: value for name, variable in VARIABLES.items() if (value := environment.get(variable))})

    def environment(self) -> dict[str, str]:
        """The variables that name these addresses."""
        return {variable: str(getattr(self, name)) for name, variable in VARIABLES.items()}
