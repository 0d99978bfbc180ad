"""The predictor over real gRPC, with a detector."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from google.protobuf import json_format
from PIL import Image

from services.predictor.metrics import STAGE_SECONDS
from services.vision import bundle as bundles
from services.vision.card import CardBackbone, CardCategory, ModelCard, ModelKind, WeightsSource
from services.vision.catalogue import DETECTORS
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector, load_detector_weights
from services.vision.image_detections import ImageDetections
from sightline.v1 import prediction_pb2
from sightline.v1 import prediction_service_pb2 as pb
from tests.unit.predictor.serving import IMAGE, Fixed, Running, serving
from tests.unit.predictor.support import NAMES, detector, detector_card, file_of, make_image

Answer = prediction_pb2.AnalyzeImageResponse
Row = tuple[str, float, tuple[int, int, int, int]]


class FixedObjects(Fixed):
    """Returns the same objects for every image."""

    def __init__(self, output: ImageDetections) -> None:
        super().__init__()
        self.card = detector_card()
        self._output = output

    def predict_prepared(self, images: Sequence[Any]) -> Any:
        return [self._output] * len(images)


@pytest.fixture(scope="module")
def network() -> Detector:
    return detector()


@pytest.fixture
async def running(tmp_path: Path, network: Detector) -> AsyncGenerator[Running]:
    async with serving(tmp_path, network=network) as running:
        yield running


def rows_of(answer: Answer) -> list[Row]:
    found = answer.custom_model_result.objects_result.values
    boxes = [one.bounding_box for one in found]
    return [
        (one.tags[0].name, one.tags[0].confidence, (box.x, box.y, box.w, box.h))
        for one, box in zip(found, boxes, strict=True)
    ]


def like(rows: Sequence[Row], tolerance: float = 1e-5) -> list[object]:
    """The same names and boxes, with approximately equal confidences."""
    return [(name, pytest.approx(confidence, abs=tolerance), box) for name, confidence, box in rows]


def rows_from(output: ImageDetections) -> list[Row]:
    """A detector's output, with its edges rounded."""
    rows: list[Row] = []
    for (left, top, width, height), score, label in zip(
        output.boxes.tolist(), output.scores, output.labels, strict=True
    ):
        x, y = round(left), round(top)
        box = (x, y, round(left + width) - x, round(top + height) - y)
        rows.append((NAMES[label], float(score), box))
    return rows


async def test_the_responses_json_is_what_azures_callers_parse(tmp_path: Path):
    boxes = np.array([[0, 10.4, 30, 40]], np.float32)
    output = ImageDetections(boxes, np.array([0.75], np.float32), np.array([1]))
    async with serving(tmp_path, loader=lambda _, digest: FixedObjects(output)) as running:
        response = await running.analyze()
    assert json_format.MessageToJson(response, indent=None) == (
        '{"modelVersion": "v1", "metadata": {"width": 90, "height": 60}, "customModelResult": {"objectsResult": '
        '{"values": [{"id": "1", "boundingBox": {"x": 0, "y": 10, "w": 30, "h": 40}, '
        '"tags": [{"name": "dog", "confidence": 0.75}]}]}}}'
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (512, 96), (1200, 1200)])
async def test_the_objects_are_the_detectors_rounded_to_pixels(
    running: Running, tmp_path: Path, kind: str, size: tuple[int, int]
):
    direct, image = bundles.load(tmp_path / "m"), file_of(make_image(*size), kind)
    assert isinstance(direct, Detector)
    (output,) = direct.predict_prepared([direct.prepare(image)])
    answer = await running.analyze(image, score_threshold=0)
    found = rows_of(answer)
    assert len(found) >= 10
    assert found == like(rows_from(output)[:100])
    assert [one.id for one in answer.custom_model_result.objects_result.values] == [
        str(n + 1) for n in range(len(found))
    ]
    assert (answer.metadata.width, answer.metadata.height) == size
    for _, _, (x, y, w, h) in found:
        assert min(x, y) >= 0
        assert min(w, h) >= 1
        assert x + w <= size[0]
        assert y + h <= size[1]


