"""Translates between the Open Inference Protocol's messages and the predictor's domain."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from services.kit import names
from services.kit.errors import InvalidRequest, ModelNotReady
from services.predictor.domain import ImageQuery, ModelInfo
from services.predictor.inference_tensors import IMAGE, INPUTS, images_of, outputs_of, tensors_of
from services.predictor.results import Analysis
from services.vision.card import ModelKind
from sightline.inference import open_inference_pb2 as pb

MODELS = "models"
# What tritonclient always or usually sends, and its meaning here.
_NUMBERS = ("score_threshold", "max_results", "timeout")
_KNOWN = (*_NUMBERS, "use_suggested_thresholds", "no_feedback", "priority")


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request."""

    score_threshold: float | None
    max_results: int | None
    use_suggested_thresholds: bool
    no_feedback: bool
    timeout_seconds: float | None  # None: no more than the call's deadline


def model_name(name: str, field: str) -> str:
    """The full name of `birds`, `birds@alias` or `models/birds`, in the project that the call acts in; InvalidName."""
    return names.check_model(names.own(MODELS, name.removeprefix(f"{MODELS}/")), field)


def parameters_of(request: pb.ModelInferRequest) -> Parameters:
    """The request's parameters; InvalidRequest for one that is not known, or has no sensible value."""
    for name in sorted(request.parameters):
        if name not in _KNOWN:
            raise InvalidRequest(field=f"parameters[{name!r}]", problem=f"it is not known; {', '.join(_KNOWN)} are")
    numbers = {name: _number(request, name) for name in _NUMBERS}
    limit, timeout = numbers["max_results"], numbers["timeout"]
    if limit is not None and not limit.is_integer():
        raise InvalidRequest(field="parameters['max_results']", problem=f"{limit:g} is not a whole number")
    if timeout is not None and not timeout >= 0:
        raise InvalidRequest(field="parameters['timeout']", problem=f"{timeout:g} is not a number of microseconds")
    return Parameters(
        score_threshold=numbers["score_threshold"],
        max_results=None if limit is None else int(limit),
        use_suggested_thresholds=_truth(request, "use_suggested_thresholds"),
        no_feedback=_truth(request, "no_feedback"),
        timeout_seconds=timeout / 1e6 if timeout else None,
    )


def queries_of(request: pb.ModelInferRequest, parameters: Parameters) -> list[ImageQuery]:
    """A query for each image of the request; InvalidName, InvalidRequest."""
    name, images = model_name(request.model_name, "model_name"), images_of(request)
    return [
        ImageQuery(
            model_name=name,
            image=image,
            uri="",
            score_threshold=parameters.score_threshold,
            max_results=parameters.max_results,
            use_suggested_thresholds=parameters.use_suggested_thresholds,
            model_version=request.model_version,
            no_feedback=parameters.no_feedback,
            file=IMAGE if len(images) == 1 else f"{IMAGE}[{index}]",
        )
        for index, image in enumerate(images)
    ]


def answer_to(request: pb.ModelInferRequest, analyses: Sequence[Analysis]) -> pb.ModelInferResponse:
    """The response: the outputs that the request asks for, or all, in binary if the request is."""
    tensors = {tensor.name: tensor for tensor in tensors_of(analyses)}
    response = pb.ModelInferResponse(
        model_name=request.model_name, model_version=analyses[0].model_version, id=request.id
    )
    for tensor in [tensors[one.name] for one in request.outputs] or tensors.values():
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.values.shape)
        if request.raw_input_contents:
            response.raw_output_contents.append(tensor.raw)
        else:
            output.contents.CopyFrom(tensor.contents)
    return response


def metadata_to(name: str, model: ModelInfo) -> pb.ModelMetadataResponse:
    """What the model takes and returns."""
    detector = model.kind is ModelKind.GENERIC_DETECTOR
    return pb.ModelMetadataResponse(
        name=name,
        versions=[model.version],
        platform="sightline_detector" if detector else "sightline_classifier",
        inputs=INPUTS,
        outputs=outputs_of(model.kind),
    )


def index_to(models: Sequence[ModelInfo], *, ready: bool) -> pb.RepositoryIndexResponse:
    """The list of models, or of those that would answer."""
    entries = [_entry(model) for model in models]
    return pb.RepositoryIndexResponse(models=[one for one in entries if one.state == "READY" or not ready])


def check_repository(name: str) -> None:
    """InvalidRequest unless the name is empty."""
    if name:
        raise InvalidRequest(field="repository_name", problem=f"there is no repository {name!r}; leave it empty")


def _entry(model: ModelInfo) -> pb.RepositoryIndexResponse.ModelIndex:
    name = names.split(model.name)[1].removeprefix(f"{MODELS}/")
    try:
        model.bundle()
    except ModelNotReady as error:
        return pb.RepositoryIndexResponse.ModelIndex(name=name, state="UNAVAILABLE", reason=error.message)
    return pb.RepositoryIndexResponse.ModelIndex(name=name, version=model.version, state="READY")


def _number(request: pb.ModelInferRequest, name: str) -> float | None:
    """A number, also as text: some clients can send nothing else."""
    if name not in request.parameters:
        return None
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    with suppress(ValueError):
        if kind not in (None, "bool_param"):
            return float(getattr(parameter, kind))
    raise InvalidRequest(field=f"parameters[{name!r}]", problem="it is not a number")


def _truth(request: pb.ModelInferRequest, name: str) -> bool:
    if name not in request.parameters:
        return False
    parameter = request.parameters[name]
    if parameter.WhichOneof("parameter_choice") == "bool_param":
        return parameter.bool_param
    if parameter.string_param.lower() in ("true", "false"):
        return parameter.string_param.lower() == "true"
    raise InvalidRequest(field=f"parameters[{name!r}]", problem="it is neither true nor false")
