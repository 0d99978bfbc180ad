"""`client.datasets`: register labelled images, and read the findings."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable, Mapping
from contextlib import aclosing, closing
from pathlib import Path
from warnings import warn

from sightline.client import progress, requests
from sightline.client.calls import AsyncCalls, Calls
from sightline.client.diffs import diff
from sightline.client.exports import Annotations, Download
from sightline.client.images import ImageRead
from sightline.client.names import Named, bare_name, full_name
from sightline.client.requests import STORE
from sightline.client.results.comparison import Comparison
from sightline.client.results.dataset import AsyncDataset, Dataset, DatasetData, Finding
from sightline.client.results.diff import DatasetDiff
from sightline.client.results.export import Draft, Exported
from sightline.client.results.kinds import DatasetKind
from sightline.client.results.samples import Sample, Samples
from sightline.client.sending import Sent, send, send_async
from sightline.client.suggested import Drafting
from sightline.client.uploads import Reading, read_export
from sightline.exporters.model import ExportFormat, Snapshot
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
        new_version: bool = False,
        display_name: str = "",
        wait: bool = True,
        note: Callable[[str], None] = warn,
    ) -> Dataset:
        """Uploads labelled images, registers them, and waits until they have been checked.

        `source` is a file or folder in any of the known forms (docs/formats.md), or what `read_export` returned;
        `coco` is a COCO file. Either may be the `s3://` uri of a COCO file that is in the store with its images. Image
        names are relative to the folder `images`, by default the source's own; `url_prefixes` maps the beginnings of
        URLs to folders. `format` and `boxes` override what the content says, `splits` takes a part. Without `kind`,
        annotations with boxes are for detection. With `new_version`, a dataset of the name gets the images as its next
        version; models that were trained on it keep theirs.

        Before anything is uploaded, raises AnnotationsUnreadable with every fault, ImagesMissing with every image that
        was not found, InvalidName and DatasetAlreadyExists; while waiting, the error of a dataset that ends as FAILED.
        Images larger than the service accepts are left out, and `note` receives their names. An interrupted
        call, when repeated, sends only the files that are not there yet. With `wait=False`, returns a dataset that may
        still be VALIDATING.
        """
        reading = _reading(coco, images, format, boxes, splits, url_prefixes)
        package = _package(source, coco, reading, kind)
        sent = None
        if isinstance(package, Package):
            self._calls.ask(self._calls.stubs.datasets.CreateDataset, _trial(name, kind, package, new_version))
            sent = send(self._calls, name, package, note)
        request = _creation(name, package, kind, display_name, sent, new_version)
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
        """Some images of a READY dataset with their annotations: a few of each category, and those with these ids."""
        request = _sampling(name, per_category, image_ids)
        return Samples.of(self._calls.pages(self._calls.stubs.datasets.ListDatasetSamples, request))

    def images(self, name: str | Named, image_ids: Iterable[int], *, version: int = 0) -> tuple[Sample, ...]:
        """Images of a version of a dataset, by default the current one, with their annotations, in this order.

        An id that the dataset does not have is left out, and so are the bytes of images above 8 MiB. Raises
        DatasetNotFound, DatasetNotReady, or InvalidRequest if it has no such version.
        """
        full, rpc = full_name(COLLECTION, name), self._calls.stubs.datasets.ReadImages
        found: list[Sample | None] = []
        for image_id in image_ids:
            read = ImageRead(full, version, image_id)
            with closing(self._calls.watch(rpc, read.request)) as messages:
                any(map(read.take, messages))
            found.append(read.sample())
        return tuple(sample for sample in found if sample is not None)

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

    def export(
        self,
        name: str | Named,
        folder: str | Path,
        *,
        format: ExportFormat | str = ExportFormat.COCO,  # noqa: A002 - what it is called everywhere else
        version: int = 0,
        force: bool = False,
    ) -> Exported:
        """Writes the images and annotations of a dataset's version, by default the current one, into a folder.

        The form is COCO, YOLO, Pascal VOC, or a folder per class.

        The images are those of the snapshot: upright JPEG or PNG, without what validation left out. An interrupted
        export is continued: what the folder has already stays. DatasetNotFound, DatasetNotReady, DatasetChanged;
        ExportRefused if the folder has other files, unless `force`, or if the form cannot express the annotations.
        """
        full, rpc = full_name(COLLECTION, name), self._calls.stubs.datasets.ReadImages
        with self._calls.reporter(f"export {bare_name(full)}") as bar:
            annotations = Annotations(full, version)
            for message in self._calls.watch(rpc, annotations.request):
                bar.update(*annotations.take(message))
            download = Download(annotations.snapshot(), Path(folder), ExportFormat(format), force=force)
            if download.is_due:
                for message in self._calls.watch(rpc, download.request):
                    bar.update(*download.take(message))
            return download.finish()

    def suggest(self, model: str | Named, folder: str | Path, *, count: int = 100) -> Draft:
        """Drafts a dataset of images that the model was unsure of, those first from which it would learn most.

        Writes the images into a folder, and a COCO file with the model's answers, to be corrected before it is
        registered. ModelNotFound; FeedbackNotKept if the predictor keeps no images; ExportRefused if the folder has
        files.
        """
        full, rpc = full_name("models", model), self._calls.stubs.predictions.SuggestImages
        with self._calls.reporter(f"suggest for {bare_name(full)}") as bar:
            drafting = Drafting(full, Path(folder), count)
            for message in self._calls.watch(rpc, drafting.request):
                bar.update(*drafting.take(message))
            return drafting.finish()

    def diff(self, name: str | Named, old: int = 0, new: int = 0) -> DatasetDiff:
        """What differs between two versions of a dataset: by default the current one and the one before it.

        DatasetNotFound; InvalidRequest if it has no such version; DatasetNotReady while the current one is checked.
        """
        full, rpc = full_name(COLLECTION, name), self._calls.stubs.datasets.ReadImages
        snapshots: list[Snapshot] = []
        for version in _versions(self.get(full), old, new):
            with self._calls.reporter(f"read {bare_name(full)}") as bar:
                annotations = Annotations(full, version)
                for message in self._calls.watch(rpc, annotations.request):
                    bar.update(*annotations.take(message))
                snapshots.append(annotations.snapshot())
        return diff(*snapshots)

    def delete(self, name: str | Named, *, force: bool = False) -> None:
        """Deletes a dataset, but not the models trained on it; DatasetNotFound.

        DatasetInUse while a training, an evaluation or a batch prediction needs it; with `force`, that one fails.
        """
        request = service.DeleteDatasetRequest(name=full_name(COLLECTION, name), force=force)
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
        new_version: bool = False,
        display_name: str = "",
        wait: bool = True,
        note: Callable[[str], None] = warn,
    ) -> AsyncDataset:
        """As `Datasets.register`."""
        reading = _reading(coco, images, format, boxes, splits, url_prefixes)
        package = await asyncio.to_thread(_package, source, coco, reading, kind)
        sent = None
        if isinstance(package, Package):
            await self._calls.ask(self._calls.stubs.datasets.CreateDataset, _trial(name, kind, package, new_version))
            sent = await send_async(self._calls, name, package, note)
        request = _creation(name, package, kind, display_name, sent, new_version)
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
        """Some images of a READY dataset with their annotations: a few of each category, and those with these ids."""
        request = _sampling(name, per_category, image_ids)
        return Samples.of(await self._calls.pages(self._calls.stubs.datasets.ListDatasetSamples, request))

    async def images(self, name: str | Named, image_ids: Iterable[int], *, version: int = 0) -> tuple[Sample, ...]:
        """As `Datasets.images`."""
        full, rpc = full_name(COLLECTION, name), self._calls.stubs.datasets.ReadImages
        found: list[Sample | None] = []
        for image_id in image_ids:
            read = ImageRead(full, version, image_id)
            async with aclosing(self._calls.watch(rpc, read.request)) as messages:
                async for message in messages:
                    if read.take(message):
                        break
            found.append(read.sample())
        return tuple(sample for sample in found if sample is not None)

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

    async def export(
        self,
        name: str | Named,
        folder: str | Path,
        *,
        format: ExportFormat | str = ExportFormat.COCO,  # noqa: A002 - what it is called everywhere else
        version: int = 0,
        force: bool = False,
    ) -> Exported:
        """As `Datasets.export`; files are written in threads."""
        full, rpc = full_name(COLLECTION, name), self._calls.stubs.datasets.ReadImages
        with self._calls.reporter(f"export {bare_name(full)}") as bar:
            annotations = Annotations(full, version)
            async for message in self._calls.watch(rpc, annotations.request):
                bar.update(*annotations.take(message))
            form, snapshot = ExportFormat(format), annotations.snapshot()
            download = await asyncio.to_thread(Download, snapshot, Path(folder), form, force=force)
            if download.is_due:
                async for message in self._calls.watch(rpc, download.request):
                    bar.update(*await asyncio.to_thread(download.take, message))
            return await asyncio.to_thread(download.finish)

    async def suggest(self, model: str | Named, folder: str | Path, *, count: int = 100) -> Draft:
        """As `Datasets.suggest`; files are written in threads."""
        full, rpc = full_name("models", model), self._calls.stubs.predictions.SuggestImages
        with self._calls.reporter(f"suggest for {bare_name(full)}") as bar:
            drafting = await asyncio.to_thread(Drafting, full, Path(folder), count)
            async for message in self._calls.watch(rpc, drafting.request):
                bar.update(*await asyncio.to_thread(drafting.take, message))
            return await asyncio.to_thread(drafting.finish)

    async def diff(self, name: str | Named, old: int = 0, new: int = 0) -> DatasetDiff:
        """As `Datasets.diff`."""
        full, rpc = full_name(COLLECTION, name), self._calls.stubs.datasets.ReadImages
        snapshots: list[Snapshot] = []
        for version in _versions(await self.get(full), old, new):
            with self._calls.reporter(f"read {bare_name(full)}") as bar:
                annotations = Annotations(full, version)
                async for message in self._calls.watch(rpc, annotations.request):
                    bar.update(*annotations.take(message))
                snapshots.append(annotations.snapshot())
        return diff(*snapshots)

    async def delete(self, name: str | Named, *, force: bool = False) -> None:
        """Deletes a dataset, but not the models trained on it; DatasetNotFound.

        DatasetInUse while a training, an evaluation or a batch prediction needs it; with `force`, that one fails.
        """
        request = service.DeleteDatasetRequest(name=full_name(COLLECTION, name), force=force)
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


def _versions(dataset: DatasetData, old: int, new: int) -> tuple[int, int]:
    """The two versions to compare: the given ones, the current one and the one before."""
    newer = new or dataset.version
    return old or newer - 1 or 1, newer


def _trial(name: str, kind: str | None, package: Package, new_version: bool) -> service.CreateDatasetRequest:
    """Asks whether a dataset of this name could be created, before the upload."""
    found = DatasetKind.DETECTION if package.imported.detection else DatasetKind.CLASSIFICATION
    request = requests.create_dataset(name, DatasetKind(kind or found), [], "")
    request.validate_only, request.new_version = True, new_version
    return request


def _creation(
    name: str, package: Package | str, kind: str | None, display_name: str, sent: Sent | None, new_version: bool
) -> service.CreateDatasetRequest:
    listed = sent.annotations if sent else [str(package)]
    found = sent.local.kind if sent else DatasetKind.UNKNOWN
    request = requests.create_dataset(name, DatasetKind(kind or found), listed, display_name)
    request.new_version = new_version
    return request
