"""What the operator does with each kind of resource, as calls of the contract."""

import hashlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from services.operator.models import Models
from services.operator.resource import Resource
from services.operator.spec import MASK, changed, gone, own_fields, parsed, seconds
from sightline.client.calls import AsyncCalls
from sightline.client.errors import NotFound
from sightline.v1 import batch_prediction_pb2, dataset_pb2, evaluation_pb2
from sightline.v1 import dataset_service_pb2 as datasets
from sightline.v1 import evaluation_service_pb2 as evaluations
from sightline.v1 import prediction_service_pb2 as predictions

Found = Any  # a message of the contract, of the kind in question


class Kind(Protocol):
    """One kind. Every method raises the errors of `sightline.client.errors`.

    Law: `create` can be repeated, also by another replica at the same time, and creates once.
    """

    plural: str

    def name_of(self, resource: Resource) -> str:
        """Its name in the contract."""
        ...

    async def create(self, calls: AsyncCalls, resource: Resource) -> Found:
        """Creates it; what this resource has created already, if it is repeated. json_format.ParseError."""
        ...

    async def get(self, calls: AsyncCalls, name: str) -> Found:
        """It as it is now."""
        ...

    async def update(self, calls: AsyncCalls, resource: Resource, found: Found) -> Found:
        """Brings it to what the spec says, as far as that may change."""
        ...

    async def finish(self, calls: AsyncCalls, resource: Resource, found: Found) -> dict[str, Any]:
        """What is due once it has ended; what the status remembers of that."""
        ...

    def watch(self, calls: AsyncCalls, name: str) -> AsyncGenerator[Found]:
        """It after every change, until it has ended."""
        ...

    async def remove(self, calls: AsyncCalls, resource: Resource, name: str) -> bool:
        """Deletes it, or takes a step towards that; whether it is gone."""
        ...

    def has_ended(self, found: Found) -> bool:
        """Whether nothing happens to it any more by itself."""
        ...

    def summary(self, found: Found) -> dict[str, Any]:
        """What the status shows of it."""
        ...


class _Defaults:
    """Nothing can be updated, and nothing is due at the end, unless a kind says otherwise."""

    async def update(self, calls: AsyncCalls, resource: Resource, found: Found) -> Found:
        return found

    async def finish(self, calls: AsyncCalls, resource: Resource, found: Found) -> dict[str, Any]:
        return {}


class Datasets(_Defaults):
    """Datasets. Other annotation files make the next version."""

    plural = "datasets"

    def name_of(self, resource: Resource) -> str:
        return f"datasets/{resource.name}"

    async def create(self, calls: AsyncCalls, resource: Resource) -> dataset_pb2.Dataset:
        return await self._register(calls, resource)

    async def _register(self, calls: AsyncCalls, resource: Resource, after: int = 0) -> dataset_pb2.Dataset:
        """Registers the files, after a version as the next one. Going back to earlier files makes a version too."""
        dataset = parsed(resource, dataset_pb2.Dataset())
        files = hashlib.sha256("\n".join(dataset.annotation_file_uris).encode()).hexdigest()[:16]
        request = datasets.CreateDatasetRequest(
            dataset=dataset,
            dataset_id=resource.name,
            request_id=f"{resource.uid}-{after}-{files}" if after else resource.uid,
            new_version=bool(after),
        )
        return await calls.ask(calls.stubs.datasets.CreateDataset, request)

    async def get(self, calls: AsyncCalls, name: str) -> dataset_pb2.Dataset:
        return await calls.ask(calls.stubs.datasets.GetDataset, datasets.GetDatasetRequest(name=name))

    async def update(self, calls: AsyncCalls, resource: Resource, found: dataset_pb2.Dataset) -> dataset_pb2.Dataset:
        wanted = parsed(resource, dataset_pb2.Dataset())
        if list(wanted.annotation_file_uris) != list(found.annotation_file_uris) and self.has_ended(found):
            found = await self._register(calls, resource, after=found.version)
        if own_fields(wanted) != own_fields(found):
            request = datasets.UpdateDatasetRequest(dataset=changed(wanted, found), update_mask=MASK)
            found = await calls.ask(calls.stubs.datasets.UpdateDataset, request)
        return found

    async def watch(self, calls: AsyncCalls, name: str) -> AsyncGenerator[dataset_pb2.Dataset]:
        request = datasets.WatchDatasetRequest(name=name)
        async for message in calls.watch(calls.stubs.datasets.WatchDataset, request):
            yield message.dataset

    async def remove(self, calls: AsyncCalls, resource: Resource, name: str) -> bool:
        return await gone(calls.ask(calls.stubs.datasets.DeleteDataset, datasets.DeleteDatasetRequest(name=name)))

    def has_ended(self, found: dataset_pb2.Dataset) -> bool:
        return found.state in (dataset_pb2.Dataset.READY, dataset_pb2.Dataset.FAILED)

    def summary(self, found: dataset_pb2.Dataset) -> dict[str, Any]:
        return {
            "state": dataset_pb2.Dataset.State.Name(found.state),
            "progress": f"{found.progress.fraction:.0%}",
            "images": found.stats.image_count,
            "version": str(found.version),
        }


