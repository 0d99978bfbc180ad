"""`client.datasets`: register labelled images, and read the findings."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

from sightline.client import progress, requests
from sightline.client.calls import AsyncCalls, Calls
from sightline.client.names import Named, bare_name, full_name
from sightline.client.requests import STORE
from sightline.client.results.dataset import AsyncDataset, Dataset, Finding
from sightline.client.results.kinds import DatasetKind
from sightline.client.uploads import LocalSet, read_set
from sightline.v1 import dataset_pb2
from sightline.v1 import dataset_service_pb2 as service

COLLECTION = "datasets"


class Datasets:
    """The datasets of a `Client`: labelled images."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def register(
        self,
        name: str,
        *,
        coco: str | Path,
        images: str | Path | None = None,
        kind: DatasetKind | str | None = None,
        display_name: str = "",
        wait: bool = True,
    ) -> Dataset:
        """Uploads a COCO file and the images it names, registers them, and waits until they have been checked.

        Image names are relative to the folder `images`, by default the COCO file's own. `coco` may also be the `s3://`
        uri of a COCO file that is in the store with its images. Without `kind`, a file with boxes is for detection.

        Raises AnnotationsUnreadable or ImagesMissing before anything is uploaded, DatasetAlreadyExists, and, while
        waiting, the error of a dataset that ends as FAILED. With `wait=False`, returns a dataset that may still be
        VALIDATING.
        """
        local = _local_set(coco, images, kind)
        with (
            progress.uploading(self._calls.reporter, name, local) as sent,
            self._calls.raising(),
        ):
            uris = self._calls.stubs.upload_files(local.files, sent) if local else {}
        request = _creation(name, coco, kind, display_name, local, uris)
        made = Dataset.of(self._calls.ask(self._calls.stubs.datasets.CreateDataset, request), self)
        return self.wait(made) if wait else made

    def get(self, name: str | Named) -> Dataset:
        """One dataset, with all its categories; DatasetNotFound."""
        request = service.GetDatasetRequest(name=full_name(COLLECTION, name), view=dataset_pb2.Dataset.FULL)
        return Dataset.of(self._calls.ask(self._calls.stubs.datasets.GetDataset, request), self)

    def list(self) -> tuple[Dataset, ...]:
        """All datasets, by name."""
        response = self._calls.pages(self._calls.stubs.datasets.ListDatasets, service.ListDatasetsRequest())
        return tuple(Dataset.of(message, self) for message in response.datasets)

    def findings(self, name: str | Named) -> tuple[Finding, ...]:
        """What registration found, the worst first; DatasetNotFound."""
        request = service.ListFindingsRequest(parent=full_name(COLLECTION, name))
        response = self._calls.pages(self._calls.stubs.datasets.ListFindings, request)
        return tuple(Finding.of(message) for message in response.findings)

    def watch(self, name: str | Named) -> Generator[Dataset]:
        """A dataset now and after each change, until it is READY or FAILED."""
        request = service.WatchDatasetRequest(name=full_name(COLLECTION, name))
        for message in self._calls.watch(self._calls.stubs.datasets.WatchDataset, request):
            yield Dataset.of(message.dataset, self)

    def wait(self, name: str | Named) -> Dataset:
        """Waits until a dataset is READY and returns it; raises the error of one that ends as FAILED."""
        full = full_name(COLLECTION, name)
        self._calls.wait(f"check {bare_name(full)}", self.watch(full), progress.of_dataset)
        return self.get(full)

    def delete(self, name: str | Named) -> None:
        """Deletes a dataset, but not the models trained on it; DatasetNotFound."""
        request = service.DeleteDatasetRequest(name=full_name(COLLECTION, name))
        self._calls.ask(self._calls.stubs.datasets.DeleteDataset, request)


class AsyncDatasets:
    """The datasets of an `AsyncClient`, with the methods of `Datasets`."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def register(
        self,
        name: str,
        *,
        coco: str | Path,
        images: str | Path | None = None,
        kind: DatasetKind | str | None = None,
        display_name: str = "",
        wait: bool = True,
    ) -> AsyncDataset:
        """As `Datasets.register`."""
        local = await asyncio.to_thread(_local_set, coco, images, kind)
        async with self._calls.raising():
            with progress.uploading(self._calls.reporter, name, local) as sent:
                uris = await self._calls.stubs.upload_files(local.files, sent) if local else {}
        request = _creation(name, coco, kind, display_name, local, uris)
        made = AsyncDataset.of(await self._calls.ask(self._calls.stubs.datasets.CreateDataset, request), self)
        return await self.wait(made) if wait else made

    async def get(self, name: str | Named) -> AsyncDataset:
        """One dataset, with all its categories; DatasetNotFound."""
        request = service.GetDatasetRequest(name=full_name(COLLECTION, name), view=dataset_pb2.Dataset.FULL)
        return AsyncDataset.of(await self._calls.ask(self._calls.stubs.datasets.GetDataset, request), self)

    async def list(self) -> tuple[AsyncDataset, ...]:
        """All datasets, by name."""
        response = await self._calls.pages(self._calls.stubs.datasets.ListDatasets, service.ListDatasetsRequest())
        return tuple(AsyncDataset.of(message, self) for message in response.datasets)

    async def findings(self, name: str | Named) -> tuple[Finding, ...]:
        """What registration found, the worst first; DatasetNotFound."""
        request = service.ListFindingsRequest(parent=full_name(COLLECTION, name))
        response = await self._calls.pages(self._calls.stubs.datasets.ListFindings, request)
        return tuple(Finding.of(message) for message in response.findings)

    async def watch(self, name: str | Named) -> AsyncGenerator[AsyncDataset]:
        """A dataset now and after each change, until it is READY or FAILED."""
        request = service.WatchDatasetRequest(name=full_name(COLLECTION, name))
        async for message in self._calls.watch(self._calls.stubs.datasets.WatchDataset, request):
            yield AsyncDataset.of(message.dataset, self)

    async def wait(self, name: str | Named) -> AsyncDataset:
        """Waits until a dataset is READY and returns it; raises the error of one that ends as FAILED."""
        full = full_name(COLLECTION, name)
        await self._calls.wait(f"check {bare_name(full)}", self.watch(full), progress.of_dataset)
        return await self.get(full)

    async def delete(self, name: str | Named) -> None:
        """Deletes a dataset, but not the models trained on it; DatasetNotFound."""
        request = service.DeleteDatasetRequest(name=full_name(COLLECTION, name))
        await self._calls.ask(self._calls.stubs.datasets.DeleteDataset, request)


def _local_set(coco: str | Path, images: str | Path | None, kind: str | None) -> LocalSet | None:
    """The files to upload; None if they are in the store already."""
    if not str(coco).startswith(STORE):
        return read_set(Path(coco), Path(images) if images else None)
    if kind is None:
        raise ValueError(f"the client does not read {coco}: pass kind='classification' or kind='detection'")
    return None


def _creation(
    name: str, coco: str | Path, kind: str | None, display_name: str, local: LocalSet | None, uris: dict[str, str]
) -> service.CreateDatasetRequest:
    uri = uris[local.files[0].path] if local else str(coco)
    found = local.kind if local else DatasetKind.UNKNOWN
    return requests.create_dataset(name, DatasetKind(kind or found), [uri], display_name)
