"""The attacks on a predictor by images that cost much to decode: those of `tests.support.hostile_images`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import grpc

from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.attack.frames import KINDS
from tests.attack.kinds import MODEL, Target, attack_on, channel_to
from tests.support.hostile_images import giants, jpeg_of_scans, progressive_giant, rle_bitmap, tiff_of_one_strip

__all__ = ["KINDS"]
MAX_BYTES = 6 << 20  # of an image that a predictor takes by default
CALLS = 40  # at once


@attack_on("predictor")
async def scans_of_images(target: Target) -> None:
    """Progressive JPEGs with as many scans as are allowed, each a pass over all pixels."""
    await _predicting(target, [jpeg_of_scans(target.side, 100)])


@attack_on("predictor")
async def too_many_scans(target: Target) -> None:
    """JPEGs of 170 KB with 2,006 scans."""
    await _predicting(target, [jpeg_of_scans(64, 2_006)])


@attack_on("predictor")
async def giant_images(target: Target) -> None:
    """The largest images of every format that the limit of pixels lets through."""
    await _predicting(target, [image for image in giants(target.side).values() if len(image) <= MAX_BYTES])


@attack_on("predictor")
async def coefficients(target: Target) -> None:
    """Progressive JPEGs without subsampling, whose coefficients take more memory than their pixels."""
    await _predicting(target, [progressive_giant(target.side)])


@attack_on("predictor")
async def one_strip(target: Target) -> None:
    """TIFFs whose only strip is the whole image."""
    await _predicting(target, [tiff_of_one_strip(target.side)])


@attack_on("predictor")
async def run_lengths(target: Target) -> None:
    """Run-length-encoded BMPs, which are decoded slowly."""
    await _predicting(target, [rle_bitmap(target.side)])


async def _predicting(target: Target, images: Sequence[bytes]) -> None:
    """AnalyzeImage with these images in turn, many at once, again and again."""
    metadata, numbers = [("authorization", f"Bearer {target.tokens['predictor']}")], count()

    async def send(stub: Any) -> None:
        while True:
            number = next(numbers)
            request = pb.AnalyzeImageRequest(model_name=MODEL, image=images[number % len(images)])
            with suppress(grpc.aio.AioRpcError):
                await stub.AnalyzeImage(request, metadata=metadata, timeout=60.0)

    target.begun()
    async with channel_to(target) as channel, asyncio.TaskGroup() as group:
        for _ in range(min(CALLS, target.calls // 40)):
            group.create_task(send(PredictionServiceStub(channel)))
