"""Retraining: a Model resource with `retrainWhen` trains again when its dataset has other images.

Law: what is to be trained stands in the status before it is trained, under a name that follows from the resource and
the dataset's version, and every step reads what the suite has first. So each step can be repeated, by a restarted
operator or by two at once; a version is trained once, and the alias is switched only from the model that was compared.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from services.operator.conditions import LATER, SOON, condition_of, is_away, message_of
from services.operator.resource import UP_TO_DATE, Condition, Resource
from services.operator.retrained import (
    Phase,
    Retraining,
    begun,
    in_status,
    min_interval,
    retrained,
    superfluous,
    wanted,
)
from services.operator.spec import gone
from sightline.client.calls import AsyncCalls
from sightline.client.errors import (
    InvalidArgument,
    ModelAliasNotFound,
    ModelInUse,
    ModelNotFound,
    NotEnoughBudget,
    NotFound,
    SightlineError,
    WrongState,
)
from sightline.client.names import bare_name
from sightline.client.results.model_comparison import ModelComparison
from sightline.plurals import counted
from sightline.v1 import dataset_service_pb2 as datasets
from sightline.v1 import evaluation_service_pb2 as evaluations
from sightline.v1 import model_alias_service_pb2 as aliases
from sightline.v1 import model_service_pb2 as models
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.model_pb2 import Model

RETRAINING_REASONS = frozenset({"RetrainingWaits", "Retraining", "Comparing"})  # while nothing is wrong
REASONS = {Phase.WORSE: "ModelWorse", Phase.NOT_COMPARED: "NotCompared", Phase.FAILED: "RetrainingFailed"}
ENDED = Model.SUCCEEDED, Model.FAILED, Model.CANCELLED


@dataclass(frozen=True, slots=True)
class Advance:
    """What a step of the retraining found or did."""

    status: dict[str, Any]
    condition: Condition
    serving: Model  # whose state is shown: what serves, or the first model
    awaited: tuple[str, Any] | None = None  # a kind, and what should change before the next step
    delay_seconds: float = 0.0  # until the next step, if nothing is awaited; 0: as usual


def is_retrained(resource: Resource) -> bool:
    """Whether the resource retrains, or has retrained."""
    return resource.kind == "Model" and bool(resource.spec.get("retrainWhen") or retrained(resource))


async def delete(calls: AsyncCalls, model: str) -> bool:
    """Deletes a model, or cancels its training first; whether it is gone. ModelInUse if an alias stands for it."""
    try:
        return await gone(calls.ask(calls.stubs.models.DeleteModel, models.DeleteModelRequest(name=model)))
    except WrongState:
        with suppress(WrongState):  # it has ended meanwhile
            await gone(calls.ask(calls.stubs.models.CancelModel, models.CancelModelRequest(name=model)))
    return False


async def delete_evaluations(calls: AsyncCalls, one: Retraining) -> None:
    """Deletes the evaluations that were made of another model, to compare it with a retraining's."""
    if not one.compared_with:
        return
    stub, request = calls.stubs.evaluations, evaluations.ListEvaluationsRequest(parent=one.compared_with)
    with suppress(NotFound):
        for found in (await calls.pages(stub.ListEvaluations, request)).evaluations:
            if bare_name(found.name).startswith(f"{one.id}-"):
                await gone(calls.ask(stub.DeleteEvaluation, evaluations.DeleteEvaluationRequest(name=found.name)))


