"""Calls to one replica at a time, without the retries that clients make: each answer is the call's own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import grpc
from google.rpc.error_details_pb2 import RetryInfo

from sightline.client.transport.channel import describe, status_of
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from sightline.v1.model_service_pb2_grpc import ModelServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.chaos.campaign.history import Violation

T = TypeVar("T")
CALL_SECONDS = 15.0
PAUSE_SECONDS = 0.2
OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
# Without an answer: the call may have had its effect.
UNANSWERED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


class Unanswered(Exception):
    """A call without an answer."""


class Refused(Exception):
    """A call that was refused."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(f"{code.name} {text}")
        self.code = code


@dataclass(slots=True)
class Tally:
    """What all callers did and found, counted; used by several threads."""

    answers: Counter[str] = field(default_factory=Counter[str])  # by code
    done: Counter[str] = field(default_factory=Counter[str])
    violations: list[str] = field(default_factory=list[str])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """One more of it."""
        with self.lock:
            self.done[what] += 1

    def answered(self, code: str) -> None:
        """One more call with this code."""
        with self.lock:
            self.answers[code] += 1

    def violated(self, how: str) -> None:
        """An invariant does not hold."""
        with self.lock:
            self.violations.append(f"{time.strftime('%H:%M:%S')} {how}")


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of a service, and its stubs: of a service that it does not have, each call is UNIMPLEMENTED."""

    name: str
    datasets: DatasetServiceStub
    models: ModelServiceStub
    evaluations: EvaluationServiceStub
    predictions: PredictionServiceStub


class Api:
    """Every replica of every service."""

    def __init__(self, ports: Mapping[str, int], tally: Tally) -> None:
        self.tally = tally
        self._channels = {name: grpc.insecure_channel(f"127.0.0.1:{port}", OPTIONS) for name, port in ports.items()}
        self.replicas = {
            name: Replica(
                name,
                DatasetServiceStub(channel),
                ModelServiceStub(channel),
                EvaluationServiceStub(channel),
                PredictionServiceStub(channel),
            )
            for name, channel in self._channels.items()
        }

    def any(self, service: str, chance: Random) -> Replica:
        """A replica of the service."""
        return self.replicas[chance.choice(sorted(name for name in self.replicas if name.startswith(f"{service}-")))]

    def call(self, method: Any, request: Any, seconds: float = CALL_SECONDS) -> Any:
        """The answer; Unanswered, Refused. Violation for a code that says that the service itself is wrong."""
        try:
            answer = method(request, timeout=seconds)
        except grpc.RpcError as error:
            found = describe(error)
            self.tally.answered(found.code.name)
            if found.code in UNANSWERED:
                raise Unanswered(found.message) from None
            if found.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS):
                raise Violation(f"{type(request).__name__}: {found.code.name} {found.message}") from None
            raise Refused(found.code, found.message) from None
        self.tally.answered("OK")
        return answer

    def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels.values():
            channel.close()


def has_retry_info(error: grpc.RpcError) -> bool:
    """Whether a failed call says when to try again."""
    return any(detail.Unpack(RetryInfo()) for detail in status_of(error).details)


def patiently(call: Callable[[], T], seconds: float, what: str) -> T:
    """The answer, asked for until there is one; Violation after `seconds`. Only for calls that may be repeated."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except Unanswered as error:
            if time.monotonic() > deadline:
                raise Violation(f"{what}: no answer in {seconds:.0f} s ({error})") from None
        time.sleep(PAUSE_SECONDS)
