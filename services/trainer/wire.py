"""Conversion between protobuf messages and models."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from msgspec.structs import replace

from services.kit import names
from services.kit.blobs import to_uri
from services.kit.caller_fields import check_request_id
from services.kit.clock import Clock
from services.kit.errors import InvalidRequest
from services.kit.records import Versioned
from services.kit.status import failure_to_status, to_duration, to_timestamp
from services.trainer.domain import (
    MAX_BUDGET,
    Evaluation,
    Hyperparameters,
    Model,
    Served,
    Trial,
    training_cost,
)
from services.trainer.evaluation_wire import performance_message
from services.trainer.ledger import MICROSECOND
from services.trainer.performance import Performance
from services.trainer.progress_wire import NOTHING, Moment, progress_message
from services.trainer.trial_wire import prediction_cost
from services.vision.card import ModelKind
from services.vision.catalogue import NETWORKS
from sightline.v1 import model_pb2, model_service_pb2

_KINDS = {
    model_pb2.TrainingParameters.GENERIC_CLASSIFIER: ModelKind.GENERIC_CLASSIFIER,
    model_pb2.TrainingParameters.GENERIC_DETECTOR: ModelKind.GENERIC_DETECTOR,
}
_RESOLUTIONS = (32, 1024)
_STRIDE = 32  # the sides of a detector's input are multiples of it


def model_from(request: model_service_pb2.CreateModelRequest, clock: Clock) -> Model:
    """The requested model, in NOT_STARTED; InvalidRequest or InvalidName for a field that is wrong."""
    message, id_ = request.model, names.check_id(request.model_id, "model_id")
    requested = _requested(names.own("models", id_), message, "model.", clock)
    return replace(
        requested,
        budget=_span(message.training_parameters.time_budget, "model.training_parameters.time_budget"),
        display_name=message.display_name,
        custom_properties=dict(message.custom_properties),
        request_id=check_request_id(request.request_id),
    )


def estimated_from(request: model_service_pb2.EstimateTrainingRequest, clock: Clock) -> Model:
    """The model that CreateModel would make of these parameters, whatever its budget; InvalidRequest, InvalidName."""
    return _requested("models/estimate", request, "", clock)


def _requested(
    name: str,
    message: model_pb2.Model | model_service_pb2.EstimateTrainingRequest,
    prefix: str,
    clock: Clock,
) -> Model:
    """The model with these training and evaluation parameters, and the largest budget; `prefix` leads to the fields."""
    parameters = message.training_parameters
    path = f"{prefix}training_parameters"
    kind = _model_kind(parameters.model_kind, path)
    if parameters.base_model:
        names.check_model(parameters.base_model, f"{path}.base_model")
    training = dataset_name(parameters.training_dataset, f"{path}.training_dataset")
    test = ""
    if message.HasField("evaluation_parameters"):
        test = dataset_name(message.evaluation_parameters.test_dataset, f"{prefix}evaluation_parameters.test_dataset")
    now = clock.now()
    return Model(
        name=name,
        uid=names.new_uid(),
        training_dataset=training,
        budget=MAX_BUDGET,
        model_kind=kind,
        create_time=now,
        update_time=now,
        test_dataset=test,
        base_model=parameters.base_model,
        hyperparameters=_hyperparameters(parameters.hyperparameters, kind, f"{path}.hyperparameters"),
    )


def _span(given: Duration, field: str) -> timedelta:
    """A time in whole microseconds, rounded down; InvalidRequest out of range, or if it is no valid Duration."""
    if abs(given.nanos) >= 1_000_000_000 or given.seconds * given.nanos < 0:
        problem = f"{given.nanos} is not within ±999,999,999, or has another sign than its seconds, {given.seconds}."
        raise InvalidRequest(field=f"{field}.nanos", problem=problem)
    microseconds = given.seconds * 1_000_000 + given.nanos // 1000  # may be more than a timedelta can hold
    if not 0 < microseconds <= MAX_BUDGET // MICROSECOND:
        problem = f"{microseconds / 1e6:.16g} s is not above 0 and at most {MAX_BUDGET // timedelta(hours=1)} hours."
        raise InvalidRequest(field=field, problem=problem)
    return microseconds * MICROSECOND


def dataset_name(name: str, field: str) -> str:
    """The name itself; InvalidName unless it is `datasets/{dataset}`."""
    names.parse(name, "datasets", field=field)
    return name


def _model_kind(kind: model_pb2.TrainingParameters.ModelKind.ValueType, path: str) -> ModelKind:
    if kind not in _KINDS:
        raise InvalidRequest(field=f"{path}.model_kind", problem="set it to GENERIC_CLASSIFIER or GENERIC_DETECTOR.")
    return _KINDS[kind]


def _hyperparameters(message: model_pb2.Hyperparameters, kind: ModelKind, prefix: str) -> Hyperparameters:
    unknown = [name for name in message.backbones if name not in NETWORKS[kind]]
    if unknown:
        problem = f"{unknown[0]!r} is not a backbone of a {kind}; choose from {', '.join(sorted(NETWORKS[kind]))}."
        raise InvalidRequest(field=f"{prefix}.backbones", problem=problem)
    low, high = _RESOLUTIONS
    if message.HasField("resolution") and not low <= message.resolution <= high:
        raise InvalidRequest(field=f"{prefix}.resolution", problem=f"{message.resolution} is not {low} to {high}.")
    if kind is ModelKind.GENERIC_DETECTOR and message.resolution % _STRIDE:
        problem = f"{message.resolution} is not a multiple of {_STRIDE}, as a detector's must be."
        raise InvalidRequest(field=f"{prefix}.resolution", problem=problem)
    if len(set(message.backbones)) != len(message.backbones):
        raise InvalidRequest(field=f"{prefix}.backbones", problem="one is named twice.")
    limit: timedelta | None = None
    if message.HasField("max_prediction_cost"):
        limit = _span(message.max_prediction_cost, f"{prefix}.max_prediction_cost")
    present = {field.name: value for field, value in message.ListFields()}
    for name, least in (("max_rung", 0), ("max_trials", 1), ("seed", 0)):
        if (given := present.get(name, least)) < least:
            raise InvalidRequest(field=f"{prefix}.{name}", problem=f"{given} is less than {least}.")
    return Hyperparameters(
        seed=message.seed,
        backbones=tuple(message.backbones),
        max_rung=message.max_rung if message.HasField("max_rung") else None,
        max_trials=message.max_trials if message.HasField("max_trials") else None,
        resolution=message.resolution if message.HasField("resolution") else None,
        max_prediction_seconds=limit.total_seconds() if limit else None,
        ignore_category_names=message.ignore_category_names,
    )


def model_message(
    version: Versioned[Model],
    trials: list[Trial],
    final: Evaluation | None,
    performance: Performance | None = None,
    moment: Moment = NOTHING,
    bucket: str = "",
    *,
    full: bool = False,
) -> model_pb2.Model:
    """A model as callers see it; `full` adds the full performance and the ledger."""
    model = version.value
    message = model_pb2.Model(
        name=model.name,
        display_name=model.display_name,
        training_parameters=_parameters_message(model),
        state=model_pb2.Model.State.Value(model.state),
        progress=progress_message(model, trials, final, moment),
        training_cost=to_duration(model.training_cost if model.ended else training_cost(trials, final)),
        create_time=to_timestamp(model.create_time),
        start_time=to_timestamp(model.start_time),
        end_time=to_timestamp(model.end_time),
        update_time=to_timestamp(model.update_time),
        etag=version.etag if version.revision else "",
        custom_properties=model.custom_properties,
        categories=model.categories,
        warnings=model.warnings,
        snapshot_digest=model.training.digest if model.training else "",
        training_dataset_version=model.training.version if model.training else 0,
        base_model_version=model.base.version if model.base else "",
    )
    if model.test_dataset:
        message.evaluation_parameters.test_dataset = model.test_dataset
    if model.stop_reason:
        message.stop_reason = model_pb2.Model.StopReason.Value(model.stop_reason)
    if model.error:
        message.error.CopyFrom(failure_to_status(model.error))
    if model.served:
        _set_served(message, model.served, performance, bucket, full=full)
    if full:
        message.ledger.extend(_ledger(trials, final))
    return message


def _set_served(
    message: model_pb2.Model, served: Served, performance: Performance | None, bucket: str, *, full: bool
) -> None:
    message.performance.CopyFrom(performance_message(performance or served.performance, full=full))
    message.model_version, message.best_trial = served.version, served.trial
    message.bundle_uri = to_uri(bucket, served.bundle_key)
    message.bundle_digest, message.bundle_signature = served.bundle_digest, served.bundle_signature
    if (cost := prediction_cost(served.prediction_seconds)) is not None:
        message.prediction_cost.CopyFrom(cost)


def _parameters_message(model: Model) -> model_pb2.TrainingParameters:
    given = model.hyperparameters
    return model_pb2.TrainingParameters(
        training_dataset=model.training_dataset,
        base_model=model.base_model,
        time_budget=to_duration(model.budget),
        model_kind=model_pb2.TrainingParameters.ModelKind.Value(model.model_kind),
        hyperparameters=model_pb2.Hyperparameters(
            seed=given.seed,
            backbones=given.backbones,
            max_rung=given.max_rung,
            max_trials=given.max_trials,
            resolution=given.resolution,
            max_prediction_cost=prediction_cost(given.max_prediction_seconds),
            ignore_category_names=given.ignore_category_names,
        ),
    )


def _ledger(trials: list[Trial], final: Evaluation | None) -> list[model_pb2.LedgerEntry]:
    rows = [(trial.name, segment) for trial in trials for segment in trial.work.segments]
    if final is not None:
        rows += [(final.name, segment) for segment in final.work.segments]
    rows.sort(key=lambda row: row[1].end_time)
    return [
        model_pb2.LedgerEntry(
            trial=name,
            attempt=segment.attempt,
            segment=segment.number,
            duration=to_duration(segment.duration),
            charged=segment.charged,
            reason=segment.reason,
            end_time=to_timestamp(segment.end_time),
        )
        for name, segment in rows
    ]
