"""Images that are meant to harm, through the services: one is refused, and nobody else notices."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.dataset.settings import DatasetSettings
from services.kit.errors import InvalidImageSize
from services.kit.telemetry import MemoryTelemetry
from services.vision.decode_metrics import KILLS, Kill
from services.vision.decode_pool import DecodePool
from sightline.v1 import dataset_pb2 as pb
from tests.support.datasets import World, running, tagged
from tests.support.hostile_images import encoded, jpeg_of_scans
from tests.support.waiting import eventually
from tests.unit.predictor.serving import Running, serving


def kills(at: Running, reason: Kill) -> float:
    return at.telemetry.value(KILLS, reason=reason)


async def test_a_prediction_whose_caller_goes_away_ends_its_decoding(tmp_path: Path) -> None:
    async with serving(tmp_path) as at:
        await at.analyze()
        call = asyncio.create_task(at.analyze(jpeg_of_scans(7_000, 100)))
        await eventually(lambda: bool(at.predictor._decoders._turns._running))  # type: ignore[attr-defined]  # a pool
        call.cancel()
        await eventually(lambda: kills(at, Kill.CANCELLED) == 1)
        assert (await at.analyze()).metadata.width == 90


@pytest.mark.parametrize(
    ("image", "limits", "says"),
    [
        (jpeg_of_scans(64, 2_006), {}, "SIGHTLINE_MAX_IMAGE_SCANS"),
        (encoded(Image.new("1", (8_001, 8_000)), "PNG"), {}, "SIGHTLINE_MAX_PREDICTION_PIXELS"),
        (encoded(Image.new("1", (6_000, 6_000)), "PNG"), {"decode_bytes": 1 << 26}, "SIGHTLINE_DECODE_BYTES"),
        (jpeg_of_scans(3_000, 100), {"decode_cpu_seconds": 0.1}, "SIGHTLINE_DECODE_CPU_SECONDS"),
    ],
    ids=["scans", "pixels", "memory", "cpu"],
)
async def test_an_image_beyond_a_limit_is_refused_and_the_error_names_the_setting(
    tmp_path: Path, image: bytes, limits: dict[str, Any], says: str
) -> None:
    async with serving(tmp_path, **limits) as at:
        with pytest.raises(InvalidImageSize, match=says):
            await at.analyze(image)
        assert (await at.analyze()).metadata.width == 90


async def test_a_hostile_image_of_a_set_is_a_finding_and_the_others_are_accepted() -> None:
    settings = DatasetSettings(progress_seconds=0, ingest_threads=2, decode_cpu_seconds=0.1)
    async with (
        DecodePool.running(settings.decode_limits, MemoryTelemetry()) as decoders,
        running(World(settings=settings, decoders=decoders)) as world,
    ):
        coco_file, files = tagged(12)
        files["images/3.png"] = jpeg_of_scans(64, 2_006)
        files["images/4.png"] = jpeg_of_scans(3_000, 100)
        dataset = await world.register(coco_file, files)
        assert (dataset.state, dataset.stats.image_count) == (pb.Dataset.READY, 10)
        refused = [finding for finding in await world.findings() if finding.code == "imageSidesInvalid"]
        assert {finding.image_id for finding in refused} == {3, 4}
        said = " ".join(finding.message for finding in refused)
        assert "SIGHTLINE_MAX_IMAGE_SCANS" in said
        assert "SIGHTLINE_DECODE_CPU_SECONDS" in said