async def advance(calls: AsyncCalls, resource: Resource, first: Model, now: datetime) -> Advance:
    """Takes a step. SightlineError if the suite does not answer; what else it refuses is in the condition.

    `first` is the model that the resource trained first, and has ended. json_format.ParseError.
    """
    if not resource.spec.get("alias") or not resource.spec.get("evaluationParameters"):
        message = "retrainWhen needs alias and evaluationParameters, to compare what it trains with what serves."
        return Advance({}, Condition(UP_TO_DATE, "False", "InvalidSpec", message), first)
    try:
        serving = await _serving(calls, resource)
    except ModelAliasNotFound:
        serving = None
        if resource.status.get("alias") == resource.spec["alias"]:
            message = f"Somebody has deleted {_alias(resource)}: nothing is trained until it is set again."
            return Advance({"servingModel": ""}, Condition(UP_TO_DATE, "False", "AliasDeleted", message), first)
    taken = _Steps(calls, resource, first, serving, now)
    try:
        return await taken.next()
    except SightlineError as error:
        if is_away(error):
            raise
        condition, delay = condition_of(error)
        condition = replace(condition, type=UP_TO_DATE, status="False")
        return replace(taken.stay(), condition=condition, delay_seconds=delay)


class _Steps:
    """The steps of one resource. Each returns what the status has to remember before the next is taken."""

    def __init__(
        self, calls: AsyncCalls, resource: Resource, first: Model, serving: Model | None, now: datetime
    ) -> None:
        self._calls, self._resource, self._first, self._serving, self._now = calls, resource, first, serving, now
        self._entries = retrained(resource)
        self._test: str = resource.contract["evaluationParameters"]["testDataset"]
        self._dataset: str = resource.contract["trainingParameters"]["trainingDataset"]

    async def next(self) -> Advance:
        """The next step."""
        for old in superfluous(self._resource, self._serving_name):
            with suppress(ModelInUse):  # if another alias stands for it, it is kept until that is gone
                if await delete(self._calls, old.model):
                    await delete_evaluations(self._calls, old)
                    self._entries.remove(old)
                    return self.stay()
        latest = self._entries[0] if self._entries else None
        if latest is None or latest.has_ended:
            return await self._look(latest)
        if latest.phase is Phase.TRAINING:
            return await self._train(latest)
        return await (self._compare(latest) if latest.phase is Phase.COMPARING else self._switch(latest))

    def stay(self, **changes: Any) -> Advance:
        """The latest retraining as it is, or with changes: then the status remembers them before the next step."""
        awaited, delay = changes.pop("awaited", None), changes.pop("delay_seconds", 0.0)
        if changes:
            self._entries[0] = msgspec.structs.replace(self._entries[0], **changes)
        status = {"retrained": in_status(self._entries), "servingModel": self._serving_name}
        return Advance(status, self._condition(), self._serving or self._first, awaited, delay)

    async def _look(self, latest: Retraining | None) -> Advance:
        """Begins a retraining if the dataset is another than the one trained on last, and it is time."""
        if not self._resource.spec.get("retrainWhen") or (latest is None and self._first.state == Model.CANCELLED):
            return self.stay()
        dataset = await self._get_dataset(self._dataset)
        known = latest.dataset_digest if latest else self._first.snapshot_digest
        if dataset.state != Dataset.READY or dataset.snapshot_digest == known:
            return self.stay()
        last = latest.start_time if latest else self._first.create_time.ToDatetime(self._now.tzinfo)
        due = last + min_interval(self._resource)
        if self._now < due:
            message = f"Version {dataset.version} of {dataset.name} is trained on from {due:%Y-%m-%dT%H:%M:%SZ} on."
            waits = Condition(UP_TO_DATE, "False", "RetrainingWaits", message)
            return replace(self.stay(delay_seconds=(due - self._now).total_seconds()), condition=waits)
        self._entries.insert(0, begun(self._resource, dataset.version, dataset.snapshot_digest, self._now))
        return self.stay()

    async def _train(self, latest: Retraining) -> Advance:
        if not latest.created:
            return await self._create(latest)
        try:
            model = await self._get_model(latest.model)
        except NotFound:
            return self._end(Phase.FAILED, _deleted(latest))
        if model.state not in ENDED:
            return self.stay(awaited=("Model", model))
        if model.state == Model.CANCELLED:
            return self._end(Phase.FAILED, f"The training of {latest.model} was cancelled.")
        if model.state == Model.FAILED:
            return self._end(Phase.FAILED, f"The training of {latest.model} failed: {model.error.message}")
        return self.stay(
            phase=Phase.COMPARING,
            dataset_version=model.training_dataset_version,
            dataset_digest=model.snapshot_digest,  # there may have been another version by the time it began
        )

    async def _create(self, latest: Retraining) -> Advance:
        request = models.CreateModelRequest(
            model=wanted(self._resource),
            model_id=latest.id,
            request_id=f"{self._resource.uid}-{latest.dataset_version}-{latest.dataset_digest[-16:]}",
        )
        try:
            await self._calls.ask(self._calls.stubs.models.CreateModel, request)
        except InvalidArgument as error:
            return self._end(Phase.FAILED, message_of(error))
        except NotEnoughBudget as error:
            message = f"{error.message} Fix: set spec.retrainTimeBudget."
            condition = Condition(UP_TO_DATE, "False", "NotEnoughBudget", message)
            return replace(self.stay(delay_seconds=LATER), condition=condition)
        return self.stay(created=True)

    async def _compare(self, latest: Retraining) -> Advance:
        """Measures the serving model and the new one on the same images, and tests whether the new one is worse."""
        serving = self._serving
        if serving is None:
            return self.stay(phase=Phase.SWITCHING, compared_with="", message="Nothing served before it.")
        if serving.name == latest.model:
            return self._end(Phase.REPLACED, "Somebody has switched the alias to it.")
        if serving.name != latest.compared_with:
            await delete_evaluations(self._calls, latest)
            return self.stay(compared_with=serving.name)
        try:
            challenger = await self._get_model(latest.model)
        except NotFound:
            return self._end(Phase.FAILED, _deleted(latest))
        test = await self._get_dataset(self._test)
        if test.state != Dataset.READY:
            return self.stay(delay_seconds=SOON)
        try:
            first = await self._measured(serving, test, latest.id)
            second = await self._measured(challenger, test, latest.id)
            for one in (first, second):
                if one.state == Evaluation.FAILED:
                    return self._end(Phase.NOT_COMPARED, f"{one.name} failed: {one.error.message}")
                if one.state != Evaluation.SUCCEEDED:
                    return self.stay(awaited=("Evaluation", one))
                if one.snapshot_digest != test.snapshot_digest:  # there is another version since
                    return self.stay(delay_seconds=SOON)
            request = evaluations.CompareEvaluationsRequest(first_evaluation=first.name, second_evaluation=second.name)
            rpc = self._calls.stubs.evaluations.CompareEvaluations
            compared = ModelComparison.of(request, await self._calls.ask(rpc, request))
        except InvalidArgument as error:
            return self._end(Phase.NOT_COMPARED, message_of(error))
        if compared.better == compared.first:
            return self._end(Phase.WORSE, _verdict(compared, test))
        return self.stay(phase=Phase.SWITCHING, message=_verdict(compared, test))

    async def _switch(self, latest: Retraining) -> Advance:
        """Switches the alias, unless it stands for another model than the one that was compared."""
        name, etag, stub = _alias(self._resource), "", self._calls.stubs.aliases
        with suppress(ModelAliasNotFound):
            etag = (await self._calls.ask(stub.GetModelAlias, aliases.GetModelAliasRequest(name=name))).etag
            self._serving = await _serving(self._calls, self._resource)
        if self._serving_name not in (latest.compared_with, latest.model):
            return self.stay(phase=Phase.COMPARING)
        try:
            found = await self._get_model(latest.model)
            request = aliases.SetModelAliasRequest(name=name, model=latest.model, etag=etag)
            await self._calls.ask(stub.SetModelAlias, request)
        except ModelAliasNotFound:
            raise
        except ModelNotFound:
            return self._end(Phase.FAILED, _deleted(latest))
        self._serving = found
        ended = self.stay(phase=Phase.REPLACED)
        return replace(ended, status=ended.status | {"alias": self._resource.spec["alias"]})

    @property
    def _serving_name(self) -> str:
        return self._serving.name if self._serving else ""

    async def _measured(self, model: Model, test: Dataset, id_: str) -> Evaluation:
        """The evaluation of what a model serves on the test images; created if there is none that has not failed."""
        stub = self._calls.stubs.evaluations
        listed = await self._calls.pages(stub.ListEvaluations, evaluations.ListEvaluationsRequest(parent=model.name))
        fitting = [
            one
            for one in listed.evaluations
            if (one.snapshot_digest, one.model_version) == (test.snapshot_digest, model.model_version)
            and one.state != Evaluation.FAILED
        ]
        if fitting:
            return max(fitting, key=lambda one: (one.state == Evaluation.SUCCEEDED, one.name))
        request = evaluations.CreateEvaluationRequest(
            parent=model.name,
            evaluation=Evaluation(test_dataset=test.name),
            evaluation_id=f"{id_}-test-v{test.version}-{test.snapshot_digest[-8:]}",
            request_id=self._resource.uid,
        )
        return await self._calls.ask(stub.CreateEvaluation, request)

    async def _get_model(self, name: str) -> Model:
        return await self._calls.ask(self._calls.stubs.models.GetModel, models.GetModelRequest(name=name))

    async def _get_dataset(self, name: str) -> Dataset:
        return await self._calls.ask(self._calls.stubs.datasets.GetDataset, datasets.GetDatasetRequest(name=name))

    def _end(self, phase: Phase, message: str) -> Advance:
        return self.stay(phase=phase, message=message)

    def _condition(self) -> Condition:
        """What the latest retraining means for what serves."""
        if not self._entries:
            return Condition(UP_TO_DATE, "True", "DatasetUnchanged")
        latest, serves = self._entries[0], self._serving_name or "nothing"
        if latest.phase is Phase.TRAINING:
            message = f"{latest.model} is trained on version {latest.dataset_version} of {self._dataset}."
            return Condition(UP_TO_DATE, "False", "Retraining", message)
        if not latest.has_ended:
            message = f"{latest.model} is compared with what serves, on {self._test}."
            return Condition(UP_TO_DATE, "False", "Comparing", message)
        if serves == latest.model:
            return Condition(UP_TO_DATE, "True", "ModelReplaced", latest.message)
        if latest.phase is Phase.REPLACED:
            message = f"Somebody has switched {_alias(self._resource)} from {latest.model} to {serves}."
            return Condition(UP_TO_DATE, "False", "SwitchedBySomebody", message)
        return Condition(UP_TO_DATE, "False", REASONS[latest.phase], f"{latest.message} {serves} goes on serving.")


def _alias(resource: Resource) -> str:
    return f"models/{resource.name}@{resource.spec['alias']}"


async def _serving(calls: AsyncCalls, resource: Resource) -> Model | None:
    """The model for which the alias stands; None if that has been deleted. ModelAliasNotFound."""
    try:
        return await calls.ask(calls.stubs.models.GetModel, models.GetModelRequest(name=_alias(resource)))
    except ModelAliasNotFound:
        raise
    except ModelNotFound:
        return None


def _deleted(latest: Retraining) -> str:
    return f"Somebody has deleted {latest.model} in Sightline."


def _verdict(compared: ModelComparison, test: Dataset) -> str:
    left_out = f" (without {compared.left_out_image_count} that one of them cannot know)"
    images = f"{counted(compared.image_count, 'image')} of {test.name}"
    return (
        f"On {images}{left_out if compared.left_out_image_count else ''}, "
        f"{compared.metric} is {compared.first_value:.3f} of {compared.first.split('/')[1]} and "
        f"{compared.second_value:.3f} of {compared.second.split('/')[1]}: {compared.verdict}."
    )
