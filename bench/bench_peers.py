"""The predictor beside other servers of models: answers, CPU time and memory for the same network and image.

`make bench-peers` installs the others into environments of their own and runs this; `python bench/bench_peers.py
--peers FOLDER [--network NAME] [--callers N] [--seconds N] [--rounds N]`. Random weights, 224 pixels, a JPEG of 640 x
480. mosec and LitServe run the same bundle by the same code, in a process for each core. TorchServe runs its own
handler, `image_classifier`, on the same network as TorchScript, with a worker for each core. The servers take turns, so
that a busy machine slows all of them. The generator of load is one process on the same cores; its share is printed.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc.aio
import torch

from bench import support
from bench.predictor_process import classifier, first_answer, photo, running, store
from bench.served import Served
from services.vision.classifier import Classifier
from sightline.local.ports import free_ports
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub

SIZE = 224
MODEL = "models/graphs"
WORKERS = os.cpu_count() or 1
START_SECONDS = 120.0
WARM_SECONDS = 5.0  # TorchScript compiles in its first passes
SCRIPTS = Path(__file__).parent / "peers"

Ask = Callable[[], Awaitable[object]]


class Peer(NamedTuple):
    """A running server, and what opens a connection to it for one caller."""

    name: str
    served: Served
    connect: Callable[[], Awaitable[Ask]]


class Load(NamedTuple):
    """What callers saw."""

    pace: float  # answers per second
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # of the server, for each answer
    memory_mib: float
    generator: float  # share of the cores that the generator took


def main() -> None:
    """Prints a line for each server: medians, and the median of each round's ratio to the predictor's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", type=Path, required=True, help="folder with the environments `served` and `torchserve`"
    )
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(f"{given.network} at {SIZE}, {given.callers} callers; {support.machine()}", flush=True)
    model, image = classifier(given.network, SIZE, fit="crop"), photo()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as servers:
        folder = Path(scratch)
        directory = store(folder / "store", MODEL, model, graphs=folder / "graphs")
        peers = [servers.enter_context(sightline(folder / "store", image))]
        others = [same_bundle(name, given.peers, directory, image) for name in ("mosec", "litserve")]
        peers += [servers.enter_context(other) for other in others]
        peers.append(servers.enter_context(torchserve(given.peers, folder / "torchserve", model, image)))
        for peer in peers:
            asyncio.run(load(peer, given.callers, WARM_SECONDS))
        rounds = [
            [asyncio.run(load(peer, given.callers, given.seconds)) for peer in peers] for _ in range(given.rounds)
        ]
    for at, peer in enumerate(peers):
        report(peer.name, [one[at] for one in rounds], [one[0] for one in rounds])


def report(name: str, loads: list[Load], ours: list[Load]) -> None:
    """One server's medians, and the predictor's share of them."""
    of = Load(*(statistics.median(column) for column in zip(*loads, strict=True)))
    pace, cpu, memory = (
        statistics.median(getattr(own, field) / getattr(other, field) for own, other in zip(ours, loads, strict=True))
        for field in ("pace", "cpu_ms", "memory_mib")
    )
    print(
        f"{name:10}: {of.pace:.1f}/s, p50 {of.p50_ms:.0f} ms, p99 {of.p99_ms:.0f} ms, CPU {of.cpu_ms:.1f} ms, "
        f"{of.memory_mib:.0f} MiB, generator {of.generator:.2f}; the predictor: {pace:.2f} x the answers, "
        f"{cpu:.2f} x the CPU, {memory:.2f} x the memory"
    )


async def load(peer: Peer, callers: int, seconds: float) -> Load:
    """Callers that each ask again as soon as they have their answer."""
    latencies: list[float] = []
    asks = [await peer.connect() for _ in range(callers)]
    own, cpu, start = time.process_time(), peer.served.cpu_seconds(), time.perf_counter()

    async def caller(ask: Ask) -> None:
        while time.perf_counter() < start + seconds:
            since = time.perf_counter()
            await ask()
            latencies.append(time.perf_counter() - since)

    await asyncio.gather(*map(caller, asks))
    wall = time.perf_counter() - start
    cpu, own = peer.served.cpu_seconds() - cpu, time.process_time() - own
    p50, p99 = (1000 * statistics.quantiles(latencies, n=100)[at] for at in (49, 98))
    return Load(
        len(latencies) / wall, p50, p99, 1000 * cpu / len(latencies), peer.served.memory_mib(), own / wall / WORKERS
    )


