"""What tracing costs a prediction: off, on, and with a collector that cannot be reached, side by side.

`python bench/bench_tracing.py [--rounds N] [--before FOLDER]`; the folder has the source of a version to compare with.
A small network and image, so that the calls show what surrounds them. Each round asks every process in turn.
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc

from bench import support
from bench.predictor_process import classifier, first_answer, photo, running, store
from bench.served import Served
from sightline.local.ports import free_ports
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub

MODEL = "models/graphs"
CALLS = 300  # of a round


class Collector(otlp_grpc.TraceServiceServicer):
    """Takes spans and forgets them."""

    def Export(self, request: Any, context: Any) -> otlp.ExportTraceServiceResponse:  # noqa: N802 - the contract's name
        return otlp.ExportTraceServiceResponse()


def main() -> None:
    """Prints the milliseconds of a call, and of the server's CPU for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--before", type=Path)
    given = parser.parse_args()
    print(support.machine(), flush=True)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        store(folder / "store", MODEL, classifier("mobilenet_v2", 32), graphs=folder / "graphs")
        (nobody,) = free_ports(1)
        modes: dict[str, dict[str, str]] = {"off": {}}
        if given.before:
            modes["before"] = {"PYTHONPATH": str(given.before.resolve()), "PYTHONSAFEPATH": "1"}
        modes["on"] = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collecting(stack)}"}
        modes["unreachable"] = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{nobody}"}
        predictors = {
            mode: stack.enter_context(running(folder / "store", Path(os.devnull), **settings))
            for mode, settings in modes.items()
        }
        image = photo(64, 64)
        for predictor in predictors.values():
            first_answer(predictor, MODEL, image)
        report(predictors, image, given.rounds)


def collecting(stack: ExitStack) -> int:
    """The port of a collector that runs until the stack is closed."""
    server = grpc.server(ThreadPoolExecutor(1))
    otlp_grpc.add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(server.stop, None)
    return port


def report(predictors: dict[str, Served], image: bytes, rounds: int) -> None:
    """Asks each in turn, once more than counts: the first round warms up."""
    latencies = {mode: list[float]() for mode in predictors}
    cpu = {mode: list[float]() for mode in predictors}
    request = pb.AnalyzeImageRequest(model_name=MODEL, image=image)
    for number in range(rounds + 1):
        for mode, predictor in sorted(predictors.items(), reverse=number % 2 == 1):  # none is always the first
            with grpc.insecure_channel(predictor.address) as channel:
                stub, before = PredictionServiceStub(channel), predictor.cpu_seconds()
                for _ in range(CALLS):
                    start = time.perf_counter()
                    stub.AnalyzeImage(request)
                    if number:
                        latencies[mode].append(time.perf_counter() - start)
                if number:
                    cpu[mode].append((predictor.cpu_seconds() - before) / CALLS)
    base = statistics.median(latencies["off"]), statistics.median(cpu["off"])
    for mode in predictors:
        found = statistics.median(latencies[mode]), statistics.median(cpu[mode])
        spread = statistics.quantiles([1000 * one for one in cpu[mode]])
        print(
            f"{mode:12} {1000 * found[0]:6.2f} ms a call ({found[0] / base[0]:.3f} of off), "
            f"{1000 * found[1]:.2f} ms of CPU ({found[1] / base[1]:.3f}; quartiles {spread[0]:.2f}..{spread[2]:.2f})"
        )


if __name__ == "__main__":
    main()
