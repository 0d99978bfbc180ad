"""Sightline as a caller sees it: `from sightline import Client`.

Each name is imported on first use, so that `import sightline` alone costs nothing: the services import other parts of
this package, and some of their processes must not load gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.client import errors as errors
    from sightline.client.client import Client as Client
    from sightline.client.client_aio import AsyncClient as AsyncClient
    from sightline.client.errors import SightlineError as SightlineError
    from sightline.client.results.batch import BatchPrediction as BatchPrediction
    from sightline.client.results.comparison import Comparison as Comparison
    from sightline.client.results.dataset import Dataset as Dataset
    from sightline.client.results.dataset import Finding as Finding
    from sightline.client.results.estimate import Estimate as Estimate
    from sightline.client.results.evaluation import Evaluation as Evaluation
    from sightline.client.results.model import Hyperparameters as Hyperparameters
    from sightline.client.results.model import Model as Model
    from sightline.client.results.model_comparison import ModelComparison as ModelComparison
    from sightline.client.results.performance import Performance as Performance
    from sightline.client.results.prediction import Box as Box
    from sightline.client.results.prediction import Object as Object
    from sightline.client.results.prediction import Prediction as Prediction
    from sightline.client.results.prediction import Tag as Tag
    from sightline.client.results.project import Project as Project
    from sightline.client.results.trial import Trial as Trial
    from sightline.client.transport.addresses import Addresses as Addresses
    from sightline.client.transport.credentials import Credentials as Credentials

_MODULES = {
    "Client": "client.client",
    "AsyncClient": "client.client_aio",
    "Addresses": "client.transport.addresses",
    "Credentials": "client.transport.credentials",
    "SightlineError": "client.errors",
    "BatchPrediction": "client.results.batch",
    "Comparison": "client.results.comparison",
    "Dataset": "client.results.dataset",
    "Finding": "client.results.dataset",
    "Model": "client.results.model",
    "Hyperparameters": "client.results.model",
    "ModelComparison": "client.results.model_comparison",
    "Trial": "client.results.trial",
    "Evaluation": "client.results.evaluation",
    "Estimate": "client.results.estimate",
    "Performance": "client.results.performance",
    "Prediction": "client.results.prediction",
    "Project": "client.results.project",
    "Tag": "client.results.prediction",
    "Object": "client.results.prediction",
    "Box": "client.results.prediction",
}
__all__ = [
    "Addresses",
    "AsyncClient",
    "BatchPrediction",
    "Box",
    "Client",
    "Comparison",
    "Credentials",
    "Dataset",
    "Estimate",
    "Evaluation",
    "Finding",
    "Hyperparameters",
    "Model",
    "ModelComparison",
    "Object",
    "Performance",
    "Prediction",
    "Project",
    "SightlineError",
    "Tag",
    "Trial",
    "errors",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("sightline.client.errors")
    if name not in _MODULES:
        raise AttributeError(f"module 'sightline' has no attribute {name!r}")
    return getattr(import_module(f"sightline.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
