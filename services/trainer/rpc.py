"""The ModelService, the EvaluationService and the ProjectService: message in, use case, message out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from services.kit import caller_fields, names
from services.kit.callers import current
from services.kit.clock import Clock
from services.kit.errors import Unavailable
from services.kit.records import Versioned
from services.trainer import estimate_wire, evaluation_wire, export_wire, trial_wire, wire
from services.trainer.app import Models
from services.trainer.domain import Draft, Model, scored_trial, served_trial
from services.trainer.estimates import Estimates
from services.trainer.evaluations import Evaluations
from services.trainer.exports import Exports, Making
from services.trainer.insight_wire import curve_message, doubt_message, entry_message, mistake_message
from services.trainer.planner.outlook import outlook
from services.trainer.progress_wire import NOTHING, Moment
from services.trainer.project_wire import project_message
from services.trainer.projects import Project, Projects
from services.trainer.store import Store
from services.trainer.waiting import Waits
from sightline.v1 import evaluation_pb2, model_pb2, project_pb2
from sightline.v1 import evaluation_service_pb2 as epb
from sightline.v1 import model_service_pb2 as pb
from sightline.v1 import project_service_pb2 as ppb
from sightline.v1.evaluation_service_pb2_grpc import EvaluationServiceServicer
from sightline.v1.model_service_pb2_grpc import ModelServiceServicer
from sightline.v1.project_service_pb2_grpc import ProjectServiceServicer

Context = aio.ServicerContext[Any, Any]


class ModelServicer(ModelServiceServicer):
    """Raises errors of our tree; the server runtime turns them into statuses."""

    def __init__(
        self,
        models: Models,
        estimates: Estimates,
        exports: Exports,
        store: Store,
        waits: Waits,
        bucket: str,
        clock: Clock,
    ) -> None:
        self._models = models
        self._estimates = estimates
        self._exports = exports
        self._store = store
        self._waits = waits
        self._bucket = bucket
        self._clock = clock

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> model_pb2.Model:
        draft = wire.model_from(request, self._clock)
        return self._basic(await self._models.create(draft, validate_only=request.validate_only))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> model_pb2.Model:
        found = await self._models.get(_reference(request.name))
        has_ledger = await self._store.settled(found.value)
        if request.view != model_pb2.Model.FULL:
            return await self._reported(found)
        if not has_ledger:
            raise Unavailable(what=f"The ledger of {found.value.name}", problem="this replica has not caught up")
        performance = await self._models.performance(found.value)
        trials, final = self._store.trials_of(found.value.name), self._store.final_of(found.value.name)
        moment = await self._moment(found.value)
        message = wire.model_message(found, trials, final, performance, moment, self._bucket, full=True)
        message.suggested_thresholds.update(await self._models.suggested_thresholds(found.value))
        message.leaderboard.extend(map(entry_message, await self._models.leaderboard(found.value)))
        if served := served_trial(found.value, trials):
            insight = await self._models.insight(scored_trial(served, trials))
            message.worst_mistakes.extend(map(mistake_message, insight.mistakes))
            message.doubts.extend(map(doubt_message, insight.doubts))
            message.learning_curve.CopyFrom(curve_message(*await self._models.learning_curve(trials)))
        return message

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        found, token = self._models.page(request.page_size, request.page_token)
        return pb.ListModelsResponse(models=[self._basic(model) for model in found], next_page_token=token)

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> model_pb2.Model:
        name = _model_name(request.model.name, "model.name")
        new = request.model
        changes = caller_fields.changes("model", request.update_mask.paths, new.display_name, new.custom_properties)
        return self._basic(await self._models.update(name, changes, new.etag))

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> Empty:
        await self._models.delete(_model_name(request.name), request.etag, force=request.force)
        return Empty()

    async def CancelModel(self, request: pb.CancelModelRequest, context: Context) -> model_pb2.Model:
        return self._basic(await self._models.cancel(_model_name(request.name)))

    async def WatchModel(self, request: pb.WatchModelRequest, context: Context) -> AsyncIterator[pb.WatchModelResponse]:
        sent = None
        async for found in self._models.watch(await _named(self._store, request.name)):
            await self._store.settled(found.value)
            message = pb.WatchModelResponse(model=await self._reported(found))
            if message != sent:
                yield message
            sent = message

    async def ListTrials(self, request: pb.ListTrialsRequest, context: Context) -> pb.ListTrialsResponse:
        parent = await _named(self._store, request.parent, "parent")
        found, token = await self._models.trials(parent, request.page_size, request.page_token)
        return pb.ListTrialsResponse(trials=[trial_wire.trial_message(trial) for trial in found], next_page_token=token)

    async def EstimateTraining(
        self, request: pb.EstimateTrainingRequest, context: Context
    ) -> pb.EstimateTrainingResponse:
        wanted = wire.estimated_from(request, self._clock)
        remaining = cast(float | None, context.time_remaining())  # None for a call without a deadline
        ended = await self._estimates.estimate(wanted, remaining)
        return estimate_wire.estimate_message(ended, outlook(ended))

    async def ExportModel(
        self, request: pb.ExportModelRequest, context: Context
    ) -> AsyncIterator[pb.ExportModelResponse]:
        name, form, offset = export_wire.wanted_from(request)
        name = await self._store.model_name(name)
        remaining = cast(float | None, context.time_remaining())
        async with aclosing(self._exports.made(name, form, remaining)) as steps:
            async for step in steps:
                if isinstance(step, Making):
                    yield export_wire.progress_message(step)
                    continue
                export, archive = step, step.delivered
                yield export_wire.header_message(export, archive)
                async for chunk in self._exports.read(export, archive, offset):
                    yield pb.ExportModelResponse(chunk=chunk)

    def _basic(self, found: Versioned[Model], moment: Moment = NOTHING) -> model_pb2.Model:
        trials, final = self._store.trials_of(found.value.name), self._store.final_of(found.value.name)
        return wire.model_message(found, trials, final, moment=moment, bucket=self._bucket)

    async def _reported(self, found: Versioned[Model]) -> model_pb2.Model:
        """The model, with its queue position and the reason why it waits."""
        return self._basic(found, await self._moment(found.value))

    async def _moment(self, model: Model) -> Moment:
        if model.ended:
            return NOTHING
        waiting = await self._waits.reason_of(model)
        return Moment(self._clock.now(), self._store.queue_position(model.name), waiting)


class EvaluationServicer(EvaluationServiceServicer):
    """Raises errors of our tree; the server runtime turns them into statuses."""

    def __init__(self, evaluations: Evaluations, store: Store) -> None:
        self._evaluations = evaluations
        self._store = store

    async def CreateEvaluation(
        self, request: epb.CreateEvaluationRequest, context: Context
    ) -> evaluation_pb2.Evaluation:
        draft = Draft(
            id=names.check_id(request.evaluation_id, "evaluation_id"),
            test_dataset=wire.dataset_name(request.evaluation.test_dataset, "evaluation.test_dataset"),
            display_name=request.evaluation.display_name,
            request_id=caller_fields.check_request_id(request.request_id),
        )
        parent = await _named(self._store, request.parent, "parent")
        found = await self._evaluations.create(parent, draft, validate_only=request.validate_only)
        return evaluation_wire.evaluation_message(found)

    async def GetEvaluation(self, request: epb.GetEvaluationRequest, context: Context) -> evaluation_pb2.Evaluation:
        found = await self._evaluations.get(_evaluation_name(request.name))
        if request.view != evaluation_pb2.Evaluation.FULL:
            return evaluation_wire.evaluation_message(found)
        return evaluation_wire.evaluation_message(found, await self._evaluations.performance(found.value), full=True)

    async def ListEvaluations(
        self, request: epb.ListEvaluationsRequest, context: Context
    ) -> epb.ListEvaluationsResponse:
        parent = await _named(self._store, request.parent, "parent")
        found, token = await self._evaluations.page(parent, request.page_size, request.page_token)
        messages = [evaluation_wire.evaluation_message(evaluation) for evaluation in found]
        return epb.ListEvaluationsResponse(evaluations=messages, next_page_token=token)

    async def CompareEvaluations(
        self, request: epb.CompareEvaluationsRequest, context: Context
    ) -> epb.CompareEvaluationsResponse:
        first = _evaluation_name(request.first_evaluation, "first_evaluation")
        second = _evaluation_name(request.second_evaluation, "second_evaluation")
        return evaluation_wire.comparison_message(await self._evaluations.compare(first, second))

    async def DeleteEvaluation(self, request: epb.DeleteEvaluationRequest, context: Context) -> Empty:
        await self._evaluations.delete(_evaluation_name(request.name), request.etag)
        return Empty()

    async def WatchEvaluation(
        self, request: epb.WatchEvaluationRequest, context: Context
    ) -> AsyncIterator[epb.WatchEvaluationResponse]:
        async for found in self._evaluations.watch(_evaluation_name(request.name)):
            yield epb.WatchEvaluationResponse(evaluation=evaluation_wire.evaluation_message(found))


class ProjectServicer(ProjectServiceServicer):
    """Raises errors of our tree; the server runtime turns them into statuses."""

    def __init__(self, projects: Projects, clock: Clock) -> None:
        self._projects = projects
        self._clock = clock

    async def GetProject(self, request: ppb.GetProjectRequest, context: Context) -> project_pb2.Project:
        return self._message(await self._projects.get())

    async def ListProjects(self, request: ppb.ListProjectsRequest, context: Context) -> ppb.ListProjectsResponse:
        found, token = self._projects.page(request.page_size, request.page_token)
        return ppb.ListProjectsResponse(projects=list(map(self._message, found)), next_page_token=token)

    def _message(self, project: Project) -> project_pb2.Project:
        caller = current.get()
        return project_message(project, caller.roles if caller else (), self._clock.now())


def _model_name(name: str, field: str = "name") -> str:
    names.parse(name, "models", field=field)
    return name


def _reference(name: str, field: str = "name") -> str:
    """A model's name, or an alias of it."""
    return names.check_alias(name, field) if names.is_alias(name) else _model_name(name, field)


async def _named(store: Store, name: str, field: str = "name") -> str:
    """The name of the model, which the caller may also have given as an alias; InvalidName, ModelAliasNotFound."""
    return await store.model_name(_reference(name, field))


def _evaluation_name(name: str, field: str = "name") -> str:
    names.parse(name, "models", "evaluations", field=field)
    return name
