"""Which evaluations of two models can be compared: the latest of what the models serve, on the same images."""

from collections.abc import Iterable, Iterator

from sightline.client.calls import AsyncCalls, Calls
from sightline.client.errors import EvaluationNotFound
from sightline.client.names import Named, bare_name, full_name
from sightline.client.results.model_comparison import ModelComparison
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import CompareEvaluationsRequest, ListEvaluationsRequest
from sightline.v1.model_pb2 import Model
from sightline.v1.model_service_pb2 import GetModelRequest

Side = tuple[Model, Iterable[Evaluation]]


def pairs(
    first: Model, of_first: Iterable[Evaluation], second: Model, of_second: Iterable[Evaluation]
) -> Iterator[tuple[Evaluation, Evaluation]]:
    """An evaluation of each, once for all images on which both were measured; the latest measured first."""
    found, others = _latest(first, of_first), _latest(second, of_second)
    both = [(found[digest], others[digest]) for digest in found.keys() & others.keys()]
    yield from sorted(both, key=lambda pair: (-min(map(_ended, pair)), pair[0].name, pair[1].name))


def compare(calls: Calls, first: str | Named, second: str | Named, dataset: str | Named | None) -> ModelComparison:
    """Asks for the comparison on a dataset, or on the one measured latest; EvaluationNotFound says what to measure."""
    models = [calls.ask(calls.stubs.models.GetModel, _named(name)) for name in (first, second)]
    listed = [calls.pages(calls.stubs.evaluations.ListEvaluations, _listed(model)) for model in models]
    request = _request((models[0], listed[0].evaluations), (models[1], listed[1].evaluations), dataset)
    return ModelComparison.of(request, calls.ask(calls.stubs.evaluations.CompareEvaluations, request))


async def compare_async(
    calls: AsyncCalls, first: str | Named, second: str | Named, dataset: str | Named | None
) -> ModelComparison:
    """As `compare`."""
    models = [await calls.ask(calls.stubs.models.GetModel, _named(name)) for name in (first, second)]
    listed = [await calls.pages(calls.stubs.evaluations.ListEvaluations, _listed(model)) for model in models]
    request = _request((models[0], listed[0].evaluations), (models[1], listed[1].evaluations), dataset)
    return ModelComparison.of(request, await calls.ask(calls.stubs.evaluations.CompareEvaluations, request))


def _named(model: str | Named) -> GetModelRequest:
    return GetModelRequest(name=full_name("models", model))


def _listed(model: Model) -> ListEvaluationsRequest:
    return ListEvaluationsRequest(parent=model.name)


def _request(first: Side, second: Side, dataset: str | Named | None) -> CompareEvaluationsRequest:
    wanted = full_name("datasets", dataset) if dataset else ""
    for one, other in pairs(*first, *second):
        if wanted in ("", one.test_dataset, other.test_dataset):
            return CompareEvaluationsRequest(first_evaluation=one.name, second_evaluation=other.name)
    names = [model.name for model, _ in (first, second)]
    where = f"the same images of {wanted}" if wanted else "the same images"
    commands = (
        f"`sightline evaluations create {bare_name(name)} NAME --dataset {bare_name(wanted) or 'T'}`" for name in names
    )
    message = f"The present versions of {names[0]} and {names[1]} were not both measured on {where}."
    raise EvaluationNotFound(message, fix="measure both: " + " and ".join(commands))


def _latest(model: Model, evaluations: Iterable[Evaluation]) -> dict[str, Evaluation]:
    """Of the version that the model serves, by the digest of the images."""
    ended = (
        one
        for one in evaluations
        if one.state == Evaluation.SUCCEEDED and one.model_version == model.model_version and one.snapshot_digest
    )
    return {one.snapshot_digest: one for one in sorted(ended, key=_ended)}


def _ended(evaluation: Evaluation) -> int:
    return evaluation.end_time.ToNanoseconds()
