"""The predictor under ten times the load that it can serve: what it answers, how fast it refuses, how soon it recovers.

`python bench/bench_overload.py [--network NAME] [--size PIXELS] [--times N] [--seconds N]`. Random weights, a JPEG of
640 x 480. First 32 callers, each asking again after its answer, show normal pace and latency. Then requests arrive at
a fixed rate, whether or not earlier ones were answered, each with a deadline of twice the normal p99. The generator of
load is another process on the same cores; how much of the rate it reached is printed. It has several connections: on
one, gRPC itself keeps calls back that exceed a caller's share of the server. A refusal is timed twice: by the
generator, which may be late itself, and by the predictor, from the call's headers to its status.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from bench import support
from bench.predictor_process import classifier, first_answer, photo, running, store
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub

if TYPE_CHECKING:
    from sightline.v1.prediction_service_pb2_grpc import PredictionServiceAsyncStub  # exists for type checkers only

MODEL = "models/graphs"
CALLERS = 32
REFUSED = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)  # too busy; overloaded
CONNECTIONS = 16
MOST = 512  # requests of the generator in flight
NORMAL_SECONDS = 10.0
RECOVERY_SECONDS = 10.0
SETTLED = 10  # answers in a row whose median must be normal again


@dataclass
class Outcome:
    """Seconds until each request's end."""

    answered: list[float] = field(default_factory=list[float])
    refused: list[float] = field(default_factory=list[float])
    without_retry: int = 0  # refusals that do not say when to try again
    others: Counter[str] = field(default_factory=Counter[str])
    offered: float = 0  # requests per second that were really sent


def main() -> None:
    """Prints the normal load, the overload and the recovery."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    print(f"{given.network} at {given.size}; {support.machine()}", flush=True)
    model, image = classifier(given.network, given.size), photo()
    with tempfile.TemporaryDirectory() as scratch, multiprocessing.get_context("spawn").Pool(1) as generator:
        folder = Path(scratch)
        store(folder / "store", MODEL, model, graphs=folder / "graphs")
        log = folder / "log"
        with running(folder / "store", log) as predictor:
            first_answer(predictor, MODEL, image)
            generator.apply(closed, (predictor.address, image, 2.0))
            normal = [seconds for _, seconds in generator.apply(closed, (predictor.address, image, NORMAL_SECONDS))]
            pace, p50, p99 = len(normal) / NORMAL_SECONDS, statistics.median(normal), percentile(normal, 99)
            memory = predictor.memory_mib()
            print(
                f"normal: {pace:.0f}/s, p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms, {memory:.0f} MiB", flush=True
            )
            rate = given.times * pace
            outcome = generator.apply(opened, (predictor.address, image, rate, given.seconds, 2 * p99))
            after = generator.apply(closed, (predictor.address, image, RECOVERY_SECONDS))
            report(outcome, rate, given.seconds, p99)
            refused = refused_by(log)
            if len(refused) > 1:
                own = 1000 * statistics.median(refused), 1000 * percentile(refused, 99)
                print(f"refused, by the predictor's log: p50 {own[0]:.1f} ms, p99 {own[1]:.1f} ms")
            print(f"memory afterwards {predictor.memory_mib():.0f} MiB; recovered within {recovery(after, p50):.1f} s")


def report(outcome: Outcome, rate: float, seconds: float, p99: float) -> None:
    """What became of the requests."""
    answered, refused = outcome.answered, outcome.refused
    print(f"overload: {outcome.offered:.0f}/s of {rate:.0f} sent, {len(answered) / seconds:.0f}/s answered")
    if len(answered) > 1:
        late = percentile(answered, 99)
        print(f"answered: p50 {1000 * statistics.median(answered):.0f} ms, p99 {late / p99:.2f} of the normal one")
    if len(refused) > 1:
        print(
            f"refused: {len(refused)}, p50 {1000 * statistics.median(refused):.0f} ms, "
            f"p99 {1000 * percentile(refused, 99):.0f} ms, {outcome.without_retry} without a time to retry"
        )
    print(f"others: {dict(outcome.others)}", flush=True)


def refused_by(log: Path) -> list[float]:
    """The seconds of each call that the predictor refused, by its log."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"event": "call"' in line]
    codes = [code.name for code in REFUSED]
    return [line["seconds"] for line in lines if line["code"] in codes]


def recovery(after: list[tuple[float, float]], normal: float) -> float:
    """Seconds after the overload from which answers take a normal time: the median of some in a row."""
    for at in range(len(after) - SETTLED):
        if statistics.median(seconds for _, seconds in after[at : at + SETTLED]) <= 1.25 * normal:
            return after[at][0]
    return float("inf")


def percentile(values: list[float], at: int) -> float:
    """`at` of 100."""
    return statistics.quantiles(values, n=100)[at - 1]


def closed(address: str, image: bytes, seconds: float) -> list[tuple[float, float]]:
    """When each answer's request was sent, and the seconds it took; callers ask again after each answer."""
    return sorted(asyncio.run(_closed(address, image, seconds)))


async def _closed(address: str, image: bytes, seconds: float) -> list[tuple[float, float]]:
    answers: list[tuple[float, float]] = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub, start = PredictionServiceStub(channel), time.perf_counter()

        async def caller() -> None:
            while (sent := time.perf_counter()) < start + seconds:
                try:
                    await stub.AnalyzeImage(pb.AnalyzeImageRequest(model_name=MODEL, image=image))
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)  # still busy with what came before
                else:
                    answers.append((sent - start, time.perf_counter() - sent))

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return answers


def opened(address: str, image: bytes, rate: float, seconds: float, deadline: float) -> Outcome:
    """Requests at a rate, whatever becomes of them."""
    return asyncio.run(_opened(address, image, rate, seconds, deadline))


async def _opened(address: str, image: bytes, rate: float, seconds: float, deadline: float) -> Outcome:
    outcome = Outcome()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as calls:
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(CONNECTIONS)]
        stubs = [PredictionServiceStub(await stack.enter_async_context(channel)) for channel in channels]
        start, sent = time.perf_counter(), 0
        due, waiting = 0, set[asyncio.Task[None]]()
        while (now := time.perf_counter()) < start + seconds:
            now_due = int((now - start) * rate)
            for _ in range(min(now_due - due, MOST - len(waiting))):
                waiting.add(task := calls.create_task(_one(stubs[sent % CONNECTIONS], image, deadline, outcome)))
                task.add_done_callback(waiting.discard)
                sent += 1
            due = now_due  # what the generator could not send in time, it leaves out
            await asyncio.sleep(0.005)
        outcome.offered = sent / seconds
    return outcome


async def _one(stub: "PredictionServiceAsyncStub", image: bytes, deadline: float, outcome: Outcome) -> None:
    since = time.perf_counter()
    try:
        await stub.AnalyzeImage(pb.AnalyzeImageRequest(model_name=MODEL, image=image), timeout=deadline)
    except grpc.aio.AioRpcError as error:
        if error.code() in REFUSED:
            outcome.refused.append(time.perf_counter() - since)
            outcome.without_retry += "RetryInfo" not in str(error.trailing_metadata())
        else:
            outcome.others[error.code().name] += 1
    else:
        outcome.answered.append(time.perf_counter() - since)


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main()
