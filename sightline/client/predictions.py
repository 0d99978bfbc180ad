"""Predictions for one image, or for many images with several calls in flight."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import grpc

from sightline.client import requests
from sightline.client.calls import AsyncCalls, Calls
from sightline.client.errors import SightlineError
from sightline.client.grpc_errors import error_from, with_file
from sightline.client.requests import Image
from sightline.client.results.explanation import Explanation
from sightline.client.results.prediction import Prediction
from sightline.client.transport.channel import status_of
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest, ExplainImageRequest

IN_FLIGHT = 8
# Codes with which the next image would fail too: NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION, UNIMPLEMENTED,
# INTERNAL, UNAVAILABLE, UNAUTHENTICATED.
ABOUT_ALL = frozenset({5, 7, 9, 12, 13, 14, 16})


def predict(calls: Calls, base: AnalyzeImageRequest, image: Image) -> Prediction:
    """The prediction for one image."""
    name = requests.image_name(image)
    request = requests.with_image(base, image)
    try:
        return Prediction.of(calls.stubs.predictions.AnalyzeImage(request), name)
    except grpc.RpcError as error:
        raise _refusal(error, name) or calls.error_of(error) from error


def explain(calls: Calls, request: ExplainImageRequest, name: str) -> Explanation:
    """The explanation for the image of this name."""
    try:
        return Explanation.of(calls.stubs.predictions.ExplainImage(request), name)
    except grpc.RpcError as error:
        raise _refusal(error, name) or calls.error_of(error) from error


async def explain_async(calls: AsyncCalls, request: ExplainImageRequest, name: str) -> Explanation:
    """The asyncio version of `explain`."""
    try:
        return Explanation.of(await calls.stubs.predictions.ExplainImage(request), name)
    except grpc.RpcError as error:
        raise _refusal(error, name) or await calls.error_of(error) from error


def predict_many(calls: Calls, base: AnalyzeImageRequest, images: Iterable[Image]) -> Generator[Prediction]:
    """A prediction for each image, in the order of the images."""
    waiting: deque[Future[Prediction]] = deque()
    with ThreadPoolExecutor(IN_FLIGHT, "predict") as threads:
        try:
            for image in images:
                waiting.append(threads.submit(_settled, calls, base, image))
                if len(waiting) >= IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


async def predict_async(calls: AsyncCalls, base: AnalyzeImageRequest, image: Image) -> Prediction:
    """The asyncio version of `predict`; the file is read in a thread."""
    name = requests.image_name(image)
    request = await asyncio.to_thread(requests.with_image, base, image)
    try:
        return Prediction.of(await calls.stubs.predictions.AnalyzeImage(request), name)
    except grpc.RpcError as error:
        raise _refusal(error, name) or await calls.error_of(error) from error


async def predict_many_async(
    calls: AsyncCalls, base: AnalyzeImageRequest, images: Iterable[Image]
) -> AsyncGenerator[Prediction]:
    """The asyncio version of `predict_many`."""
    waiting: deque[asyncio.Task[Prediction]] = deque()
    try:
        for image in images:
            waiting.append(asyncio.create_task(_settled_async(calls, base, image), name="predict"))
            if len(waiting) >= IN_FLIGHT:
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _settled(calls: Calls, base: AnalyzeImageRequest, image: Image) -> Prediction:
    """The prediction, which has an error if that concerns this image only."""
    try:
        return predict(calls, base, image)
    except SightlineError as error:
        return _failed(error, image)


async def _settled_async(calls: AsyncCalls, base: AnalyzeImageRequest, image: Image) -> Prediction:
    try:
        return await predict_async(calls, base, image)
    except SightlineError as error:
        return _failed(error, image)


def _failed(error: SightlineError, image: Image) -> Prediction:
    if error.code in ABOUT_ALL:
        raise error
    return Prediction(requests.image_name(image), error=error)


def _refusal(error: grpc.RpcError, name: str) -> SightlineError | None:
    """The service's error, naming the file; None if no Sightline service responded."""
    status = status_of(error)
    return error_from(with_file(status, name)) if status.details else None
