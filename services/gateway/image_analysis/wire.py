"""Our resources as this API's JSON, and its JSON as requests of ours."""

import math
from datetime import UTC
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.gateway.blob_uris import BlobUris
from services.gateway.fields import Fields
from services.gateway.image_analysis.errors import (
    EVALUATION_CODES,
    TRAINING_CODES,
    BadArgument,
    failure,
)
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.performance_pb2 import ModelPerformance

Json = dict[str, Any]
KINDS = {"imageClassification": Dataset.IMAGE_CLASSIFICATION, "imageObjectDetection": Dataset.OBJECT_DETECTION}
MODEL_KINDS = {
    "Generic-Classifier": TrainingParameters.GENERIC_CLASSIFIER,
    "Generic-Detector": TrainingParameters.GENERIC_DETECTOR,
}
MODEL_STATES = {
    Model.NOT_STARTED: "notStarted",
    Model.TRAINING: "training",
    Model.SUCCEEDED: "succeeded",
    Model.FAILED: "failed",
    Model.CANCELLING: "cancelling",
    Model.CANCELLED: "cancelled",
}
EVALUATION_STATES = {
    Evaluation.NOT_STARTED: "notStarted",
    Evaluation.RUNNING: "running",
    Evaluation.SUCCEEDED: "succeeded",
    Evaluation.FAILED: "failed",
}
ENDED = (Model.SUCCEEDED, Model.FAILED, Model.CANCELLED)
METRICS = {
    "accuracyTop1": "accuracy_top1",
    "accuracyTop5": "accuracy_top5",
    "averagePrecision": "average_precision",
    "calibrationECE": "calibration_ece",
    "meanAveragePrecision30": "mean_average_precision_30",
    "meanAveragePrecision50": "mean_average_precision_50",
    "meanAveragePrecision75": "mean_average_precision_75",
}
SECONDS_OF_AN_HOUR = 3600


def dataset_name(dataset_id: str) -> str:
    """Our name of a dataset."""
    return f"datasets/{dataset_id}"


def model_name(model_id: str) -> str:
    """Our name of a model."""
    return f"models/{model_id}"


def id_of(name: str) -> str:
    """The last part of a name."""
    return name.rpartition("/")[2]


def annotation_kind(body: Fields) -> Dataset.AnnotationKind.ValueType:
    """What `annotationKind` says."""
    return _chosen(body, "annotationKind", KINDS)


def model_kind(parameters: Fields) -> TrainingParameters.ModelKind.ValueType:
    """What `modelKind` says."""
    return _chosen(parameters, "modelKind", MODEL_KINDS)


def _chosen(body: Fields, name: str, among: dict[str, Any]) -> Any:
    value = body.required_text(name)
    known = {key.lower(): item for key, item in among.items()}
    if value.lower() not in known:
        raise BadArgument(field=body.named(name), problem=f"{value[:60]!r} is not one of {', '.join(among)}")
    return known[value.lower()]


def budget(parameters: Fields) -> Duration:
    """What `timeBudgetInHours` says; fractions of an hour are taken too."""
    hours = parameters.number("timeBudgetInHours")
    if hours is None or not 0 < hours <= 1e6:
        raise BadArgument(field=parameters.named("timeBudgetInHours"), problem="hours above 0 are required")
    found = Duration()
    found.FromNanoseconds(round(hours * SECONDS_OF_AN_HOUR * 1e9))
    return found


def dataset_json(dataset: Dataset, uris: BlobUris) -> Json:
    """A dataset. `authentication` is left out: nothing of it is kept."""
    return {
        "name": id_of(dataset.name),
        "annotationKind": _key_of(KINDS, dataset.annotation_kind),
        "annotationFileUris": [uris.from_store(uri) for uri in dataset.annotation_file_uris],
        "customProperties": dict(dataset.custom_properties),
        **_times(dataset.create_time, dataset.update_time),
        "eTag": dataset.etag,
    }


def model_json(model: Model) -> Json:
    """A model: whole hours of budget, and whole minutes of cost once it has ended, both rounded up."""
    parameters = model.training_parameters
    found: Json = {
        "name": id_of(model.name),
        "trainingParameters": {
            "trainingDatasetName": id_of(parameters.training_dataset),
            "timeBudgetInHours": _whole(parameters.time_budget, SECONDS_OF_AN_HOUR),
            "modelKind": _key_of(MODEL_KINDS, parameters.model_kind),
        },
        "status": MODEL_STATES[model.state],
        **_times(model.create_time, model.update_time),
        "eTag": model.etag,
    }
    if model.HasField("evaluation_parameters"):
        found["evaluationParameters"] = {"testDatasetName": id_of(model.evaluation_parameters.test_dataset)}
    if model.state in ENDED:
        found["trainingCostInMinutes"] = _whole(model.training_cost, 60)
    if model.state in (Model.SUCCEEDED, Model.CANCELLED) and model.HasField("performance"):
        found["modelPerformance"] = performance_json(model.performance)
    if model.state == Model.FAILED:
        found["error"] = failure(model.error, TRAINING_CODES, "unknown")
    return found


def evaluation_json(evaluation: Evaluation) -> Json:
    """An evaluation."""
    found: Json = {
        "name": id_of(evaluation.name),
        "modelName": evaluation.name.split("/")[1],
        "evaluationParameters": {"testDatasetName": id_of(evaluation.test_dataset)},
        "status": EVALUATION_STATES[evaluation.state],
        **_times(evaluation.create_time, evaluation.update_time),
    }
    if evaluation.state == Evaluation.SUCCEEDED:
        found["modelPerformance"] = performance_json(evaluation.performance)
    if evaluation.state == Evaluation.FAILED:
        found["error"] = failure(evaluation.error, EVALUATION_CODES, "internalServerError")
    return found


def performance_json(performance: ModelPerformance) -> Json:
    """The metrics that apply, and those of each tag."""
    present = {field.name for field, _ in performance.ListFields()}
    found: Json = {key: getattr(performance, name) for key, name in METRICS.items() if name in present}
    found["tagPerformance"] = {
        tag: {"accuracy": one.accuracy}
        if one.HasField("accuracy")
        else {"averagePrecision50": one.average_precision_50}
        if one.HasField("average_precision_50")
        else {}
        for tag, one in sorted(performance.tag_performance.items())
    }
    return found


def _times(created: Timestamp, updated: Timestamp) -> Json:
    return {"createdDateTime": _time(created), "updatedDateTime": _time(updated)}


def _time(moment: Timestamp) -> str:
    return moment.ToDatetime(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _whole(span: Duration, unit_seconds: int) -> int:
    return math.ceil(span.ToTimedelta().total_seconds() / unit_seconds)


def _key_of(table: dict[str, Any], value: int) -> str:
    return next((key for key, item in table.items() if item == value), "")
