"""`client.evaluations`: measure a model on any dataset."""

from collections.abc import AsyncGenerator, Generator

from sightline.client import progress, requests
from sightline.client.calls import AsyncCalls, Calls
from sightline.client.names import Named, bare_name, full_name
from sightline.client.results.evaluation import AsyncEvaluation, Evaluation
from sightline.client.results.model_comparison import ModelComparison
from sightline.v1 import evaluation_pb2
from sightline.v1 import evaluation_service_pb2 as service


class Evaluations:
    """The evaluations of a `Client`. A name is a full name, `models/birds/evaluations/held-out`, or the evaluation."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(self, model: str | Named, name: str, *, dataset: str | Named, wait: bool = True) -> Evaluation:
        """Measures the model's current version on a dataset.

        Raises EvaluationAlreadyExists, ModelNotFound, ModelNotReady, DatasetNotFound, DatasetNotReady,
        IncorrectModelKind or CategoriesUnknown, and, while waiting, the error of an evaluation that ends as FAILED.
        """
        request = requests.create_evaluation(model, name, dataset)
        made = Evaluation.of(self._calls.ask(self._calls.stubs.evaluations.CreateEvaluation, request), self)
        return self.wait(made) if wait else made

    def get(self, name: str | Named) -> Evaluation:
        """One evaluation, with its confusion matrix; EvaluationNotFound."""
        request = service.GetEvaluationRequest(name=_full(name), view=evaluation_pb2.Evaluation.FULL)
        return Evaluation.of(self._calls.ask(self._calls.stubs.evaluations.GetEvaluation, request), self)

    def list(self, model: str | Named) -> tuple[Evaluation, ...]:
        """The evaluations of a model, by name; ModelNotFound."""
        request = service.ListEvaluationsRequest(parent=full_name("models", model))
        response = self._calls.pages(self._calls.stubs.evaluations.ListEvaluations, request)
        return tuple(Evaluation.of(message, self) for message in response.evaluations)

    def watch(self, name: str | Named) -> Generator[Evaluation]:
        """An evaluation now and after each change, until it has ended."""
        request = service.WatchEvaluationRequest(name=_full(name))
        for message in self._calls.watch(self._calls.stubs.evaluations.WatchEvaluation, request):
            yield Evaluation.of(message.evaluation, self)

    def wait(self, name: str | Named) -> Evaluation:
        """Waits until an evaluation has ended and returns it; raises the error of one that ends as FAILED."""
        self._calls.wait(f"evaluate {bare_name(_full(name))}", self.watch(name), progress.of_evaluation)
        return self.get(name)

    def compare(self, first: str | Named, second: str | Named) -> ModelComparison:
        """Which of two models is better, by a paired test of two evaluations of the same images.

        Raises EvaluationNotFound, WrongState unless both have SUCCEEDED, and InvalidRequest if they are of different
        images.
        """
        request = service.CompareEvaluationsRequest(first_evaluation=_full(first), second_evaluation=_full(second))
        return ModelComparison.of(request, self._calls.ask(self._calls.stubs.evaluations.CompareEvaluations, request))

    def delete(self, name: str | Named) -> None:
        """Deletes an evaluation; EvaluationNotFound."""
        request = service.DeleteEvaluationRequest(name=_full(name))
        self._calls.ask(self._calls.stubs.evaluations.DeleteEvaluation, request)


class AsyncEvaluations:
    """The evaluations of an `AsyncClient`, with the methods of `Evaluations`."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def create(
        self, model: str | Named, name: str, *, dataset: str | Named, wait: bool = True
    ) -> AsyncEvaluation:
        """As `Evaluations.create`."""
        request = requests.create_evaluation(model, name, dataset)
        made = AsyncEvaluation.of(await self._calls.ask(self._calls.stubs.evaluations.CreateEvaluation, request), self)
        return await self.wait(made) if wait else made

    async def get(self, name: str | Named) -> AsyncEvaluation:
        """One evaluation, with its confusion matrix; EvaluationNotFound."""
        request = service.GetEvaluationRequest(name=_full(name), view=evaluation_pb2.Evaluation.FULL)
        return AsyncEvaluation.of(await self._calls.ask(self._calls.stubs.evaluations.GetEvaluation, request), self)

    async def list(self, model: str | Named) -> tuple[AsyncEvaluation, ...]:
        """The evaluations of a model, by name; ModelNotFound."""
        request = service.ListEvaluationsRequest(parent=full_name("models", model))
        response = await self._calls.pages(self._calls.stubs.evaluations.ListEvaluations, request)
        return tuple(AsyncEvaluation.of(message, self) for message in response.evaluations)

    async def watch(self, name: str | Named) -> AsyncGenerator[AsyncEvaluation]:
        """An evaluation now and after each change, until it has ended."""
        request = service.WatchEvaluationRequest(name=_full(name))
        async for message in self._calls.watch(self._calls.stubs.evaluations.WatchEvaluation, request):
            yield AsyncEvaluation.of(message.evaluation, self)

    async def wait(self, name: str | Named) -> AsyncEvaluation:
        """Waits until an evaluation has ended and returns it; raises the error of one that ends as FAILED."""
        await self._calls.wait(f"evaluate {bare_name(_full(name))}", self.watch(name), progress.of_evaluation)
        return await self.get(name)

    async def compare(self, first: str | Named, second: str | Named) -> ModelComparison:
        """As `Evaluations.compare`."""
        request = service.CompareEvaluationsRequest(first_evaluation=_full(first), second_evaluation=_full(second))
        rpc = self._calls.stubs.evaluations.CompareEvaluations
        return ModelComparison.of(request, await self._calls.ask(rpc, request))

    async def delete(self, name: str | Named) -> None:
        """Deletes an evaluation; EvaluationNotFound."""
        request = service.DeleteEvaluationRequest(name=_full(name))
        await self._calls.ask(self._calls.stubs.evaluations.DeleteEvaluation, request)


def _full(name: str | Named) -> str:
    return full_name("models", name)
