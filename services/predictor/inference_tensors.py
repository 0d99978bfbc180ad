"""Tensors of the Open Inference Protocol: the images in a request's, and an answer's."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.kit.errors import InvalidRequest
from services.predictor.results import Analysis, Objects, Tag
from services.vision.card import ModelKind
from sightline.inference import open_inference_pb2 as pb
from sightline.plurals import counted

IMAGE = "image"
MAX_IMAGES = 64  # in one request
_LENGTH = struct.Struct("<I")

Declared = pb.ModelMetadataResponse.TensorMetadata

INPUTS = (Declared(name=IMAGE, datatype="BYTES", shape=[-1]),)
_OF_ALL = (
    Declared(name="labels", datatype="BYTES", shape=[-1, -1]),
    Declared(name="scores", datatype="FP32", shape=[-1, -1]),
)
_OF_DETECTORS = (Declared(name="boxes", datatype="FP32", shape=[-1, -1, 4]),)
_OF_IMAGES = (
    Declared(name="counts", datatype="INT32", shape=[-1]),
    Declared(name="sizes", datatype="INT32", shape=[-1, 2]),
)


def outputs_of(kind: ModelKind) -> tuple[Declared, ...]:
    """The outputs of models of the kind."""
    return (*_OF_ALL, *(_OF_DETECTORS if kind is ModelKind.GENERIC_DETECTOR else ()), *_OF_IMAGES)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output: elements [image, ...], texts as an array of bytes objects."""

    name: str
    datatype: str
    values: NDArray[Any]

    @property
    def raw(self) -> bytes:
        """Its elements as they are sent in binary."""
        if self.datatype == "BYTES":
            return b"".join(_LENGTH.pack(len(text)) + text for text in self.values.flat)
        return self.values.astype("<f4" if self.datatype == "FP32" else "<i4").tobytes()

    @property
    def contents(self) -> pb.InferTensorContents:
        """Its elements as a message."""
        field = {"BYTES": "bytes_contents", "FP32": "fp32_contents"}.get(self.datatype, "int_contents")
        return pb.InferTensorContents(**{field: self.values.ravel().tolist()})


def images_of(request: pb.ModelInferRequest) -> list[bytes]:
    """The images' files; InvalidRequest."""
    if [one.name for one in request.inputs] != [IMAGE]:
        raise _fault("inputs", f"they are {_quoted(one.name for one in request.inputs)}; send one, named {IMAGE!r}")
    (image,), field = request.inputs, "inputs[0]"
    if image.datatype != "BYTES":
        what = "send the image's file (JPEG, PNG, …), not its pixels, as BYTES"
        raise _fault(f"{field}.datatype", f"{image.datatype!r} is not taken; {what}")
    shape = tuple(image.shape)
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)) or not 1 <= shape[0] <= MAX_IMAGES:
        problem = f"{list(shape)} is neither [N] nor [N, 1] for N images, 1 to {MAX_IMAGES}"
        raise _fault(f"{field}.shape", problem)
    if image.parameters:
        raise _fault(f"{field}.parameters", f"{_quoted(image.parameters)} are not known; leave them out")
    if request.raw_input_contents:
        field, found = "raw_input_contents", _split(request)
    else:
        field, found = f"{field}.contents.bytes_contents", list(image.contents.bytes_contents[: MAX_IMAGES + 1])
    if (count := len(found)) != shape[0]:
        present = f"more than {MAX_IMAGES}" if count > MAX_IMAGES else count
        raise _fault(field, f"the shape {list(shape)} announces {counted(shape[0], 'image')}; there are {present}")
    return found


def tensors_of(analyses: Sequence[Analysis]) -> list[Tensor]:
    """The outputs of images that one model has analyzed.

    An image with fewer results than another has empty labels and zeros after its own; `counts` says how many are its.
    """
    rows = [_tags(one) for one in analyses]
    most = max(map(len, rows))
    labels = np.full((len(rows), most), b"", object)
    scores = np.zeros((len(rows), most), np.float32)
    boxes = np.zeros((len(rows), most, 4), np.float32)
    for index, (row, analysis) in enumerate(zip(rows, analyses, strict=True)):
        labels[index, : len(row)] = [tag.name.encode() for tag in row]
        scores[index, : len(row)] = [tag.confidence for tag in row]
        if isinstance(analysis.result, Objects) and row:
            found = [one.box for one in analysis.result.values]
            boxes[index, : len(row)] = [(box.x, box.y, box.w, box.h) for box in found]
    values = {
        "labels": labels,
        "scores": scores,
        "boxes": boxes,
        "counts": np.array([len(row) for row in rows], np.int32),
        "sizes": np.array([(one.width, one.height) for one in analyses], np.int32),
    }
    kind = ModelKind.GENERIC_DETECTOR if isinstance(analyses[0].result, Objects) else ModelKind.GENERIC_CLASSIFIER
    return [Tensor(one.name, one.datatype, values[one.name]) for one in outputs_of(kind)]


def check_outputs(request: pb.ModelInferRequest, kind: ModelKind) -> None:
    """InvalidRequest if the request asks for an output that models of the kind do not have."""
    known = [one.name for one in outputs_of(kind)]
    for index, one in enumerate(request.outputs):
        field = f"outputs[{index}]"
        if one.name not in known:
            raise _fault(f"{field}.name", f"{one.name!r} is not an output of this model; they are {_quoted(known)}")
        if unknown := sorted(set(one.parameters) - {"binary_data"}):
            hint = "; use max_results instead of classification" if "classification" in unknown else ""
            raise _fault(f"{field}.parameters", f"{_quoted(unknown)} are not known{hint}")


def _tags(analysis: Analysis) -> list[Tag]:
    result = analysis.result
    return [one.tag for one in result.values] if isinstance(result, Objects) else list(result.values)


def _split(request: pb.ModelInferRequest) -> list[bytes]:
    """The elements of the raw input, as far as one too many."""
    field = "raw_input_contents"
    if len(request.raw_input_contents) != 1:
        raise _fault(field, f"there are {len(request.raw_input_contents)} for one input")
    if request.inputs[0].HasField("contents"):
        raise _fault(field, "the input has contents too; send the images in one of them")
    return list(islice(_elements(request.raw_input_contents[0], field), MAX_IMAGES + 1))


def _elements(data: bytes, field: str) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, position)[0] if start <= len(data) else len(data) + 1
        if end > len(data):
            raise _fault(
                field, "before each image's bytes must be their number, in four bytes, least significant first"
            )
        yield data[start:end]
        position = end


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "missing"


def _fault(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(field=field, problem=problem)
