"""Estimates by a real suite: a child measures real images, the api may die meanwhile, and a caller may cancel."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sightline.client.client import Client
from sightline.v1 import model_pb2
from sightline.v1 import model_service_pb2 as pb
from tests.e2e.conftest import Command, RunningStack

pytestmark = [pytest.mark.slow, pytest.mark.real_data, pytest.mark.weights, pytest.mark.timeout(900)]

SECONDS = 600.0  # for a probe on a busy machine
API, WORKER = "trainer", "trainer-worker-1"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A suite whose parts are killed."""
    with RunningStack(tmp_path_factory.mktemp("suite")) as running:
        yield running


@pytest.fixture(scope="module")
def client(own: RunningStack, test_data: Path, weights_dir: Path) -> Iterator[Client]:
    with Client(own.stack.addresses, progress=False) as client:
        client.datasets.register("cherries", coco=test_data / "hemlock_cherry" / "train.json")
        client.datasets.register("raccoons", coco=test_data / "raccoon" / "train.json")
        yield client


def events(own: RunningStack, program: str, event: str) -> list[dict[str, Any]]:
    """What a program of the suite has logged under this name."""
    found: list[dict[str, Any]] = []
    for line in (own.stack.logs / f"{program}.log").read_text(errors="replace").splitlines():
        with suppress(ValueError):
            parsed = json.loads(line)
            if isinstance(parsed, dict) and parsed.get("event") == event:
                found.append(parsed)
    return found


def until(holds: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Returns once the condition holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def idle(own: RunningStack, client: Client) -> None:
    """The worker has ended its last attempt: it answers before the child is gone."""
    until(lambda: len(events(own, WORKER, "attempt_began")) == len(events(own, WORKER, "attempt_ended")))


def test_a_classifier_is_measured_and_the_command_shows_it(client: Client, own: RunningStack, tmp_path: Path) -> None:
    words = ("models", "estimate", "--dataset", "cherries", "--timeout", f"{SECONDS:g}s")
    found = Command(own.stack.addresses, tmp_path)(*words, "--json").json
    assert found["device"].startswith("cpu, ")
    assert found["metricName"] == "accuracy_top1"
    assert found["outlook"][-1]["interval"]["low"] < 1
    assert client.models.list() == ()


@pytest.mark.long
def test_a_detector_is_measured_without_a_metric(client: Client) -> None:
    found = client.models.estimate(dataset="raccoons", timeout=SECONDS)
    assert found.minimum_budget <= found.suggested_budget
    assert found.metric == ""
    assert all(outlook.value is None for outlook in found.outlook)


@pytest.mark.long
def test_a_call_goes_on_when_the_api_is_killed_in_the_middle(client: Client, own: RunningStack) -> None:
    ended, planned = len(events(own, WORKER, "attempt_ended")), len(events(own, API, "estimate_planned"))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.models.estimate, dataset="raccoons", timeout=SECONDS)
        until(lambda: len(events(own, API, "estimate_planned")) > planned)
        os.kill(own.stack.pids[API], signal.SIGKILL)
        assert call.result(SECONDS).outlook
    until(lambda: len(events(own, WORKER, "attempt_ended")) > ended)
    assert len(events(own, WORKER, "attempt_ended")) == ended + 1, "the repeated call found the probe in progress"
    assert len(events(own, API, "estimate_planned")) == planned + 1


def test_a_cancelled_call_frees_the_worker(client: Client, own: RunningStack) -> None:
    parameters = model_pb2.TrainingParameters(
        training_dataset="datasets/raccoons",
        model_kind=model_pb2.TrainingParameters.GENERIC_DETECTOR,
        hyperparameters=model_pb2.Hyperparameters(seed=1),  # another probe than the last test's, which may be kept
    )
    ended, started = len(events(own, WORKER, "attempt_ended")), len(events(own, WORKER, "attempt_began"))
    call = client.stubs.models.EstimateTraining.future(
        pb.EstimateTrainingRequest(training_parameters=parameters), timeout=SECONDS
    )
    until(lambda: len(events(own, WORKER, "attempt_began")) > started)
    call.cancel()
    until(lambda: len(events(own, WORKER, "attempt_ended")) > ended, 60)
    assert events(own, WORKER, "attempt_ended")[-1]["result"] == "lease_lost"
