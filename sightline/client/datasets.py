"""`client.datasets`: register labelled images, and read the findings."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping
from pathlib import Path
from warnings import warn

from sightline.client import progress, requests
from sightline.client.calls import AsyncCalls, Calls
from sightline.client.names import Named, bare_name, full_name
from sightline.client.plurals import counted
from sightline.client.quantities import size
from sightline.client.requests import STORE
from sightline.client.results.comparison import Comparison
from sightline.client.results.dataset import AsyncDataset, Dataset, Finding
from sightline.client.results.kinds import DatasetKind
from sightline.client.results.samples import Samples
from sightline.client.uploads import LocalSet, Reading, local_set, read_export
from sightline.importers.model import BoxForm, Format
from sightline.importers.package import Package
from sightline.v1 import dataset_pb2
from sightline.v1 import dataset_service_pb2 as service

COLLECTION = "datasets"
Source = str | Path | Package


class Datasets:
    """The datasets of a `Client`: labelled images."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def register(
        self,
        name: str,
        source: Source | None = None,
        *,
        coco: str | Path | None = None,
        images: str | Path | None = None,
        format: Format | str | None = None,  # noqa: A002 - what it is called everywhere else
        boxes: BoxForm | str | None = None,
        splits: Collection[str] = (),
        url_prefixes: Mapping[str, str | Path] | None = None,
        kind: DatasetKind | str | None = None,
        display_name: str = "",
        wait: bool = True,
        note: Callable[[str], None] = warn,
    ) -> Dataset:
        """Uploads labelled images, registers them, and waits until they have been checked.

        `source` is a file or folder in any of the known forms (docs/formats.md), or what `read_export` returned;
        `coco` is a COCO file. Either may be the `s3://` uri of a COCO file that is in the store with its images. Image
        names are relative to the folder `images`, by default the source's own; `url_prefixes` maps the beginnings of
        URLs to folders. `format` and `boxes` override what the content says, `splits` takes a part. Without `kind`,
        annotations with boxes are for detection.

        Before anything is uploaded, raises AnnotationsUnreadable with every fault, ImagesMissing with every image that
        was not found, InvalidName and DatasetAlreadyExists; while waiting, the error of a dataset that ends as FAILED.
        Images larger than the service accepts are left out, and `note` receives their names. With `wait=False`, returns
        a dataset that may still be VALIDATING.
        """
        reading = _reading(coco, images, format, boxes, splits, url_prefixes)
        package = _package(source, coco, reading, kind)
        local, upload_id = None, ""
        if isinstance(package, Package):
            self._calls.ask(self._calls.stubs.datasets.CreateDataset, _trial(name, kind, package))
            with self._calls.raising():
                opened = self._calls.stubs.open_upload()
            local, upload_id = local_set(package, opened.max_image_bytes), opened.upload_id
            _report(local, note)
        with progress.uploading(self._calls.reporter, name, local) as sent, self._calls.raising():
            uris = self._calls.stubs.upload_files(local.files, sent, upload_id) if local else {}
        request = _creation(name, package, kind, display_name, local, uris)
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

    def samples(self, name: str | Named, *, per_category: int = 0, image_ids: Collection[int] = ()) -> Samples:
        """Some images of a READY dataset with their annotations: so many of each category, and those with these ids."""
        request = _sampling(name, per_category, image_ids)
        return Samples.of(self._calls.pages(self._calls.stubs.datasets.ListDatasetSamples, request))

    def compare(self, training: str | Named, test: str | Named) -> Comparison:
        """What two READY datasets share, and how they differ; DatasetNotFound, DatasetNotReady."""
        request = _comparison(training, test)
        return Comparison.of(self._calls.pages(self._calls.stubs.datasets.CompareDatasets, request))

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
        source: Source | None = None,
        *,
        coco: str | Path | None = None,
        images: str | Path | None = None,
        format: Format | str | None = None,  # noqa: A002 - what it is called everywhere else
        boxes: BoxForm | str | None = None,
        splits: Collection[str] = (),
        url_prefixes: Mapping[str, str | Path] | None = None,
        kind: DatasetKind | str | None = None,
        display_name: str = "",
        wait: bool = True,
        note: Callable[[str], None] = warn,
    ) -> AsyncDataset:
        """As `Datasets.register`."""
        reading = _reading(coco, images, format, boxes, splits, url_prefixes)
        package = await asyncio.to_thread(_package, source, coco, reading, kind)
        local, upload_id = None, ""
        if isinstance(package, Package):
            await self._calls.ask(self._calls.stubs.datasets.CreateDataset, _trial(name, kind, package))
            async with self._calls.raising():
                opened = await self._calls.stubs.open_upload()
            local, upload_id = await asyncio.to_thread(local_set, package, opened.max_image_bytes), opened.upload_id
            _report(local, note)
        async with self._calls.raising():
            with progress.uploading(self._calls.reporter, name, local) as sent:
                uris = await self._calls.stubs.upload_files(local.files, sent, upload_id) if local else {}
        request = _creation(name, package, kind, display_name, local, uris)
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

    async def samples(self, name: str | Named, *, per_category: int = 0, image_ids: Collection[int] = ()) -> Samples:
        """Some images of a READY dataset with their annotations: so many of each category, and those with these ids."""
        request = _sampling(name, per_category, image_ids)
        return Samples.of(await self._calls.pages(self._calls.stubs.datasets.ListDatasetSamples, request))

    async def compare(self, training: str | Named, test: str | Named) -> Comparison:
        """What two READY datasets share, and how they differ; DatasetNotFound, DatasetNotReady."""
        request = _comparison(training, test)
        return Comparison.of(await self._calls.pages(self._calls.stubs.datasets.CompareDatasets, request))

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