@contextmanager
def sightline(folder: Path, image: bytes) -> Generator[Peer]:
    """The predictor."""
    with running(folder) as served:
        first_answer(served, MODEL, image)

        async def connect() -> Ask:
            options = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each caller, as the others have
            stub = PredictionServiceStub(grpc.aio.insecure_channel(served.address, options=options))
            request = pb.AnalyzeImageRequest(model_name=MODEL, image=image)
            return lambda: stub.AnalyzeImage(request)

        yield Peer("sightline", served, connect)


@contextmanager
def same_bundle(name: str, peers: Path, bundle: Path, image: bytes) -> Generator[Peer]:
    """A server with our bundle and our code."""
    (port,) = free_ports(1)
    settings = {"BUNDLE": str(bundle), "WORKERS": str(WORKERS), "OMP_WAIT_POLICY": "passive"}
    command = [peers / "served" / "bin" / "python", SCRIPTS / f"{name}_server.py", "--port", str(port)]
    if name == "mosec":
        path, kind, body = "/inference", "image/jpeg", image
    else:
        text = base64.b64encode(image).decode()
        path, kind, body = "/predict", "application/json", json.dumps({"image": text}).encode()
    with started(command, port, settings, bundle.parent) as served:
        yield Peer(name, served, ready(served, path, kind, body))


@contextmanager
def torchserve(peers: Path, folder: Path, model: Classifier, image: bytes) -> Generator[Peer]:
    """TorchServe with the handler that its users start from."""
    folder.mkdir()
    traced = torch.jit.trace(model.network.eval(), torch.zeros(1, 3, SIZE, SIZE))
    assert isinstance(traced, torch.jit.ScriptModule)
    traced.save(folder / "network.pt")
    binaries = peers.absolute() / "torchserve" / "bin"
    archive = ["--model-name", "plain", "--version", "1", "--serialized-file", folder / "network.pt"]
    command = [binaries / "torch-model-archiver", *archive, "--handler", "image_classifier", "--export-path", folder]
    subprocess.run(command, check=True)
    ports = free_ports(3)
    addresses = zip(("inference", "management", "metrics"), ports, strict=True)
    lines = [f"{name}_address=http://127.0.0.1:{port}" for name, port in addresses]
    lines += [f"default_workers_per_model={WORKERS}", "disable_token_authorization=true"]
    (folder / "config.properties").write_text("\n".join(lines))
    command = [binaries / "torchserve", "--foreground", "--disable-token-auth", "--model-store", folder]
    command += ["--models", "plain.mar", "--ts-config", folder / "config.properties"]
    settings = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "LOG_LOCATION": str(folder),
        "METRICS_LOCATION": str(folder),
    }
    with started(command, ports[0], settings, folder) as served:
        yield Peer("torchserve", served, ready(served, "/predictions/plain", "image/jpeg", image))


@contextmanager
def started(command: Sequence[object], port: int, settings: dict[str, str], folder: Path) -> Generator[Served]:
    """A server as a process."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
        served = Served(process, port)
        try:
            yield served
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the children of some survive their parent
            process.wait()


def ready(served: Served, path: str, kind: str, body: bytes) -> Callable[[], Awaitable[Ask]]:
    """Waits for the first answer; then opens connections."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {served.address}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body

    async def connect() -> Ask:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)

        async def ask() -> bytes:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", answer.lower())
            content = await reader.readexactly(int(length[1]) if length else 0)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise OSError(answer.decode() + content.decode())
            return content

        return ask

    async def first() -> None:
        await (await connect())()

    end = time.monotonic() + START_SECONDS
    while True:
        try:
            asyncio.run(first())
        except (OSError, asyncio.IncompleteReadError):
            if time.monotonic() > end or served.process.poll() is not None:
                raise
            time.sleep(0.5)
        else:
            return connect


if __name__ == "__main__":
    main()
