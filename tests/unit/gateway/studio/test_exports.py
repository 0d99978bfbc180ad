"""A model to download."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.kit.errors import ModelNotReady
from sightline.v1.evaluation_service_pb2 import ListEvaluationsResponse
from sightline.v1.model_pb2 import Model
from sightline.v1.model_service_pb2 import ExportHeader, ExportModelRequest, ExportModelResponse, ExportProgress
from sightline.v1.progress_pb2 import Waiting
from tests.support.studio import browser

WAITS = ExportModelResponse(progress=ExportProgress(waiting=Waiting(reason=Waiting.NO_WORKER)))
MAKES = ExportModelResponse(progress=ExportProgress(fraction=0.5))
CHUNKS = [ExportModelResponse(chunk=part) for part in (b"first ", b"second")]


def archive(file_name: str = "m-onnx.zip") -> list[Any]:
    """The messages of an archive that a worker makes first."""
    return [WAITS, MAKES, ExportModelResponse(header=ExportHeader(file_name=file_name, size_bytes=12)), *CHUNKS]


ANSWERS: dict[str, Any] = {
    "GetModel": lambda request: Model(name="models/m", model_version="v1", state=Model.SUCCEEDED),
    "ListEvaluations": lambda request: ListEvaluationsResponse(),
    "ListModels": lambda request: None,
}


@pytest.mark.parametrize(
    ("form", "asked"),
    [
        ("onnx", ExportModelRequest.ONNX),
        ("torch-export", ExportModelRequest.TORCH_EXPORT),
        ("openvino", ExportModelRequest.OPENVINO),
    ],
)
async def test_an_archive_is_downloaded_once_it_is_made(form: str, asked: Any):
    async with browser(ANSWERS | {"ExportModel": lambda request: archive()}) as one:
        await one.open("/studio/models/m")
        response = await one.post("/studio/models/m/export", format=form)
    assert response.content == b"first second"
    assert response.headers["content-length"] == "12"
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"] == 'attachment; filename="m-onnx.zip"'
    (request,) = one.requests("ExportModel")
    assert (request.name, request.format) == ("models/m", asked)


async def test_the_name_of_the_file_cannot_leave_its_header():
    name = 'a"; filename="../evil.exe\r\nset-cookie: x\u00e9'
    async with browser(ANSWERS | {"ExportModel": lambda request: archive(name)}) as one:
        await one.open("/studio/models/m")
        response = await one.post("/studio/models/m/export", format="onnx")
    assert response.headers["content-disposition"].count('"') == 2
    assert "/" not in response.headers["content-disposition"]
    assert "set-cookie" not in response.headers


async def test_progress_is_told_in_words_until_the_archive_is_there():
    async with browser(ANSWERS | {"ExportModel": lambda request: archive()}) as one:
        await one.open("/studio/models/m")
        response = await one.post("/studio/models/m/export/progress", format="onnx")
    waits, makes, made = [json.loads(line) for line in response.text.splitlines()]
    assert "No worker is connected" in waits["words"]
    assert (makes["fraction"], makes["words"]) == (0.5, "A worker makes the archive.")
    assert made == {"made": True}


@pytest.mark.parametrize("path", ["export", "export/progress"])
async def test_a_model_that_cannot_be_exported_and_an_unknown_format_are_errors(path: str):
    def refuse(request: Any) -> Any:
        raise ModelNotReady(name="models/m", state="TRAINING", remedy="wait")

    async with browser(ANSWERS | {"ExportModel": refuse}) as one:
        await one.open("/studio/models/m")
        refused = await one.post(f"/studio/models/m/{path}", format="onnx")
        unknown = await one.post(f"/studio/models/m/{path}", format="<script>")
    assert (refused.status_code, unknown.status_code) == (400, 400)
    assert "ModelNotReady" in refused.text
    assert len(one.requests("ExportModel")) == 1


@pytest.mark.parametrize(("roles", "offered"), [(("predictor",), False), (("trainer",), True)])
async def test_a_download_is_offered_to_whom_it_is_allowed(roles: tuple[str, ...], offered: bool):
    async with browser(ANSWERS, roles=roles) as one:
        page = (await one.open("/studio/models/m")).text
    assert ("/models/m/export" in page) == offered
    assert ("export.js" in page) == offered
