"""A whole registration of many small JPEGs by the real services, and what it costs for each image.

`python bench/bench_registration.py [--images N ...] [--stores folder s3]`. The images are different crops of the
photographs in SIGHTLINE_TEST_DATA, 64 pixels wide; they are in the store already, with a COCO file that gives each one
label. An api, a worker and nats-server run as processes of their own, S3 is Ceph's gateway on this machine. CPU is that
of the worker and of the processes that decode for it; the time is that from CreateDataset to READY.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import grpc
from PIL import Image

from bench import support
from services.infra.store import open_blobs
from services.kit.blobs import Blobs
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry
from sightline.v1 import dataset_pb2, dataset_service_pb2, dataset_service_pb2_grpc
from tests.support.ceph import CephGateway
from tests.support.processes import descendants
from tests.support.servers import NatsServer, free_port

SIDE = 64  # pixels
SOURCES = 200  # photographs
CATEGORIES = 10
AT_ONCE = 16  # puts
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Prints the time and the CPU of each registration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--stores", nargs="*", choices=list(STORES), default=list(STORES))
    given = parser.parse_args()
    print(support.machine())
    for store in given.stores:
        for count in given.images:
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                settings = stack.enter_context(STORES[store](folder))
                asyncio.run(fill(settings, count))
                report(store, count, *register(settings, folder, count))


def report(store: str, count: int, seconds: float, cpu: dict[str, float]) -> None:
    """Prints one registration."""
    shares = ", ".join(f"{name} {1000 * one / count:.2f}" for name, one in cpu.items())
    print(f"{store}, {count:,} images: {seconds:.0f} s; ms of CPU for each image: {shares}", flush=True)


@contextmanager
def in_folder(folder: Path) -> Generator[Settings]:
    """A folder as store."""
    yield Settings(store_directory=folder / "store", bucket="bench")


@contextmanager
def in_s3(_: Path) -> Generator[Settings]:
    """An S3 server as store, with nothing in it."""
    with CephGateway() as server:
        yield server.settings(bucket="bench")


STORES: dict[str, Callable[[Path], AbstractContextManager[Settings]]] = {"folder": in_folder, "s3": in_s3}


async def fill(settings: Settings, count: int) -> None:
    """Puts the images and their COCO file."""
    blobs, made = await open_blobs(settings, MemoryTelemetry()), crops()
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        await asyncio.gather(*(blobs.put(f"photos/images/{number:07}.jpg", next(made)) for number in numbers))
    await put_coco(blobs, count)


async def put_coco(blobs: Blobs, count: int) -> None:
    """Puts a COCO file that gives each image a label."""
    images = [{"id": n, "file_name": f"images/{n:07}.jpg", "width": SIDE, "height": SIDE} for n in range(count)]
    marks = [{"id": n, "image_id": n, "category_id": n % CATEGORIES} for n in range(count)]
    categories = [{"id": n, "name": f"category {n}"} for n in range(CATEGORIES)]
    content = {"images": images, "annotations": marks, "categories": categories}
    await blobs.put("photos/train.json", json.dumps(content).encode())


def crops() -> Iterator[bytes]:
    """JPEGs that all differ, without end."""
    rng = random.Random(0)
    paths = sorted(support.folder("SIGHTLINE_TEST_DATA").rglob("*.jpg"))
    photographs: list[Image.Image] = []
    for path in rng.sample(paths, min(SOURCES, len(paths))):
        with Image.open(path) as image:
            image.draft("RGB", (512, 512))
            photographs.append(image.convert("RGB"))
    while True:
        photograph = rng.choice(photographs)
        side = rng.randint(min(SIDE, *photograph.size), min(photograph.size))
        left, top = rng.randint(0, photograph.width - side), rng.randint(0, photograph.height - side)
        file = BytesIO()
        part = photograph.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        part.save(file, "JPEG", quality=rng.randint(80, 92))
        yield file.getvalue()


def register(settings: Settings, folder: Path, count: int) -> tuple[float, dict[str, float]]:
    """The seconds until the dataset is READY, and the CPU seconds of the worker and of its decoders."""
    port = free_port()
    environment = os.environ | {
        "SIGHTLINE_BUCKET": settings.bucket,
        "SIGHTLINE_STORE_DIRECTORY": str(settings.store_directory or ""),
        "SIGHTLINE_S3_ENDPOINT": settings.s3_endpoint,
        "SIGHTLINE_S3_ACCESS_KEY": settings.s3_access_key.get_secret_value(),
        "SIGHTLINE_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "SIGHTLINE_S3_SECURE": "false",
        "SIGHTLINE_OPEN_PREFIXES": "photos/",
        "SIGHTLINE_PORT": str(port),
    }
    with NatsServer(folder / "nats") as nats, (folder / "log").open("wb") as log:
        environment["SIGHTLINE_NATS_URL"] = nats.url
        command = [sys.executable, "-m", "services.dataset"]
        processes = [
            subprocess.Popen([*command, role], env=environment, stdout=log, stderr=log) for role in ("api", "worker")
        ]
        worker = processes[1].pid
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = dataset_service_pb2_grpc.DatasetServiceStub(channel)
                seconds = until_ready(stub, count)
            return seconds, {"worker": cpu_seconds(worker), "decoding": sum(map(cpu_seconds, descendants(worker)))}
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(60)


def until_ready(stub: dataset_service_pb2_grpc.DatasetServiceStub, count: int) -> float:
    """Registers the dataset; SystemExit unless it is READY with all images."""
    kind = dataset_pb2.Dataset.IMAGE_CLASSIFICATION
    dataset = dataset_pb2.Dataset(annotation_kind=kind, annotation_file_uris=["s3://bench/photos/train.json"])
    request = dataset_service_pb2.CreateDatasetRequest(dataset=dataset, dataset_id="photos")
    stub.CreateDataset(request, wait_for_ready=True, timeout=60)
    started = time.monotonic()
    while True:
        found = stub.GetDataset(dataset_service_pb2.GetDatasetRequest(name="datasets/photos"))
        if found.state == dataset_pb2.Dataset.READY and found.stats.image_count == count:
            return time.monotonic() - started
        if found.state not in (dataset_pb2.Dataset.VALIDATING, dataset_pb2.Dataset.STATE_UNSPECIFIED):
            raise SystemExit(f"{found.stats.image_count} of {count} images; {found.error.message}")
        time.sleep(0.2)


def cpu_seconds(pid: int) -> float:
    """Used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main()