def _sampling(name: str | Named, per_category: int, image_ids: Collection[int]) -> service.ListDatasetSamplesRequest:
    return service.ListDatasetSamplesRequest(
        parent=full_name(COLLECTION, name), per_category=per_category, image_ids=image_ids
    )


def _comparison(training: str | Named, test: str | Named) -> service.CompareDatasetsRequest:
    names = full_name(COLLECTION, training), full_name(COLLECTION, test)
    return service.CompareDatasetsRequest(training_dataset=names[0], test_dataset=names[1])


def _reading(
    coco: str | Path | None,
    images: str | Path | None,
    form: str | None,
    boxes: str | None,
    splits: Collection[str],
    url_prefixes: Mapping[str, str | Path] | None,
) -> Reading:
    return Reading(
        form=Format.COCO if coco is not None else Format(form) if form else None,
        images=Path(images) if images else None,
        boxes=BoxForm(boxes) if boxes else None,
        splits=splits,
        url_prefixes=url_prefixes,
    )


def _package(source: Source | None, coco: str | Path | None, reading: Reading, kind: str | None) -> Package | str:
    """The export, or the uri of a COCO file in the store."""
    if (source is None) == (coco is None):
        raise ValueError("pass either `source` or `coco`")
    named = source if source is not None else coco
    if isinstance(named, Package):
        return named
    if not str(named).startswith(STORE):
        return read_export(Path(str(named)), reading)
    if kind is None:
        raise ValueError(f"the client does not read {named}: pass kind='classification' or kind='detection'")
    return str(named)


def _report(local: LocalSet, note: Callable[[str], None]) -> None:
    if local.left_out:
        listed = ", ".join(f"{file.path} ({size(file.size_bytes)})" for file in local.left_out)
        note(f"left out {counted(len(local.left_out), 'image')} that the service finds too large: {listed}")


def _trial(name: str, kind: str | None, package: Package) -> service.CreateDatasetRequest:
    """Asks whether a dataset of this name could be created, before the upload."""
    found = DatasetKind.DETECTION if package.imported.detection else DatasetKind.CLASSIFICATION
    request = requests.create_dataset(name, DatasetKind(kind or found), [], "")
    request.validate_only = True
    return request


def _creation(
    name: str,
    package: Package | str,
    kind: str | None,
    display_name: str,
    local: LocalSet | None,
    uris: dict[str, str],
) -> service.CreateDatasetRequest:
    listed = [uris[path] for path in local.annotations] if local else [str(package)]
    found = local.kind if local else DatasetKind.UNKNOWN
    return requests.create_dataset(name, DatasetKind(kind or found), listed, display_name)
