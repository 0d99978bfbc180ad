"""A model as an archive to download: how far the worker is that makes it, then its bytes, passed on as they come."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse

from services.gateway.studio.models import name_of
from services.gateway.studio.visit import Visit
from services.kit.errors import InvalidRequest
from sightline.v1.model_service_pb2 import ExportHeader, ExportModelRequest, ExportModelResponse, ExportProgress
from sightline.v1.progress_pb2 import Waiting

FORMATS = {
    "onnx": ExportModelRequest.ONNX,
    "torch-export": ExportModelRequest.TORCH_EXPORT,
    "openvino": ExportModelRequest.OPENVINO,
}
Messages = AsyncGenerator[ExportModelResponse]


async def download(visit: Visit) -> Response:
    """The archive, once it is made; at most one piece of it is in memory."""
    messages = await _messages(visit)
    header = (await _until_made(messages)).header
    headers = {
        "content-disposition": f'attachment; filename="{_file_name(visit, header)}"',
        "content-length": str(header.size_bytes),
    }
    return StreamingResponse(_chunks(messages), headers=headers, media_type="application/zip")


async def progress(visit: Visit) -> Response:
    """Lines of JSON, each with what is done so far; the last one says that the archive is there."""
    messages = await _messages(visit)
    first = await anext(messages)  # a model that cannot be exported is an error like any other, not a stream
    return StreamingResponse(_lines(visit, first, messages), media_type="application/x-ndjson")


async def _messages(visit: Visit) -> Messages:
    form = (await visit.form()).get("format", "")
    if form not in FORMATS:
        raise InvalidRequest(field="format", problem=f"it is none of {', '.join(FORMATS)}")
    request = ExportModelRequest(name=name_of(visit), format=FORMATS[form])
    return visit.session.stream(visit.session.services.models.ExportModel, request)


async def _until_made(messages: Messages) -> ExportModelResponse:
    message = await anext(messages)
    while message.HasField("progress"):
        message = await anext(messages)
    return message


async def _chunks(messages: Messages) -> AsyncIterator[bytes]:
    try:
        async for message in messages:
            yield message.chunk
    finally:
        await messages.aclose()


async def _lines(visit: Visit, message: ExportModelResponse, messages: Messages) -> AsyncIterator[str]:
    try:
        while message.HasField("progress"):
            yield _line(_said(visit, message.progress))
            message = await anext(messages)
        yield _line({"made": True})
    finally:
        await messages.aclose()


def _said(visit: Visit, progress: ExportProgress) -> dict[str, Any]:
    reason = Waiting.Reason.Name(progress.waiting.reason).lower() if progress.HasField("waiting") else ""
    words = visit.site.text.named("waiting", reason) if reason else visit.site.text("export.making")
    return {"fraction": progress.fraction, "words": words}


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content) + "\n"


def _file_name(visit: Visit, header: ExportHeader) -> str:
    """The name that the service suggests, in characters that no header needs quoted."""
    name = header.file_name or f"{visit.path('model')}.zip"
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in name)
