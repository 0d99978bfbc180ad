"""Requests: the contract's messages from the client's arguments."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from sightline.client.errors import ImageUnreadable, InvalidImageSize
from sightline.client.names import Named, full_name, own_id
from sightline.client.quantities import span_of
from sightline.client.results.dataset import KINDS as DATASET_KINDS
from sightline.client.results.kinds import DatasetKind, ModelKind
from sightline.client.results.model import KINDS as MODEL_KINDS
from sightline.client.results.model import Hyperparameters
from sightline.client.transport.channel import MAX_MESSAGE_BYTES
from sightline.v1 import batch_prediction_pb2, model_pb2
from sightline.v1 import dataset_service_pb2 as datasets
from sightline.v1 import evaluation_service_pb2 as evaluations
from sightline.v1 import model_service_pb2 as models
from sightline.v1 import prediction_service_pb2 as predictions

MAX_IMAGE_BYTES = MAX_MESSAGE_BYTES - 64 * 1024  # leaves room in the message for the rest of the request
STORE = "s3://"

Image = str | Path | bytes  # a file, `s3://...` in the store, or the bytes of an image file
Budget = str | float | timedelta  # `10m`, seconds, or a timedelta


def create_dataset(
    name: str, kind: DatasetKind, uris: Sequence[str], display_name: str
) -> datasets.CreateDatasetRequest:
    """Registers annotation files that are in the store."""
    request = datasets.CreateDatasetRequest(dataset_id=own_id("datasets", name))
    request.dataset.annotation_kind = DATASET_KINDS[DatasetKind(kind)]
    request.dataset.annotation_file_uris.extend(uris)
    request.dataset.display_name = display_name
    return request


def create_model(
    name: str,
    kind: ModelKind,
    dataset: str | Named,
    test_dataset: str | Named | None,
    budget: Budget,
    display_name: str,
    base_model: str | Named | None,
    hyperparameters: Hyperparameters | None,
) -> models.CreateModelRequest:
    """Trains a model; ValueError for a budget that is not a duration."""
    request = models.CreateModelRequest(model_id=own_id("models", name))
    request.model.display_name = display_name
    _set_training(request.model, kind, dataset, test_dataset, base_model, hyperparameters)
    request.model.training_parameters.time_budget.FromTimedelta(span_of(budget))
    return request


def estimate_training(
    kind: ModelKind,
    dataset: str | Named,
    test_dataset: str | Named | None,
    base_model: str | Named | None,
    hyperparameters: Hyperparameters | None,
) -> models.EstimateTrainingRequest:
    """Measures what a training would need."""
    request = models.EstimateTrainingRequest()
    _set_training(request, kind, dataset, test_dataset, base_model, hyperparameters)
    return request


def _set_training(
    message: model_pb2.Model | models.EstimateTrainingRequest,
    kind: ModelKind,
    dataset: str | Named,
    test_dataset: str | Named | None,
    base_model: str | Named | None,
    hyperparameters: Hyperparameters | None,
) -> None:
    """Sets what a model and an estimate have in common."""
    wanted = message.training_parameters
    wanted.training_dataset = full_name("datasets", dataset)
    wanted.model_kind = MODEL_KINDS[ModelKind(kind)]
    if hyperparameters:
        narrowed = wanted.hyperparameters
        narrowed.seed = hyperparameters.seed
        narrowed.backbones.extend(hyperparameters.backbones)
        narrowed.ignore_category_names = hyperparameters.ignore_category_names
        for field in ("max_rung", "max_trials", "resolution"):
            if (value := getattr(hyperparameters, field)) is not None:
                setattr(narrowed, field, value)
        if hyperparameters.max_prediction_cost is not None:
            narrowed.max_prediction_cost.FromTimedelta(span_of(hyperparameters.max_prediction_cost))
    if base_model is not None:
        wanted.base_model = full_name("models", base_model)
    if test_dataset is not None:
        message.evaluation_parameters.test_dataset = full_name("datasets", test_dataset)


def create_evaluation(model: str | Named, name: str, dataset: str | Named) -> evaluations.CreateEvaluationRequest:
    """Measures the model's current version."""
    request = evaluations.CreateEvaluationRequest(parent=full_name("models", model), evaluation_id=name)
    request.evaluation.test_dataset = full_name("datasets", dataset)
    return request


def create_batch(
    model: str | Named,
    name: str,
    input_uri: str,
    dataset: str | Named | None,
    output_uri: str,
    threshold: float | None,
    suggested_thresholds: bool,
    top: int | None,
) -> predictions.CreateBatchPredictionRequest:
    """Predicts what is below the uri, or a dataset's images. ValueError if both kinds of thresholds are given."""
    options = analyze_image(model, threshold, suggested_thresholds, top)
    batch = batch_prediction_pb2.BatchPrediction(
        model_name=options.model_name,
        input_uri_prefix=input_uri,
        dataset_name=full_name("datasets", dataset) if dataset is not None else "",
        output_uri_prefix=output_uri,
        score_threshold=threshold,
        use_suggested_thresholds=suggested_thresholds,
        max_results=top,
    )
    id_ = own_id("batchPredictions", name)
    return predictions.CreateBatchPredictionRequest(batch_prediction=batch, batch_prediction_id=id_)


def analyze_image(
    model: str | Named,
    threshold: float | None,
    suggested_thresholds: bool,
    top: int | None,
    coverage: float | None = None,
    feedback: bool = True,
) -> predictions.AnalyzeImageRequest:
    """The request for every image, without the image. ValueError if both kinds of thresholds are given."""
    if threshold is not None and suggested_thresholds:
        raise ValueError("suggested_thresholds excludes threshold; pass only one of them")
    return predictions.AnalyzeImageRequest(
        model_name=full_name("models", model),
        score_threshold=threshold,
        use_suggested_thresholds=suggested_thresholds,
        max_results=top,
        coverage=coverage,
        no_feedback=not feedback,
    )


def with_image(base: predictions.AnalyzeImageRequest, image: Image) -> predictions.AnalyzeImageRequest:
    """The request for one image; reads its file. ImageUnreadable, or InvalidImageSize if no message can hold it."""
    request = predictions.AnalyzeImageRequest()
    request.CopyFrom(base)
    if isinstance(image, str) and image.startswith(STORE):
        request.uri = image
        return request
    try:
        size_bytes = len(image) if isinstance(image, bytes) else Path(image).stat().st_size
        if size_bytes > MAX_IMAGE_BYTES:
            problem = f"{image_name(image)} is {mib(size_bytes)}; images can be at most {mib(MAX_IMAGE_BYTES)}"
            raise InvalidImageSize(problem, fix="scale the image down, or save it as JPEG, and repeat")
        request.image = image if isinstance(image, bytes) else Path(image).read_bytes()
    except OSError as error:
        raise ImageUnreadable(f"{image} cannot be read: {error.strerror}") from error
    return request


def explain_image(model: str | Named, image: Image, tag: str) -> predictions.ExplainImageRequest:
    """The request to explain one image; fails as `with_image` does."""
    found = with_image(predictions.AnalyzeImageRequest(model_name=full_name("models", model)), image)
    request = predictions.ExplainImageRequest(model_name=found.model_name, tag=tag)
    if found.HasField("uri"):
        request.uri = found.uri
    else:
        request.image = found.image
    return request


def image_name(image: Image) -> str:
    """An image's name in errors."""
    return "image" if isinstance(image, bytes) else str(image)


def mib(size_bytes: int) -> str:
    """`23.9 MiB`."""
    return f"{size_bytes / 2**20:.1f} MiB"
