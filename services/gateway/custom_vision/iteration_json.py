"""Models as this API shows iterations, and their performance."""

import math
from collections.abc import Sequence
from typing import Any

from services.gateway.custom_vision import iterations
from services.gateway.custom_vision.domains import DOMAINS, EXPORTS
from services.gateway.custom_vision.tag_ids import id_in
from services.gateway.custom_vision.times import text_of
from sightline.v1.model_pb2 import Model, TrainingParameters

Json = dict[str, Any]


def iteration_json(model: Model) -> Json:
    """An iteration."""
    properties = model.custom_properties
    project = model.training_parameters.training_dataset.removeprefix("datasets/")
    found: Json = {
        "id": model.name.removeprefix("models/"),
        "name": properties.get(iterations.NAME) or model.display_name or model.name.removeprefix("models/"),
        "status": status(model),
        "created": text_of(model.create_time),
        "lastModified": text_of(model.update_time),
        "projectId": project,
        "exportable": True,
        "exportableTo": EXPORTS,
        "domainId": properties.get(iterations.DOMAIN) or _domain(model),
        "trainingType": properties.get(iterations.KIND) or "Advanced",
        "reservedBudgetInHours": math.ceil(_seconds(model.training_parameters.time_budget) / 3600),
        "trainingTimeInMinutes": math.ceil(_seconds(model.training_cost) / 60),
    }
    if model.training_parameters.model_kind == TrainingParameters.GENERIC_CLASSIFIER:
        found["classificationType"] = "Multiclass"
    if model.HasField("end_time") and found["status"] == "Completed":
        found["trainedAt"] = text_of(model.end_time)
    if properties.get(iterations.PUBLISHED):
        found["publishName"] = properties[iterations.PUBLISHED]
    if model.state == Model.FAILED:
        found["trainingErrorDetails"] = model.error.message
    return found


def status(model: Model) -> str:
    """The state in this API's words."""
    if model.state == Model.NOT_STARTED:
        return "New"
    if model.state in (Model.TRAINING, Model.CANCELLING):
        return "Training"
    return "Completed" if iterations.is_trained(model) else "Failed"


def performance_json(project: str, model: Model) -> Json:
    """What was measured, at each tag's suggested threshold; no deviations, as nothing is measured several times.

    The means are of the tags that have the metric.
    """
    performance = model.performance
    tags: list[Json] = [
        {
            "id": id_in(project, name, model.custom_properties),
            "name": name,
            "precision": one.precision,
            "precisionStdDeviation": 0.0,
            "recall": one.recall,
            "recallStdDeviation": 0.0,
            "averagePrecision": one.average_precision_50,
        }
        for name, one in sorted(performance.tag_performance.items())
    ]
    is_classifier = performance.HasField("average_precision")
    whole = performance.average_precision if is_classifier else performance.mean_average_precision_50
    measured = performance.tag_performance.values()
    precisions = [one.precision for one in measured if one.HasField("precision")]
    recalls = [one.recall for one in measured if one.HasField("recall")]
    means: Json = {"precision": _mean(precisions), "recall": _mean(recalls)}
    deviations = {"precisionStdDeviation": 0.0, "recallStdDeviation": 0.0}
    return {"perTagPerformance": tags, **means, **deviations, "averagePrecision": whole}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _domain(model: Model) -> str:
    is_detector = model.training_parameters.model_kind == TrainingParameters.GENERIC_DETECTOR
    return next(domain.id for domain in DOMAINS if domain.detects == is_detector)


def _seconds(span: Any) -> float:
    return float(span.ToTimedelta().total_seconds())
