"""Observes a training from outside, continuously, and checks invariants that no observation may break."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from sightline.client.stubs import Stubs
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.channel import status_code
from sightline.v1 import dataset_service_pb2 as dataset_service
from sightline.v1 import model_service_pb2 as model_service
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.model_pb2 import LedgerEntry, Model
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest
from sightline.v1.trial_pb2 import Trial

PAUSE_SECONDS = 0.2
BEARABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
LIFE = [Model.NOT_STARTED, Model.TRAINING, Model.SUCCEEDED]
ENDED = {Trial.SUCCEEDED, Trial.FAILED, Trial.STOPPED, Trial.CANCELLED}

Line = tuple[str, int, int]  # of the ledger: trial, attempt, segment


@dataclass(slots=True)
class Observed:
    """The last successful responses, and when each attempt was observed."""

    state: int = 0
    version: str = ""
    fraction: float = 0.0
    cost: float = 0.0
    charged: dict[Line, float] = field(default_factory=dict[Line, float])
    trials: dict[str, Trial] = field(default_factory=dict[str, Trial])
    # When each attempt was last observed not to have started, and first observed to have ended.
    before: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])
    after: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])


class Observer(threading.Thread):
    """Reads and predicts until the block ends; `faults` has every broken invariant, `answers` counts calls by code."""

    def __init__(self, addresses: Addresses, model: str, dataset: str, image: Path) -> None:
        super().__init__(name="observer", daemon=True)
        self.faults: list[str] = []
        self.answers: Counter[str] = Counter()
        self.seen = Observed()
        self._client = Stubs(addresses)
        self._model, self._dataset, self._image = model, dataset, image.read_bytes()
        self._over = threading.Event()
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self._observe()  # once more at the end
        self._client.close()

    def run(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            self._observe()

    def _observe(self) -> None:
        for observe in (self._observe_model, self._observe_trials, self._observe_dataset, self._predict):
            try:
                observe()
                self.answers["OK"] += 1
            except grpc.RpcError as error:
                code = status_code(error)
                self.answers[code.name] += 1
                self._check(code in BEARABLE, f"{observe.__name__}: {code.name} {error}")

    def longest_seconds(self, trial: str, attempt: int) -> float:
        """An upper bound of the attempt's seconds: from before its start was observed to after its end was."""
        before = [when for (name, number), when in self.seen.before.items() if name == trial and number <= attempt]
        begun = max(before, default=self._began)
        return self.seen.after.get((trial, attempt), time.monotonic()) - begun

    def _check(self, holds: bool, problem: str) -> None:
        if not holds:
            self.faults.append(f"{time.strftime('%H:%M:%S')} {problem}")

    def _observe_model(self) -> None:
        request = model_service.GetModelRequest(name=self._model, view=Model.FULL)
        model, seen = self._client.models.GetModel(request, timeout=5), self.seen
        self._check(model.state in LIFE and model.state >= seen.state, f"state {seen.state} → {model.state}")
        fraction, cost = model.progress.fraction, model.training_cost.ToTimedelta().total_seconds()
        self._check(fraction >= seen.fraction, f"fraction {seen.fraction} → {fraction}")
        self._check(cost >= seen.cost, f"training cost {seen.cost} → {cost}")
        charged = {line(entry): seconds(entry) for entry in model.ledger if entry.charged}
        fallen = {key: (was, charged.get(key)) for key, was in seen.charged.items() if charged.get(key, 0) < was}
        self._check(not fallen, f"charged entries fell: {fallen}")
        self._check(bool(model.model_version) >= bool(seen.version), f"version {seen.version} → {model.model_version}")
        seen.state, seen.version = model.state, model.model_version
        seen.fraction, seen.cost, seen.charged = fraction, cost, charged

    def _observe_trials(self) -> None:
        asked = time.monotonic()
        answer = self._client.models.ListTrials(model_service.ListTrialsRequest(parent=self._model), timeout=5)
        now, seen = time.monotonic(), self.seen
        trials = {trial.name: trial for trial in answer.trials}
        self._check(seen.trials.keys() <= trials.keys(), f"trials vanished: {seen.trials.keys() - trials.keys()}")
        for name, trial in trials.items():
            was = seen.trials.get(name)
            if was:
                self._check(trial.attempts >= was.attempts, f"{name}: attempts {was.attempts} → {trial.attempts}")
                self._check(trial.progress >= was.progress, f"{name}: progress {was.progress} → {trial.progress}")
                self._check(was.state not in ENDED or trial.state == was.state, f"{name} restarted after its end")
            seen.before[name, trial.attempts + 1] = asked
            for attempt in range(1, trial.attempts + (trial.state in ENDED)):
                seen.after.setdefault((name, attempt), now)
        seen.trials = trials

    def _observe_dataset(self) -> None:
        request = dataset_service.GetDatasetRequest(name=self._dataset)
        dataset = self._client.datasets.GetDataset(request, timeout=5)
        self._check(dataset.state == Dataset.READY, f"the dataset is {Dataset.State.Name(dataset.state)}")

    def _predict(self) -> None:
        if not self.seen.version:
            return  # nothing to predict with yet
        request = AnalyzeImageRequest(model_name=self._model, image=self._image, score_threshold=0)
        answer = self._client.predictions.AnalyzeImage(request, timeout=10)
        self._check(bool(answer.custom_model_result.tags_result.values), "a prediction without tags")


def audit(model: Model, trials: list[Trial], observer: Observer) -> None:
    """Asserts that the model has succeeded, within its budget, with a ledger that adds up and charges nothing twice."""
    assert Model.State.Name(model.state) == "SUCCEEDED", model.error
    assert all(trial.state in (Trial.SUCCEEDED, Trial.STOPPED) for trial in trials), trials
    lines = Counter(line(entry) for entry in model.ledger)
    assert max(lines.values()) == 1, f"recorded twice: {lines.most_common(3)}"
    charged: dict[tuple[str, int], float] = defaultdict(float)
    for entry in model.ledger:
        if entry.charged:
            charged[entry.trial, entry.attempt] += seconds(entry)
    cost = model.training_cost.ToTimedelta().total_seconds()
    budget = model.training_parameters.time_budget.ToTimedelta().total_seconds()
    assert abs(sum(charged.values()) - cost) < 0.001, (sum(charged.values()), cost)
    assert 0 < cost <= budget
    for (trial, attempt), paid in charged.items():
        if "/trials/" in trial:
            assert paid <= observer.longest_seconds(trial, attempt) + 0.1, (
                f"{trial}, attempt {attempt}, is charged {paid} s"
            )


def line(entry: LedgerEntry) -> Line:
    """The entry's key."""
    return entry.trial, entry.attempt, entry.segment


def seconds(entry: LedgerEntry) -> float:
    """The entry's duration."""
    return entry.duration.ToTimedelta().total_seconds()
