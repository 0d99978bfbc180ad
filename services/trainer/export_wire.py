"""Translates between the contract's messages and exports."""

from services.kit import names
from services.kit.errors import InvalidRequest
from services.trainer.export import Archive, Export
from services.trainer.exports import Making
from services.trainer.progress_wire import waiting_message
from services.vision.exports.formats import ExportFormat
from sightline.v1 import model_service_pb2 as pb

_FORMATS = {
    pb.ExportModelRequest.ONNX: ExportFormat.ONNX,
    pb.ExportModelRequest.TORCH_EXPORT: ExportFormat.TORCH_EXPORT,
    pb.ExportModelRequest.OPENVINO: ExportFormat.OPENVINO,
}


def wanted_from(request: pb.ExportModelRequest) -> tuple[str, ExportFormat, int]:
    """The model's name, the format, and the bytes to leave out; InvalidName, InvalidRequest."""
    names.check_model(request.name)
    form = _FORMATS.get(request.format)
    if form is None:
        known = ", ".join(pb.ExportModelRequest.Format.Name(one) for one in _FORMATS)
        raise InvalidRequest(field="format", problem=f"{request.format} is not a format; use one of {known}")
    if request.read_offset < 0:
        raise InvalidRequest(field="read_offset", problem=f"{request.read_offset} is negative")
    return request.name, form, request.read_offset


def progress_message(making: Making) -> pb.ExportModelResponse:
    """How far it is."""
    progress = pb.ExportProgress(name=making.name, fraction=making.fraction)
    if making.waiting:
        progress.waiting.CopyFrom(waiting_message(making.waiting))
    return pb.ExportModelResponse(progress=progress)


def header_message(export: Export, archive: Archive) -> pb.ExportModelResponse:
    """What follows."""
    return pb.ExportModelResponse(
        header=pb.ExportHeader(
            file_name=archive.file_name,
            size_bytes=archive.size_bytes,
            sha256=archive.sha256,
            model_version=export.model_version,
            max_difference=archive.max_difference,
        )
    )