class Evaluations(_Defaults):
    """Evaluations of the model that the spec names."""

    plural = "evaluations"

    def name_of(self, resource: Resource) -> str:
        """Of an alias, the evaluation belongs to the model for which it stood: the status has its name then."""
        return str(resource.status.get("resourceName") or f"{resource.spec['model']}/evaluations/{resource.name}")

    async def create(self, calls: AsyncCalls, resource: Resource) -> evaluation_pb2.Evaluation:
        request = evaluations.CreateEvaluationRequest(
            parent=resource.spec["model"],
            evaluation=parsed(resource, evaluation_pb2.Evaluation()),
            evaluation_id=resource.name,
            request_id=resource.uid,
        )
        return await calls.ask(calls.stubs.evaluations.CreateEvaluation, request)

    async def get(self, calls: AsyncCalls, name: str) -> evaluation_pb2.Evaluation:
        request = evaluations.GetEvaluationRequest(name=name)
        return await calls.ask(calls.stubs.evaluations.GetEvaluation, request)

    async def watch(self, calls: AsyncCalls, name: str) -> AsyncGenerator[evaluation_pb2.Evaluation]:
        request = evaluations.WatchEvaluationRequest(name=name)
        async for message in calls.watch(calls.stubs.evaluations.WatchEvaluation, request):
            yield message.evaluation

    async def remove(self, calls: AsyncCalls, resource: Resource, name: str) -> bool:
        request = evaluations.DeleteEvaluationRequest(name=name)
        return await gone(calls.ask(calls.stubs.evaluations.DeleteEvaluation, request))

    def has_ended(self, found: evaluation_pb2.Evaluation) -> bool:
        return found.state in (evaluation_pb2.Evaluation.SUCCEEDED, evaluation_pb2.Evaluation.FAILED)

    def summary(self, found: evaluation_pb2.Evaluation) -> dict[str, Any]:
        performance = found.performance
        metric = ""
        for name in ("accuracy_top1", "mean_average_precision_50"):
            if performance.HasField(name):
                metric = f"{name} {getattr(performance, name):.3f}"
        return {
            "state": evaluation_pb2.Evaluation.State.Name(found.state),
            "progress": f"{found.progress:.0%}",
            "metric": metric,
            "cost": seconds(found.cost),
            "version": found.model_version,
        }


class BatchPredictions(_Defaults):
    """Batch predictions."""

    plural = "batchpredictions"

    def name_of(self, resource: Resource) -> str:
        return f"batchPredictions/{resource.name}"

    async def create(self, calls: AsyncCalls, resource: Resource) -> batch_prediction_pb2.BatchPrediction:
        request = predictions.CreateBatchPredictionRequest(
            batch_prediction=parsed(resource, batch_prediction_pb2.BatchPrediction()),
            batch_prediction_id=resource.name,
            request_id=resource.uid,
        )
        return await calls.ask(calls.stubs.predictions.CreateBatchPrediction, request)

    async def get(self, calls: AsyncCalls, name: str) -> batch_prediction_pb2.BatchPrediction:
        request = predictions.GetBatchPredictionRequest(name=name)
        return await calls.ask(calls.stubs.predictions.GetBatchPrediction, request)

    async def watch(self, calls: AsyncCalls, name: str) -> AsyncGenerator[batch_prediction_pb2.BatchPrediction]:
        request = predictions.WatchBatchPredictionRequest(name=name)
        async for message in calls.watch(calls.stubs.predictions.WatchBatchPrediction, request):
            yield message.batch_prediction

    async def remove(self, calls: AsyncCalls, resource: Resource, name: str) -> bool:
        """Its id is free once its files are removed."""
        request = predictions.DeleteBatchPredictionRequest(name=name, force=True)
        try:
            await calls.ask(calls.stubs.predictions.DeleteBatchPrediction, request)
            await self.get(calls, name)
        except NotFound:
            return True
        return False

    def has_ended(self, found: batch_prediction_pb2.BatchPrediction) -> bool:
        of = batch_prediction_pb2.BatchPrediction
        return found.state in (of.SUCCEEDED, of.FAILED, of.CANCELLED)

    def summary(self, found: batch_prediction_pb2.BatchPrediction) -> dict[str, Any]:
        return {
            "state": batch_prediction_pb2.BatchPrediction.State.Name(found.state),
            "progress": f"{found.progress.fraction:.0%}",
            "cost": seconds(found.cost),
            "version": found.model_version,
            "resultUris": list(found.result_uris),
        }


KINDS: Mapping[str, Kind] = {
    "Dataset": Datasets(),
    "Model": Models(),
    "Evaluation": Evaluations(),
    "BatchPrediction": BatchPredictions(),
}
