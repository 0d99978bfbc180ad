"""The predictor over many requests and cancelled streams: memory, descriptors and threads must not grow.

`python bench/bench_endurance.py [--requests N] [--streams N]`. A small network and image, so that what each request
leaves behind shows, not what it computes. The long run is `--requests 1000000 --streams 100000`.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from bench import support
from bench.predictor_process import classifier, first_answer, photo, running, store
from bench.served import Served
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub

if TYPE_CHECKING:
    from sightline.v1.prediction_service_pb2_grpc import PredictionServiceAsyncStub  # exists for type checkers only

MODEL = "models/graphs"
CALLERS = 16
LOOKS = 10  # lines to print


def main() -> None:
    """Prints what the process holds as the requests go by."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=5_000)
    given = parser.parse_args()
    print(support.machine(), flush=True)
    image = photo(64, 64)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store(folder / "store", MODEL, classifier("mobilenet_v2", 32), graphs=folder / "graphs")
        with running(folder / "store") as predictor:
            first_answer(predictor, MODEL, image)
            asyncio.run(repeated(predictor, "requests", given.requests, lambda stub: request(stub, image)))
            asyncio.run(repeated(predictor, "cancelled streams", given.streams, lambda stub: cancelled(stub, image)))


async def repeated(
    predictor: Served, what: str, count: int, call: Callable[["PredictionServiceAsyncStub"], Awaitable[None]]
) -> None:
    """Calls so many times, and looks at the process now and then."""
    done, start = 0, time.perf_counter()
    async with grpc.aio.insecure_channel(predictor.address) as channel:
        stub = PredictionServiceStub(channel)

        async def caller(until: int) -> None:
            nonlocal done
            while done < until:
                done += 1
                await call(stub)

        for look in range(1, LOOKS + 1):
            await asyncio.gather(*(caller(count * look // LOOKS) for _ in range(CALLERS)))
            pace = done / (time.perf_counter() - start)
            print(f"{done:9,} {what}: {predictor.memory_mib():.1f} MiB, {held(predictor)}; {pace:.0f}/s", flush=True)


def held(predictor: Served) -> str:
    """Descriptors and threads of the server process itself."""
    process = Path(f"/proc/{predictor.process.pid}")
    return f"{len(list((process / 'fd').iterdir()))} descriptors, {len(list((process / 'task').iterdir()))} threads"


async def request(stub: "PredictionServiceAsyncStub", image: bytes) -> None:
    """One prediction."""
    await stub.AnalyzeImage(pb.AnalyzeImageRequest(model_name=MODEL, image=image))


async def cancelled(stub: "PredictionServiceAsyncStub", image: bytes) -> None:
    """A stream that is given up with an image in work, once it has answered another: so the server has surely begun."""
    stream = stub.AnalyzeImages()
    one = pb.AnalyzeImageRequest(model_name=MODEL, image=image)
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):  # the limit of streams may end it first
        await stream.write(pb.AnalyzeImagesRequest(id="1", request=one))
        await stream.read()
        await stream.write(pb.AnalyzeImagesRequest(id="2", request=one))
    stream.cancel()


if __name__ == "__main__":
    main()
