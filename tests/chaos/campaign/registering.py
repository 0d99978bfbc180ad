"""The datasets of one caller, and what must be true of them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from sightline.v1 import dataset_service_pb2 as service
from sightline.v1.dataset_pb2 import Dataset
from tests.chaos.campaign.asking import STEP_SECONDS, Asker
from tests.chaos.campaign.calls import Api, Refused, Replica, Unanswered, patiently
from tests.chaos.campaign.history import History, Violation

MASK = FieldMask(paths=["display_name"])


class Datasets(Asker):
    """All of the same files, at `uri`, so all have the same digest."""

    service = "dataset"

    def __init__(self, api: Api, routes: Random, uri: str) -> None:
        super().__init__(api, routes)
        self._uri, self._digest = uri, ""
        self._races = ThreadPoolExecutor(2, thread_name_prefix="race")
        self._present: set[str] = set()  # acknowledged, and not deleted since

    def register(self, own: str, *, repeats: bool) -> None:
        described = Dataset(annotation_kind=Dataset.IMAGE_CLASSIFICATION, annotation_file_uris=[self._uri])
        request = service.CreateDatasetRequest(dataset_id=own, dataset=described, request_id=f"create-{own}")

        def create() -> Dataset:
            return self._api.call(self._replica.datasets.CreateDataset, request)

        created = patiently(create, STEP_SECONDS, f"creating {own}")
        self._present.add(created.name)
        if repeats:
            again = patiently(create, STEP_SECONDS, f"creating {own} again")
            if again.create_time != created.create_time:
                raise Violation(f"{created.name} was created twice by one request id")
        self.dataset(created.name)
        self._api.tally.count("datasets created")

    def dataset(self, name: str) -> Dataset:
        """The dataset; Violation if there is none."""
        request = service.GetDatasetRequest(name=name)
        try:
            return patiently(lambda: self._api.call(self._replica.datasets.GetDataset, request), STEP_SECONDS, name)
        except Refused as error:
            raise Violation(f"{name} was acknowledged, and now: {error}") from None

    def ready(self, name: str) -> Dataset:
        found = self._until(lambda: self.dataset(name), lambda dataset: dataset.state != Dataset.VALIDATING)
        if found.state != Dataset.READY:
            raise Violation(f"{name} is {Dataset.State.Name(found.state)}: {found.error.message}")
        self._digest = self._digest or found.snapshot_digest
        if found.snapshot_digest != self._digest:
            raise Violation(f"{name} has another digest than the other datasets of the same files")
        return found

    def rename(self, dataset: Dataset, chance: Random, *, races: bool) -> Dataset:
        """Changes the name shown, perhaps by two calls at once with the same etag, of which one may win.

        A write without an answer may arrive later still, so it writes until one is acknowledged.
        """
        history = History[str](dataset.name, dataset.display_name, int(dataset.etag))
        deadline = time.monotonic() + STEP_SECONDS
        while True:
            dataset = self._rename(dataset, history, chance, races=races)
            if not history.pending:
                break
            if time.monotonic() > deadline:
                raise Violation(f"{dataset.name}: no write was acknowledged in {STEP_SECONDS:.0f} s")
        self._api.tally.count("races" if races else "updates")
        return dataset

    def _rename(self, dataset: Dataset, history: History[str], chance: Random, *, races: bool) -> Dataset:
        """One change, and what the dataset is then."""
        wanted = [f"{dataset.name} {chance.getrandbits(32):x}" for _ in range(1 + races)]
        replicas = [self._replica for _ in wanted]
        answers = list(
            self._races.map(lambda pair: self._try_rename(dataset, *pair), zip(wanted, replicas, strict=True))
        )
        won = [answer for answer in answers if isinstance(answer, Dataset)]
        if len(won) > 1:
            raise Violation(f"{dataset.name}: two writes with the etag {dataset.etag} were accepted")
        unanswered = [name for name, answer in zip(wanted, answers, strict=True) if answer is None]
        if won:
            history.written(won[0].display_name, int(won[0].etag))
        else:
            for name in unanswered:
                history.lost_sight(name)
            if len(unanswered) < len(wanted):
                history.refused("both writes were refused" if races else "the write was refused")
        found = self.dataset(dataset.name)
        history.read(found.display_name, int(found.etag))
        return found

    def _try_rename(self, dataset: Dataset, name: str, replica: Replica) -> Dataset | Refused | None:
        """The answer, the refusal, or None without an answer."""
        changed = Dataset(name=dataset.name, display_name=name, etag=dataset.etag)
        request = service.UpdateDatasetRequest(dataset=changed, update_mask=MASK)
        try:
            return self._api.call(replica.datasets.UpdateDataset, request)
        except Unanswered:
            return None
        except Refused as error:
            if error.code is grpc.StatusCode.ABORTED:
                return error
            raise

    def listed(self) -> None:
        """Violation unless a replica lists what it must, at the latest when everything has settled."""

        def missing() -> set[str]:
            return self._present - self._list(self._replica)

        left = self._until(missing, lambda names: not names)
        if left:
            raise Violation(f"the list lacks {sorted(left)[:3]}")
        self._api.tally.count("lists")

    def _list(self, replica: Replica) -> set[str]:
        names, token = set[str](), ""
        while True:
            request = service.ListDatasetsRequest(page_size=7, page_token=token)
            answer = patiently(lambda: self._api.call(replica.datasets.ListDatasets, request), STEP_SECONDS, "a list")  # noqa: B023 - called at once
            names |= {dataset.name for dataset in answer.datasets}
            if not (token := answer.next_page_token):
                return names

    def delete(self, name: str) -> None:
        request = service.DeleteDatasetRequest(name=name)
        self._present.discard(name)
        self._remove(lambda: self._api.call(self._replica.datasets.DeleteDataset, request), name)
        gone = service.GetDatasetRequest(name=name)
        self._gone(lambda: self._api.call(self._replica.datasets.GetDataset, gone), name)
        self._api.tally.count("datasets deleted")
