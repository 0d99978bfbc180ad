"""How the services do with many models and datasets: `python bench/bench_many_records.py [--records N]`.

Trains one small model in a suite, stops it, writes N copies of the records of the model and of its dataset, and starts
the services again on them. The copies have no blobs, which nothing here reads. With `--keep DIR` the suite stays there
for the next run, which writes nothing.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bench import support
from services.infra.jetstream import connect
from services.infra.jetstream_records import JetStreamRecords
from sightline.client.stubs import Stubs
from sightline.demo import digits
from sightline.local.stack import Stack
from sightline.v1 import dataset_service_pb2, model_service_pb2

AT_ONCE = 128  # records that are written together
PAGE = 1000
IDLE_SECONDS = 20
BUDGET_SECONDS = 60
PROCESSES = ("nats", "dataset", "dataset-worker", "trainer", "trainer-worker-1", "predictor", "gateway")


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="of models, and as many of datasets")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="the suite's folder, now and later")
    arguments = parser.parse_args()
    print(support.machine())
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as scratch:
        asyncio.run(measure(arguments.keep or Path(scratch), arguments.records))


async def measure(folder: Path, copies: int) -> None:
    """Fills a suite's folder, then measures the suite that starts on it."""
    train, _ = digits.write(folder / "images", digits=3, per_digit=20)
    if not (folder / "suite").exists():
        async with Stack(folder / "suite", base_port=0) as stack:
            await asyncio.to_thread(trained, stack, "original", train.coco)
        async with Stack(folder / "suite", base_port=0, with_services=False) as stack:
            began = time.monotonic()
            written = await copied(stack.nats_url, copies)
            print(f"{written} records written in {time.monotonic() - began:.0f} s", flush=True)
    print("\n| | |\n|---|---|")
    limits = {f"SIGHTLINE_MAX_PROJECT_{kind}": str(10**9) for kind in ("DATASETS", "MODELS")}
    stack = Stack(folder / "suite", base_port=0, environment=limits)
    ready: dict[str, float] = {}
    began = time.monotonic()
    stack.on_ready(lambda name: ready.__setitem__(name, time.monotonic() - began))
    async with stack:
        for name in ("dataset", "trainer", "predictor"):
            line(f"{name}: seconds until it responds", f"{ready[name]:.1f}")
        await asyncio.to_thread(asked, stack)
        before = {name: cpu_seconds(pid) for name, pid in stack.pids.items()}
        await asyncio.sleep(IDLE_SECONDS)
        for name in PROCESSES:
            pid = stack.pids[name]
            share = (cpu_seconds(pid) - before[name]) / IDLE_SECONDS
            line(
                f"{name}: memory, and CPU while nothing is asked", f"{resident_mib(pid):.0f} MiB, {share:.1%} of a core"
            )
        began = time.monotonic()
        await asyncio.to_thread(trained, stack, f"another-{time.time_ns()}", train.coco)
        line("seconds to register 60 images and train on them", f"{time.monotonic() - began:.1f}")


def trained(stack: Stack, name: str, annotations: Path) -> None:
    """Registers the images and trains one trial on them."""
    with Stubs(stack.addresses) as client:
        support.register(client, name, annotations)
        client_model = support.create_model(client, name, name, "", BUDGET_SECONDS)
        *_, last = client.watch_model(client_model)
        assert last.HasField("performance"), last


async def copied(nats_url: str, copies: int) -> int:
    """Writes the copies of what is named `original`; returns how many records there are then."""
    connection = await connect(nats_url, "bench")
    records = JetStreamRecords(connection, answer_seconds=60)
    originals = {key: value for key, value in (await records.all()).items() if "original" in key}

    def named(number: int) -> Iterator[tuple[str, bytes]]:
        for key, value in originals.items():
            if key.startswith(("models/", "datasets/")):
                name = f"copy-{number:06d}"
                yield key.replace("original", name), value.replace(b"original", name.encode())

    wanted = (pair for number in range(copies) for pair in named(number))
    count = len(originals)
    while some := list(islice(wanted, AT_ONCE)):
        await asyncio.gather(*(records.create(key, value) for key, value in some))
        count += len(some)
    await connection.close()
    return count


def asked(stack: Stack) -> None:
    """Lists, gets and watches."""
    with Stubs(stack.addresses) as client:
        whole(client.models.ListModels, model_service_pb2.ListModelsRequest(page_size=PAGE), "models")
        whole(client.datasets.ListDatasets, dataset_service_pb2.ListDatasetsRequest(page_size=PAGE), "datasets")
        get = model_service_pb2.GetModelRequest(name="models/copy-000010")
        line("GetModel, median of 200", f"{median_ms(lambda: client.models.GetModel(get)):.1f} ms")
        watch = model_service_pb2.WatchModelRequest(name="models/copy-000010")

        def first() -> None:
            stream: Any = client.models.WatchModel(watch)
            next(stream)
            stream.cancel()

        line("WatchModel, to the first message, median of 200", f"{median_ms(first):.1f} ms")


def whole(rpc: Callable[[Any], Any], request: Any, words: str) -> None:
    """Every page of a list."""
    began, count, pages = time.monotonic(), 0, list[float]()
    while True:
        start = time.monotonic()
        answer = rpc(request)
        pages.append(time.monotonic() - start)
        count += len(getattr(answer, words))
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    line(
        f"listing {count} {words}, {PAGE} on a page: seconds, median and longest page",
        f"{time.monotonic() - began:.1f} s, {statistics.median(pages) * 1000:.0f} ms, {max(pages) * 1000:.0f} ms",
    )


def median_ms(call: Callable[[], object]) -> float:
    """Of 200 calls."""
    seconds = list[float]()
    for _ in range(200):
        start = time.monotonic()
        call()
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds) * 1000


def line(what: str, value: str) -> None:
    """A row of the table."""
    print(f"| {what} | {value} |", flush=True)


def cpu_seconds(pid: int) -> float:
    """What the process has used, as the kernel says."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def resident_mib(pid: int) -> float:
    """Its resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
