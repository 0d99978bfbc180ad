"""What the benchmarks share: a suite in a temporary folder, and calls to it."""

import asyncio
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from services.trainer.worker.child_pool import ALLOCATION
from sightline.client.stubs import Stubs
from sightline.client.uploads import files_of
from sightline.local.stack import Stack
from sightline.v1 import dataset_pb2, dataset_service_pb2, model_pb2, model_service_pb2


def folder(variable: str) -> Path:
    """The folder that an environment variable names; SystemExit if it is not set."""
    value = os.environ.get(variable)
    if not value:
        raise SystemExit(f"{variable} is not set; it must name the folder that docs/benchmarks.md describes.")
    return Path(value).resolve()


def become_like_a_training_child() -> None:
    """Starts this script again, unless its memory and threads are already set as for training children."""
    if not ALLOCATION.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATION | {"OMP_WAIT_POLICY": "PASSIVE"})


def register(
    client: Stubs, name: str, annotations: Path, *, images: Path | None = None, detection: bool = False
) -> dataset_pb2.Dataset:
    """Uploads a COCO file with its images, which are in `images` or beside it; returns the READY dataset."""
    files = files_of(annotations, images)
    uris = client.upload_files(files)
    kinds = dataset_pb2.Dataset
    kind = kinds.OBJECT_DETECTION if detection else kinds.IMAGE_CLASSIFICATION
    dataset = dataset_pb2.Dataset(annotation_kind=kind, annotation_file_uris=[uris[files[0].path]])
    client.datasets.CreateDataset(dataset_service_pb2.CreateDatasetRequest(dataset=dataset, dataset_id=name))
    *_, last = client.watch_dataset(f"datasets/{name}")
    if last.state != dataset_pb2.Dataset.READY:
        raise SystemExit(f"{name} is not READY: {last.error.message}")
    return last


def create_model(
    client: Stubs,
    name: str,
    training: str,
    test: str,
    budget_seconds: int,
    seed: int = 0,
    kind: model_pb2.TrainingParameters.ModelKind.ValueType = model_pb2.TrainingParameters.GENERIC_CLASSIFIER,
) -> str:
    """Starts a training and returns the model's name."""
    parameters = model_pb2.TrainingParameters(
        training_dataset=f"datasets/{training}",
        time_budget=Duration(seconds=budget_seconds),
        model_kind=kind,
        hyperparameters=model_pb2.Hyperparameters(seed=seed),
    )
    model = model_pb2.Model(training_parameters=parameters)
    if test:
        model.evaluation_parameters.test_dataset = f"datasets/{test}"
    return client.models.CreateModel(model_service_pb2.CreateModelRequest(model=model, model_id=name)).name


def machine() -> str:
    """The machine in one line, to go with the numbers."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def spread(values: Sequence[float]) -> str:
    """Median with minimum and maximum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def run(measure: Callable[[Stubs], object]) -> None:
    """Starts a suite, measures with a client of it, and stops it."""

    def connected(stack: Stack) -> None:
        with Stubs(stack.addresses) as client:
            measure(client)

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="sightline-bench-") as data:
            async with Stack(Path(data), base_port=0) as stack:
                await asyncio.to_thread(connected, stack)

    asyncio.run(main())
