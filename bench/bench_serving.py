"""The predictor process against its own network in process: start, memory, throughput, latency, first predictions.

`python bench/bench_serving.py [--network NAME] [--size PIXELS] [--seconds N] [--rounds N]`. Random weights, and a JPEG
of 640 x 480. The limit is what decoding, resizing and ONNX Runtime reach in a process of their own, one thread on each
core. The generator of load takes its share of the same cores, so CPU time per request is compared too; it is that of
the predictor and of its decoding processes.
"""

import argparse
import asyncio
import os
import resource
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc.aio
import torch

from bench import support
from bench.predictor_process import classifier, first_answer, photo, running, store
from bench.served import Served
from services.vision import graph_models
from services.vision.classifier import Classifier
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub

CALLERS = (1, 8, 32)


class Load(NamedTuple):
    """What callers saw."""

    pace: float  # answers per second
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # of the predictor, for each answer
    generator: float  # share of the cores that the generator took


def main() -> None:
    """Prints each round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"{given.network} at {given.size}; {support.machine()}")
    model, image = classifier(given.network, given.size), photo()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        directory = store(folder / "store", "models/graphs", model, graphs=folder / "graphs")
        store(folder / "store", "models/plain", model, graphs=None)
        for engine in ("graphs", "plain"):
            starts = [started(folder / "store", f"models/{engine}", image) for _ in range(given.rounds)]
            seconds, memory = (statistics.median(column) for column in zip(*starts, strict=True))
            print(f"{engine:6}: first answer {seconds:.2f} s after the start, {memory:.0f} MiB")
        first_predictions(folder / "store", directory, model, image, given.rounds)
        loaded(folder / "store", directory, image, given.seconds, given.rounds)


def started(folder: Path, model: str, image: bytes) -> tuple[float, float]:
    """Seconds from a process's start to its first answer, and its memory then in MiB."""
    start = time.perf_counter()
    with running(folder) as predictor:
        first_answer(predictor, model, image)
        return time.perf_counter() - start, predictor.memory_mib()


def first_predictions(folder: Path, directory: Path, model: Classifier, image: bytes, rounds: int) -> None:
    """A model that is not in memory, against `torch.load` and a forward pass of the same network."""
    file = directory.parent / "plain.pt"
    torch.save(model.network, file)
    views = model.prepare(image)
    served: list[float] = []
    plain: list[float] = []
    with running(folder) as predictor, grpc.insecure_channel(predictor.address) as channel:
        first_answer(predictor, "models/graphs", image)
        stub = PredictionServiceStub(channel)
        for _ in range(5 * rounds):
            stub.UnloadModel(pb.UnloadModelRequest(model_name="models/graphs"))
            start = time.perf_counter()
            stub.AnalyzeImage(pb.AnalyzeImageRequest(model_name="models/graphs", image=image))
            served.append(time.perf_counter() - start)
            start = time.perf_counter()
            model.network = torch.load(file, weights_only=False)
            model.predict_prepared([views])
            plain.append(time.perf_counter() - start)
    ratio = statistics.median(one / other for one, other in zip(served, plain, strict=True))
    medians = [1000 * statistics.median(values) for values in (served, plain)]
    print(f"first prediction: {medians[0]:.0f} ms, torch.load and a pass {medians[1]:.0f} ms, ratio {ratio:.2f}")


def loaded(folder: Path, directory: Path, image: bytes, seconds: float, rounds: int) -> None:
    """Throughput and latency, in turn with the limit in process."""
    with running(folder) as predictor:
        first_answer(predictor, "models/graphs", image)
        for callers in CALLERS:
            asyncio.run(load(predictor, callers, image, 1))
            limits: list[tuple[float, float]] = []
            loads: list[Load] = []
            for _ in range(rounds):
                limits.append(limit(directory, image, min(callers, os.cpu_count() or 1), seconds))
                loads.append(asyncio.run(load(predictor, callers, image, seconds)))
            pace = statistics.median(one.pace / other[0] for one, other in zip(loads, limits, strict=True))
            cpu = statistics.median(one.cpu_ms / other[1] for one, other in zip(loads, limits, strict=True))
            of = Load(*(statistics.median(column) for column in zip(*loads, strict=True)))
            print(
                f"{callers:2} callers: {of.pace:.1f}/s, {pace:.2f} of the limit; p50 {of.p50_ms:.1f} ms, p99 "
                f"{of.p99_ms:.1f} ms; CPU {of.cpu_ms:.1f} ms, {cpu:.2f} of the limit's; generator {of.generator:.2f}"
            )


def limit(directory: Path, image: bytes, threads: int, seconds: float) -> tuple[float, float]:
    """Images per second and CPU milliseconds for each, of the same work in this process."""
    model = graph_models.load(directory)
    assert isinstance(model, graph_models.GraphClassifier)
    done = [0] * threads
    end = time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < end:
            model.predict_prepared([model.prepare(image)])
            done[index] += 1

    cpu, start = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return sum(done) / (time.perf_counter() - start), 1000 * (time.process_time() - cpu) / sum(done)


async def load(predictor: Served, callers: int, image: bytes, seconds: float) -> Load:
    """Callers that each ask again as soon as they have their answer."""
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(predictor.address) as channel:
        stub = PredictionServiceStub(channel)
        request = pb.AnalyzeImageRequest(model_name="models/graphs", image=image)
        own, cpu, start = _cpu(), predictor.cpu_seconds(), time.perf_counter()

        async def caller() -> None:
            while time.perf_counter() < start + seconds:
                since = time.perf_counter()
                await stub.AnalyzeImage(request)
                latencies.append(time.perf_counter() - since)

        await asyncio.gather(*(caller() for _ in range(callers)))
        wall = time.perf_counter() - start
        cpu, own = predictor.cpu_seconds() - cpu, _cpu() - own
    p50, p99 = (1000 * statistics.quantiles(latencies, n=100)[at] for at in (49, 98))
    share = own / wall / (os.cpu_count() or 1)
    return Load(len(latencies) / wall, p50, p99, 1000 * cpu / len(latencies), share)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
