"""`client.models`: train models within a budget, follow their training, and read the results."""

from collections.abc import AsyncGenerator, Generator
from functools import partial
from pathlib import Path

from sightline.client import comparing, progress, requests
from sightline.client.advice import Advice, advice
from sightline.client.calls import AsyncCalls, Calls
from sightline.client.model_exports import ArchiveDownload, receive, receive_async
from sightline.client.names import Named, bare_name, full_name
from sightline.client.requests import Budget
from sightline.client.results.dataset import DatasetData
from sightline.client.results.estimate import Estimate
from sightline.client.results.kinds import ModelKind
from sightline.client.results.loaded import LoadedModel
from sightline.client.results.model import KIND_FOR, AsyncModel, Hyperparameters, Model
from sightline.client.results.model_comparison import ModelComparison
from sightline.client.results.model_export import ModelExport, ModelFormat
from sightline.client.results.trial import Trial
from sightline.v1 import dataset_service_pb2 as dataset_service
from sightline.v1 import model_pb2
from sightline.v1 import model_service_pb2 as service
from sightline.v1 import prediction_service_pb2 as prediction_service

COLLECTION = "models"
ESTIMATE_SECONDS = 300.0  # that an estimate may take, most of which is the wait for a worker


class Models:
    """The models of a `Client`, and their training."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def train(
        self,
        name: str,
        *,
        dataset: str | Named,
        budget: Budget,
        test_dataset: str | Named | None = None,
        kind: ModelKind | str | None = None,
        display_name: str = "",
        base_model: str | Named | None = None,
        hyperparameters: Hyperparameters | None = None,
    ) -> Model:
        """Starts a training and returns immediately; `wait()` waits for its end.

        The training never uses more compute than the `budget`: `10m`, seconds, or a timedelta. The model is measured
        on the `test_dataset`, or on images held out from the `dataset`. Without `kind`, the dataset decides. With a
        `base_model`, the training continues from its networks.
        Raises ModelAlreadyExists, DatasetNotFound, DatasetNotReady, NotEnoughBudget, IncorrectModelKind,
        CategoriesUnknown, ModelNotFound or ModelNotReady (of the base model), and ValueError for a budget that is not
        a duration.
        """
        kind = ModelKind(kind) if kind else self._kind_for(dataset)
        request = requests.create_model(
            name, kind, dataset, test_dataset, budget, display_name, base_model, hyperparameters
        )
        return Model.of(self._calls.ask(self._calls.stubs.models.CreateModel, request), self)

    def estimate(
        self,
        *,
        dataset: str | Named,
        test_dataset: str | Named | None = None,
        kind: ModelKind | str | None = None,
        base_model: str | Named | None = None,
        hyperparameters: Hyperparameters | None = None,
        timeout: float = ESTIMATE_SECONDS,
    ) -> Estimate:
        """Has a worker measure what a training would need and achieve; creates and charges nothing.

        It takes some seconds once a worker is free, and up to `timeout` seconds in total. Without `kind`, the dataset
        decides. Raises DatasetNotFound, DatasetNotReady, IncorrectModelKind or CategoriesUnknown, and EstimateTimedOut
        if no worker was free in time.
        """
        kind = ModelKind(kind) if kind else self._kind_for(dataset)
        request = requests.estimate_training(kind, dataset, test_dataset, base_model, hyperparameters)
        rpc = partial(self._calls.stubs.models.EstimateTraining, timeout=timeout)
        return Estimate.of(self._calls.ask(rpc, request))

    def get(self, name: str | Named) -> Model:
        """One model, with its ledger and everything that was measured; ModelNotFound."""
        request = service.GetModelRequest(name=full_name(COLLECTION, name), view=model_pb2.Model.FULL)
        return Model.of(self._calls.ask(self._calls.stubs.models.GetModel, request), self)

    def advise(self, name: str | Named) -> tuple[Advice, ...]:
        """What would make a model better: images to collect, categories to tell apart, labels to check."""
        return advice(self.get(name))

    def compare(
        self, first: str | Named, second: str | Named, *, dataset: str | Named | None = None
    ) -> ModelComparison:
        """Which of two models is better, on the images on which both were measured.

        Of the versions that they serve, the latest evaluations of the same images are compared: of the `dataset`, or of
        the one measured latest. Raises ModelNotFound, and EvaluationNotFound if there are none.
        """
        return comparing.compare(self._calls, first, second, dataset)

    def list(self) -> tuple[Model, ...]:
        """All models, by name."""
        response = self._calls.pages(self._calls.stubs.models.ListModels, service.ListModelsRequest())
        return tuple(Model.of(message, self) for message in response.models)

    def trials(self, name: str | Named) -> tuple[Trial, ...]:
        """The trials of a training, in order; ModelNotFound."""
        request = service.ListTrialsRequest(parent=full_name(COLLECTION, name))
        response = self._calls.pages(self._calls.stubs.models.ListTrials, request)
        return tuple(Trial.of(message) for message in response.trials)

    def watch(self, name: str | Named) -> Generator[Model]:
        """A model now and after each change, until its training has ended."""
        request = service.WatchModelRequest(name=full_name(COLLECTION, name))
        for message in self._calls.watch(self._calls.stubs.models.WatchModel, request):
            yield Model.of(message.model, self)

    def wait(self, name: str | Named) -> Model:
        """Waits until a training has ended and returns the model; raises the error of one that ends as FAILED.

        Also returns a model that is CANCELLED meanwhile, which keeps its best weights so far.
        """
        full = full_name(COLLECTION, name)
        self._calls.wait(f"train {bare_name(full)}", self.watch(full), progress.of_model)
        return self.get(full)

    def cancel(self, name: str | Named) -> Model:
        """Ends a training; the best weights so far are kept. ModelNotFound, or WrongState if it has ended."""
        request = service.CancelModelRequest(name=full_name(COLLECTION, name))
        return Model.of(self._calls.ask(self._calls.stubs.models.CancelModel, request), self)

    def delete(self, name: str | Named, *, force: bool = False) -> None:
        """Deletes a model with its trials and evaluations.

        Raises ModelNotFound, WrongState while it trains, and ModelInUse while an alias stands for it, unless `force`.
        """
        request = service.DeleteModelRequest(name=full_name(COLLECTION, name), force=force)
        self._calls.ask(self._calls.stubs.models.DeleteModel, request)

    def load(self, name: str | Named) -> LoadedModel:
        """Loads a model into the memory of a replica of the predictor, where it stays until it is unloaded or deleted.

        Its first prediction is then as fast as the others. Raises ModelNotFound, ModelNotReady, and QuotaExceeded if
        there is no room next to the models in use and those that stay.
        """
        request = prediction_service.LoadModelRequest(model_name=full_name(COLLECTION, name))
        return LoadedModel.of(self._calls.ask(self._calls.stubs.predictions.LoadModel, request))

    def unload(self, name: str | Named) -> None:
        """Removes a model from the memory of a replica until a prediction loads it again; ModelNotFound."""
        request = prediction_service.UnloadModelRequest(model_name=full_name(COLLECTION, name))
        self._calls.ask(self._calls.stubs.predictions.UnloadModel, request)

    def loaded(self) -> tuple[LoadedModel, ...]:
        """The models in the memory of the replica that answers, by name."""
        request = prediction_service.ListLoadedModelsRequest()
        response = self._calls.pages(self._calls.stubs.predictions.ListLoadedModels, request)
        return tuple(LoadedModel.of(message) for message in response.loaded_models)

    def export(
        self,
        name: str | Named,
        path: str | Path = ".",
        *,
        format: ModelFormat | str = ModelFormat.ONNX,  # noqa: A002 - what it is called everywhere else
    ) -> ModelExport:
        """Writes the model as an archive that runs without the suite, and returns where it is.

        `path` is a file, which is replaced only by a whole archive, or a folder. A worker makes the archive first,
        once for a version and format: waits until it has. An interrupted stream continues where it was.
        Raises ModelNotFound, ModelNotReady, ExportUnavailable if the format cannot hold the model, and ExportRefused if
        there is no such folder.
        """
        return receive(self._calls, ArchiveDownload(name, Path(path), ModelFormat(format)))

    def _kind_for(self, dataset: str | Named) -> ModelKind:
        if isinstance(dataset, DatasetData):
            return kind_for(dataset)
        request = dataset_service.GetDatasetRequest(name=full_name("datasets", dataset))
        return kind_for(DatasetData.of(self._calls.ask(self._calls.stubs.datasets.GetDataset, request)))


class AsyncModels:
    """The models of an `AsyncClient`, with the methods of `Models`."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def train(
        self,
        name: str,
        *,
        dataset: str | Named,
        budget: Budget,
        test_dataset: str | Named | None = None,
        kind: ModelKind | str | None = None,
        display_name: str = "",
        base_model: str | Named | None = None,
        hyperparameters: Hyperparameters | None = None,
    ) -> AsyncModel:
        """As `Models.train`."""
        kind = ModelKind(kind) if kind else await self._kind_for(dataset)
        request = requests.create_model(
            name, kind, dataset, test_dataset, budget, display_name, base_model, hyperparameters
        )
        return AsyncModel.of(await self._calls.ask(self._calls.stubs.models.CreateModel, request), self)

    async def estimate(
        self,
        *,
        dataset: str | Named,
        test_dataset: str | Named | None = None,
        kind: ModelKind | str | None = None,
        base_model: str | Named | None = None,
        hyperparameters: Hyperparameters | None = None,
        timeout: float = ESTIMATE_SECONDS,  # noqa: ASYNC109 - the call's deadline, which gRPC keeps
    ) -> Estimate:
        """As `Models.estimate`. Cancelling the call ends the measurement."""
        kind = ModelKind(kind) if kind else await self._kind_for(dataset)
        request = requests.estimate_training(kind, dataset, test_dataset, base_model, hyperparameters)
        rpc = partial(self._calls.stubs.models.EstimateTraining, timeout=timeout)
        return Estimate.of(await self._calls.ask(rpc, request))

    async def get(self, name: str | Named) -> AsyncModel:
        """One model, with its ledger and everything that was measured; ModelNotFound."""
        request = service.GetModelRequest(name=full_name(COLLECTION, name), view=model_pb2.Model.FULL)
        return AsyncModel.of(await self._calls.ask(self._calls.stubs.models.GetModel, request), self)

    async def advise(self, name: str | Named) -> tuple[Advice, ...]:
        """As `Models.advise`."""
        return advice(await self.get(name))

    async def compare(
        self, first: str | Named, second: str | Named, *, dataset: str | Named | None = None
    ) -> ModelComparison:
        """As `Models.compare`."""
        return await comparing.compare_async(self._calls, first, second, dataset)

    async def list(self) -> tuple[AsyncModel, ...]:
        """All models, by name."""
        response = await self._calls.pages(self._calls.stubs.models.ListModels, service.ListModelsRequest())
        return tuple(AsyncModel.of(message, self) for message in response.models)

    async def trials(self, name: str | Named) -> tuple[Trial, ...]:
        """The trials of a training, in order; ModelNotFound."""
        request = service.ListTrialsRequest(parent=full_name(COLLECTION, name))
        response = await self._calls.pages(self._calls.stubs.models.ListTrials, request)
        return tuple(Trial.of(message) for message in response.trials)

    async def watch(self, name: str | Named) -> AsyncGenerator[AsyncModel]:
        """A model now and after each change, until its training has ended."""
        request = service.WatchModelRequest(name=full_name(COLLECTION, name))
        async for message in self._calls.watch(self._calls.stubs.models.WatchModel, request):
            yield AsyncModel.of(message.model, self)

    async def wait(self, name: str | Named) -> AsyncModel:
        """As `Models.wait`."""
        full = full_name(COLLECTION, name)
        await self._calls.wait(f"train {bare_name(full)}", self.watch(full), progress.of_model)
        return await self.get(full)

    async def cancel(self, name: str | Named) -> AsyncModel:
        """Ends a training; the best weights so far are kept. ModelNotFound, or WrongState if it has ended."""
        request = service.CancelModelRequest(name=full_name(COLLECTION, name))
        return AsyncModel.of(await self._calls.ask(self._calls.stubs.models.CancelModel, request), self)

    async def delete(self, name: str | Named, *, force: bool = False) -> None:
        """As `Models.delete`."""
        request = service.DeleteModelRequest(name=full_name(COLLECTION, name), force=force)
        await self._calls.ask(self._calls.stubs.models.DeleteModel, request)

    async def load(self, name: str | Named) -> LoadedModel:
        """As `Models.load`."""
        request = prediction_service.LoadModelRequest(model_name=full_name(COLLECTION, name))
        return LoadedModel.of(await self._calls.ask(self._calls.stubs.predictions.LoadModel, request))

    async def unload(self, name: str | Named) -> None:
        """As `Models.unload`."""
        request = prediction_service.UnloadModelRequest(model_name=full_name(COLLECTION, name))
        await self._calls.ask(self._calls.stubs.predictions.UnloadModel, request)

    async def loaded(self) -> tuple[LoadedModel, ...]:
        """As `Models.loaded`."""
        request = prediction_service.ListLoadedModelsRequest()
        response = await self._calls.pages(self._calls.stubs.predictions.ListLoadedModels, request)
        return tuple(LoadedModel.of(message) for message in response.loaded_models)

    async def export(
        self,
        name: str | Named,
        path: str | Path = ".",
        *,
        format: ModelFormat | str = ModelFormat.ONNX,  # noqa: A002 - what it is called everywhere else
    ) -> ModelExport:
        """As `Models.export`; the file is written in threads."""
        return await receive_async(self._calls, ArchiveDownload(name, Path(path), ModelFormat(format)))

    async def _kind_for(self, dataset: str | Named) -> ModelKind:
        if isinstance(dataset, DatasetData):
            return kind_for(dataset)
        request = dataset_service.GetDatasetRequest(name=full_name("datasets", dataset))
        return kind_for(DatasetData.of(await self._calls.ask(self._calls.stubs.datasets.GetDataset, request)))


def kind_for(dataset: DatasetData) -> ModelKind:
    """The kind of model that fits the annotations of a dataset."""
    return KIND_FOR.get(dataset.kind, ModelKind.CLASSIFIER)
