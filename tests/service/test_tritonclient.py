"""Triton's own client, from PyPI, works with a predictor unchanged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from services.predictor.domain import ModelState
from services.vision.card import ModelKind
from sightline.inference import open_inference_pb2
from tests.unit.predictor.serving import IMAGE, Running, confidences, serving
from tests.unit.predictor.support import detector, file_of, info, make_image

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "tritonclient" / "bin" / "python"
PROGRAM = ROOT / "tests" / "support" / "triton_calls.py"
OTHER = file_of(make_image(width=120, height=80, seed=3), "JPEG")


async def called(running: Running, folder: Path) -> dict[str, Any]:
    """What tritonclient gets."""
    assert PYTHON.exists(), "tritonclient is not installed: run `make setup`"
    paths = [folder / "one.png", folder / "two.jpg"]
    for path, image in zip(paths, (IMAGE, OTHER), strict=True):
        path.write_bytes(image)
    command = [str(PYTHON), "-P", str(PROGRAM), running.address, *map(str, paths)]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    printed, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    return json.loads(printed)


def messages() -> Iterator[Descriptor]:
    """The messages of our proto."""
    waiting = list(open_inference_pb2.DESCRIPTOR.message_types_by_name.values())
    assert len(waiting) > 20
    while waiting:
        yield (message := waiting.pop())
        waiting += message.nested_types


async def test_tritonclient_classifies(tmp_path: Path):
    async with serving(tmp_path) as running:
        running.models.models["models/new"] = info("new", version="", state=ModelState.TRAINING)
        expected = [confidences(await running.analyze(image)) for image in (IMAGE, OTHER)]
        found = await called(running, tmp_path)
        assert [one.model_name for one in await running.loaded()] == []
    for message in messages():
        fields = {field.name: [field.number, field.type] for field in message.fields}
        assert fields.items() <= found["messages"][message.full_name].items(), "the protocol's numbers and types"
    assert (found["live"], found["ready"], found["models"]) == (True, True, [True, False])
    assert found["server"] == ["sightline", ["model_repository"]]
    assert found["platform"] == "sightline_classifier"
    assert found["inputs"] == [["image", "BYTES", [-1]]]
    assert found["outputs"] == list(found["one"]) == ["labels", "scores", "counts", "sizes"]
    assert found["index"] == [["m", "READY"], ["new", "UNAVAILABLE"]]
    assert found["id"] == "x1"
    assert found["all"]["labels"] == [list(one) for one in expected]
    assert found["all"]["scores"] == [pytest.approx(list(one.values()), abs=1e-5) for one in expected]
    assert found["all"]["sizes"] == [[90, 60], [120, 80]]
    assert found["scores"] == {"scores": [pytest.approx(list(expected[0].values())[:2], abs=1e-5)]}
    assert found["none"]["labels"] == [[]]
    assert found["unknown"] == ["StatusCode.NOT_FOUND", "models/nobodys does not exist."]
    code, message = found["unreadable"]
    assert (code, message[:10]) == ("StatusCode.INVALID_ARGUMENT", "image[1]: ")
    assert [found["stream"][0], found["stream"][1][:7], found["stream"][2]] == ["0", "image: ", "2"]
    assert found["load"] == found["unload"][0] == []
    assert found["unload"][1] == ["StatusCode.NOT_FOUND", "models/m does not exist."]


async def test_tritonclient_detects(tmp_path: Path):
    async with serving(tmp_path, network=detector()) as running:
        running.models.models["models/m"] = info(kind=ModelKind.GENERIC_DETECTOR)
        responses = [await running.analyze(image) for image in (IMAGE, OTHER)]
        found = (await called(running, tmp_path))["all"]
    objects = [response.custom_model_result.objects_result.values for response in responses]
    assert found["counts"] == [len(one) for one in objects]
    for index, (image, count) in enumerate(zip(objects, found["counts"], strict=True)):
        boxes = [[o.bounding_box.x, o.bounding_box.y, o.bounding_box.w, o.bounding_box.h] for o in image]
        assert found["boxes"][index][:count] == boxes
        assert found["labels"][index][:count] == [o.tags[0].name for o in image]
