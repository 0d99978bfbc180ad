"""Callers: each registers datasets, changes them, trains, evaluates and deletes, and knows what must be true."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from random import Random

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.model_pb2 import Model
from sightline.v1.prediction_service_pb2 import LoadModelRequest
from tests.chaos.campaign.asking import STEP_SECONDS
from tests.chaos.campaign.calls import Api, Refused, patiently
from tests.chaos.campaign.history import Violation
from tests.chaos.campaign.registering import Datasets
from tests.chaos.campaign.training import Models

KEPT = 0.3  # share of the models and datasets that stay until the end


@dataclass(frozen=True, slots=True)
class Kept:
    """What must be found at the end, as it was seen."""

    dataset: Dataset
    models: tuple[Model, ...]


class Caller:
    """One caller; its seed decides what it does. All names that it uses are its own."""

    def __init__(self, number: int, seed: str, api: Api, uri: str, models: int = 1) -> None:
        self.name = f"c{number}"
        self.kept: list[Kept] = []
        self.abandoned: list[str] = []  # stories that a violation ended, which leave everything behind
        self._seed, self._own, self._api, self._most = seed, "", api, models + 1
        routes = Random(f"{seed}/{self.name}")
        self.datasets, self.models = Datasets(api, routes, uri), Models(api, routes)

    def run(self, over: threading.Event) -> None:
        """Stories until it is over."""
        number = 0
        while not over.is_set():
            number += 1
            try:
                self._story(f"{self.name}-{number}")
                self._api.tally.count("stories")
            except (Violation, Refused) as broken:
                self.abandoned.append(f"{self.name}-{number}")
                self._api.tally.violated(f"story {self.name}-{number}: {broken}")

    def prepare(self, name: str) -> None:
        """Trains the model of this name on a dataset of this name, and has every predictor load it."""
        self.datasets.register(name, repeats=False)
        dataset = self.datasets.ready(f"datasets/{name}")
        model = self.models.train(name, dataset.name, Random(self._seed), cancels=False)
        request = LoadModelRequest(model_name=model.name)
        for replica in self._api.replicas.values():
            if replica.name.startswith("predictor-"):
                stub = replica.predictions
                patiently(lambda stub=stub: self._api.call(stub.LoadModel, request, 60), STEP_SECONDS, model.name)
        self.kept.append(Kept(dataset, (model,)))

    @property
    def touched(self) -> list[str]:
        """What this caller works on, as jobs name it."""
        return [f"datasets/{self._own}", *(f"models/{self._own}-m0/trials/t00{n}" for n in range(2))]

    def _story(self, own: str) -> None:
        self._own = own
        chance = Random(f"{self._seed}/{own}")
        draws = [chance.random() for _ in range(6)]
        name = f"datasets/{own}"
        self.datasets.register(own, repeats=draws[0] < 0.5)
        self.datasets.listed()
        dataset = self.datasets.ready(name)
        for _ in range(int(4 * draws[1])):
            dataset = self.datasets.rename(dataset, chance, races=draws[2] < 0.5)
        models = [
            self.models.train(f"{own}-m{n}", name, chance, cancels=chance.random() < 0.25)
            for n in range(self._most - (draws[3] < 0.7))
        ]
        if models[0].state == Model.SUCCEEDED and draws[4] < 0.3:
            self.models.evaluate(models[0].name, name)
        if draws[5] < KEPT:
            self.kept.append(Kept(dataset, tuple(models)))
            return
        for model in models:
            self.models.delete(model.name)
        self.datasets.delete(name)
        self.datasets.listed()

    def clear(self) -> None:
        """Deletes what was kept, once it is found as it was seen; what is not is a violation, and stays."""
        for kept in self.kept:
            try:
                self._clear(kept)
            except (Violation, Refused) as broken:
                self.abandoned.append(kept.dataset.name.removeprefix("datasets/"))
                self._api.tally.violated(str(broken))

    def _clear(self, kept: Kept) -> None:
        for model in kept.models:
            if not _same(found := self.models.model(model.name), model):
                raise Violation(f"{model.name} has changed since it ended: {model} → {found}")
            self.models.delete(model.name)
        if not _same(found := self.datasets.dataset(kept.dataset.name), kept.dataset):
            raise Violation(f"{kept.dataset.name} has changed since it was READY: {kept.dataset} → {found}")
        self.datasets.delete(kept.dataset.name)


def _same(one: Message, other: Message) -> bool:
    """Whether two answers say the same. Equal maps inside an error's details may differ in their order of bytes."""
    return MessageToDict(one) == MessageToDict(other)
