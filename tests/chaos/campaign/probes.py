"""Asks every replica all the time, and notes how long it takes to answer while NATS or the store is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import grpc

from sightline.client.transport.channel import describe
from sightline.v1.dataset_service_pb2 import GetDatasetRequest
from sightline.v1.model_pb2 import Model
from sightline.v1.model_service_pb2 import GetModelRequest
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest
from tests.chaos.campaign.calls import Replica, has_retry_info

PAUSE_SECONDS = 0.25
PROBE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One call: when it began, how long it took, and how it ended."""

    replica: str
    began: float
    seconds: float
    code: grpc.StatusCode
    said_when: bool = True  # of UNAVAILABLE by the service itself: with RetryInfo
    itself: bool = True  # whether the service answered, rather than a connection that was refused


@dataclass(frozen=True, slots=True)
class Outage:
    """When something that every process needs was away."""

    name: str
    began: float
    ended: float


class Prober(threading.Thread):
    """Probes one replica until the block ends."""

    def __init__(self, replica: Replica, method: Any, request: Any) -> None:
        super().__init__(name=f"probe {replica.name}", daemon=True)
        self.answers: list[Answer] = []
        self._replica, self._method, self._request = replica.name, method, request
        self._over = threading.Event()

    @classmethod
    def of(cls, replica: Replica, model: str, dataset: str, image: bytes) -> Prober:
        """Predictors are asked to predict, the others for a resource: a dataset's record, a model with its blobs."""
        if replica.name.startswith("predictor"):
            return cls(replica, replica.predictions.AnalyzeImage, AnalyzeImageRequest(model_name=model, image=image))
        if replica.name.startswith("trainer"):
            return cls(replica, replica.models.GetModel, GetModelRequest(name=model, view=Model.FULL))
        return cls(replica, replica.datasets.GetDataset, GetDatasetRequest(name=dataset))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            began, code, when, itself = time.monotonic(), grpc.StatusCode.OK, True, True
            try:
                self._method(self._request, timeout=PROBE_SECONDS)
            except grpc.RpcError as error:
                found = describe(error)
                code, itself = found.code, bool(found.reason)
                when = has_retry_info(error)
            self.answers.append(Answer(self._replica, began, time.monotonic() - began, code, when, itself))


def silent_predictors(answers: list[Answer], outages: list[Outage]) -> list[str]:
    """Predictions that failed in an outage, of replicas that had answered just before it."""
    failed: list[str] = []
    for outage in outages:
        before = [one for one in answers if one.began < outage.began - 0.5 and one.began > outage.began - 2.0]
        during = [one for one in answers if outage.began <= one.began <= outage.ended]
        if before and all(one.code is grpc.StatusCode.OK for one in before):
            bad = [one for one in during if one.code is not grpc.StatusCode.OK and one.itself]
            failed += [f"{one.replica} answered {one.code.name} in {outage.name}" for one in bad]
    return failed


def late_refusals(answers: list[Answer], seconds: float) -> list[str]:
    """UNAVAILABLE that came late or did not say when to try again."""
    refused = [one for one in answers if one.code is grpc.StatusCode.UNAVAILABLE and one.itself]
    late = [f"{one.replica} took {one.seconds:.1f} s to say UNAVAILABLE" for one in refused if one.seconds > seconds]
    return late + [f"{one.replica} said UNAVAILABLE without RetryInfo" for one in refused if not one.said_when]


def slowest(answers: list[Answer], which: Callable[[Answer], bool]) -> float:
    """The longest time that such an answer took."""
    return max((one.seconds for one in answers if which(one)), default=0.0)