async def test_an_image_rotated_by_exif_gets_the_boxes_and_size_of_the_upright_one(running: Running):
    upright = make_image(160, 96)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = file_of(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    expected, found = await running.analyze(file_of(upright)), await running.analyze(turned)
    assert rows_of(found) == like(rows_of(expected))
    assert (found.metadata.width, found.metadata.height) == (160, 96)


async def test_an_image_without_objects_has_an_empty_but_present_result(running: Running):
    answer = await running.analyze(score_threshold=1.0)
    assert answer.custom_model_result.HasField("objects_result")
    assert json.loads(json_format.MessageToJson(answer))["customModelResult"] == {"objectsResult": {}}


async def test_threshold_and_max_results_limit_the_objects(running: Running):
    every = rows_of(await running.analyze(score_threshold=0.0))
    least = every[4][1]
    assert rows_of(await running.analyze(score_threshold=least)) == [row for row in every if row[1] >= least]
    assert rows_of(await running.analyze(max_results=3)) == every[:3]


async def test_an_image_among_others_of_other_shapes_gets_the_same_result_as_alone(tmp_path: Path, network: Detector):
    async with serving(tmp_path, network=network, max_batch=16) as running:
        tall = [file_of(make_image(60, 90, seed)) for seed in range(3)]
        wide = [file_of(make_image(90, 60, seed)) for seed in range(1, 4)]
        images = [IMAGE, tall[0], wide[0], tall[1], wide[1], tall[2], wide[2]]
        async with running.thread_held_up() as first:
            answers = [asyncio.create_task(running.analyze(image)) for image in images]
            await running.waiting(len(images))
        alone, *among = [rows_of(await answer) for answer in (first, *answers)]
        batches = running.telemetry.observed["sightline_predictor_batch_images", ()]
        assert sorted(batches) == [1, 3, 4], "one of each shape, whichever came first"
    assert among[0][:20] == like(alone[:20])
    assert among[2][:20] != like(alone[:20]), "another image must have another result"


@pytest.mark.parametrize("kind", ["classifier", "detector"])
async def test_every_stage_of_a_prediction_is_measured(tmp_path: Path, network: Detector, kind: str):
    async with serving(tmp_path, network=network if kind == "detector" else None) as running:
        await running.analyze()
        (stages,) = STAGE_SECONDS.values
        observed = {stage: running.telemetry.observed[STAGE_SECONDS.name, (("stage", stage),)] for stage in stages}
    assert {stage: len(times) for stage, times in observed.items()} == dict.fromkeys(stages, 1)


async def test_a_detector_is_loaded_on_request_listed_and_unloaded_like_a_classifier(running: Running):
    loaded = await running.stub.LoadModel(pb.LoadModelRequest(model_name="models/m"))
    assert loaded.size_bytes == (await running.blobs.stat("models/m/v1/weights.safetensors")).size_bytes
    await running.analyze()
    (listed,) = await running.loaded()
    assert listed.use_count == 1
    await running.stub.UnloadModel(pb.UnloadModelRequest(model_name="models/m"))
    assert await running.loaded() == []


async def test_a_pretrained_detector_finds_the_forks_of_real_photos(tmp_path: Path, weights_dir: Path, test_data: Path):
    folder = test_data / "fork_scissors"
    content = json.loads((folder / "test.json").read_text())
    truths = {one["image_id"]: one["bbox"] for one in content["annotations"]}
    found = 0
    images = content["images"][:6]
    async with serving(tmp_path, network=coco_detector(weights_dir)) as running:
        for image in images:
            answer = await running.analyze((folder / image["file_name"]).read_bytes(), score_threshold=0.2)
            size = (answer.metadata.width, answer.metadata.height)
            assert size == (image["width"], image["height"])
            found += any(iou(box, truths[image["id"]]) > 0.5 for _, _, box in rows_of(answer))
    assert found >= 4, f"{found} of {len(images)} photos"


def coco_detector(weights_dir: Path) -> Detector:
    """A detector with the published weights and numbered categories."""
    spec = DETECTORS["yolox_nano"]
    made = build_detector(spec.name, 80)
    load_detector_weights(made, safetensors.torch.load_file(weights_dir / spec.file_name), keep_head=True)
    card = ModelCard(
        kind=ModelKind.GENERIC_DETECTOR,
        categories=tuple(CardCategory(number, str(number)) for number in range(80)),
        backbones=(CardBackbone(spec.name, spec.rule, WeightsSource.YOLOX),),
        suppression=spec.suppression,
        created=detector_card().created,
    )
    return Detector(card, made)


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)
