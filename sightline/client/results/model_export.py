"""A model as an archive on this machine."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sightline.v1 import model_service_pb2 as service


class ModelFormat(StrEnum):
    """A format in which a model runs without the suite."""

    ONNX = "onnx"  # for onnxruntime and others that read ONNX
    TORCH_EXPORT = "torch-export"  # a program of torch.export, for torch
    OPENVINO = "openvino"  # for openvino


FORMATS = {
    ModelFormat.ONNX: service.ExportModelRequest.ONNX,
    ModelFormat.TORCH_EXPORT: service.ExportModelRequest.TORCH_EXPORT,
    ModelFormat.OPENVINO: service.ExportModelRequest.OPENVINO,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExport:
    """An archive: the model, its labels, a script that runs it, and a picture that checks it."""

    path: Path
    format: ModelFormat
    model: str  # `models/{model}`
    version: str  # of the model
    size_bytes: int
    sha256: str
    max_difference: float  # from the predictor's scores, as measured when it was made
