"""The suite as these tests run it: the real processes, short leases, real images, and a caller that retries."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc

from sightline.client.stubs import Stubs
from sightline.client.transport.retries import Backoff
from sightline.client.uploads import files_of
from sightline.demo import digits
from sightline.local.stack import Stack
from sightline.v1 import dataset_service_pb2 as dataset_service
from sightline.v1 import model_service_pb2 as model_service
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import GetEvaluationRequest
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.trial_pb2 import Trial

T = TypeVar("T")
SIDE = 64  # pixels
LEASE_SECONDS = 3.0
RUNG_OF_FINE_TUNING = 1
ENDED = frozenset({Model.SUCCEEDED, Model.FAILED, Model.CANCELLED})


def stack_in(folder: Path, workers: int = 1, /, **settings: str) -> Stack:
    """A suite that notices deaths quickly, checkpoints often, and trains from random weights on one core."""
    (folder / "no-weights").mkdir(parents=True, exist_ok=True)
    environment = {
        "SIGHTLINE_LEASE_SECONDS": str(LEASE_SECONDS),
        "SIGHTLINE_HEARTBEAT_SECONDS": "0.5",
        "SIGHTLINE_CHECKPOINT_SECONDS": "1.5",
        "SIGHTLINE_STALL_SECONDS": "3",
        "SIGHTLINE_RECONCILE_SECONDS": "1",
        "SIGHTLINE_WEIGHTS_DIR": str(folder / "no-weights"),  # the same training on every machine
        "SIGHTLINE_INSTALLED_WEIGHTS": "false",
        "SIGHTLINE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    return Stack(folder / "suite", base_port=0, workers=workers, environment={**environment, **settings})


def patiently(call: Callable[[], T]) -> T:
    """What the call returns; retried while the service is unavailable, as every caller should."""
    backoff = Backoff()
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            backoff.wait(error)


async def eventually(find: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first true result of `find`, called off the event loop; AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = await asyncio.to_thread(find)
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds:.0f} s"
        await asyncio.sleep(0.1)


class Caller:
    """The tests' calls to the services, each retried while a service is unavailable."""

    def __init__(self, stack: Stack) -> None:
        self.client = Stubs(stack.addresses)

    def upload(self, coco: Path) -> str:
        """Uploads the COCO file and its images; returns the file's uri."""
        return self.client.upload_files(files_of(coco))[coco.name]

    def register(self, name: str, uri: str) -> None:
        """Creates a dataset of classified images."""
        dataset = Dataset(annotation_kind=Dataset.IMAGE_CLASSIFICATION, annotation_file_uris=[uri])
        request = dataset_service.CreateDatasetRequest(
            dataset_id=name.removeprefix("datasets/"), dataset=dataset, request_id=secrets.token_hex(16)
        )
        patiently(lambda: self.client.datasets.CreateDataset(request))

    def dataset(self, name: str) -> Dataset:
        """The dataset as of now."""
        return patiently(lambda: self.client.datasets.GetDataset(dataset_service.GetDatasetRequest(name=name)))

    def await_dataset(self, name: str) -> Dataset:
        """The dataset once it is READY or FAILED."""
        return list(self.client.watch_dataset(name))[-1]

    def train(self, name: str, budget_seconds: int, dataset: str, test_dataset: str = "", **narrowed: int) -> None:
        """Starts a training; `narrowed` are hyperparameters."""
        wanted = TrainingParameters(training_dataset=dataset, model_kind=TrainingParameters.GENERIC_CLASSIFIER)
        wanted.time_budget.seconds = budget_seconds
        wanted.hyperparameters.resolution = SIDE
        for field, value in narrowed.items():
            setattr(wanted.hyperparameters, field, value)
        request = model_service.CreateModelRequest(
            model_id=name.removeprefix("models/"), request_id=secrets.token_hex(16)
        )
        request.model.training_parameters.CopyFrom(wanted)
        if test_dataset:
            request.model.evaluation_parameters.test_dataset = test_dataset
        patiently(lambda: self.client.models.CreateModel(request))

    def model(self, name: str) -> Model:
        """The model as of now, with its ledger."""
        return patiently(lambda: self.client.models.GetModel(model_service.GetModelRequest(name=name, view=Model.FULL)))

    def trials(self, model: str) -> list[Trial]:
        """The model's trials in order."""
        return list(
            patiently(lambda: self.client.models.ListTrials(model_service.ListTrialsRequest(parent=model))).trials
        )

    def fine_tuning(self, model: str) -> Trial | None:
        """The model's running fine-tuning trial, if there is one."""
        running = [trial for trial in self.trials(model) if trial.state == Trial.RUNNING]
        return next((trial for trial in running if trial.rung >= RUNG_OF_FINE_TUNING), None)

    def evaluation(self, name: str) -> Evaluation:
        """The evaluation as of now."""
        return patiently(lambda: self.client.evaluations.GetEvaluation(GetEvaluationRequest(name=name)))

    def close(self) -> None:
        """Closes the connections."""
        self.client.close()


def write_digits(folder: Path, per_digit: int, count: int = 10) -> tuple[digits.DigitSet, digits.DigitSet]:
    """A training and a test set of the first `count` handwritten digits."""
    return digits.write(folder, digits=count, per_digit=per_digit, side=SIDE)
