"""Reading many small objects from S3, per CPU-second of the client: as the services do, by obstore and by boto3.

`python bench/bench_reading.py [--others PYTHON] [--objects N] [--rounds N]`. Neither obstore nor boto3 is among the
dependencies: `--others` names the Python of an environment that has both. The server is Ceph's gateway on this machine;
its CPU is not counted. Each measurement is a process of its own that reads every object twice, 16 at a time, and
measures the second time. The readers take turns; a ratio is the median of those within a turn.
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any

AT_ONCE = 16
SIZES = (2_000, 30_000)  # bytes
BUCKET = "bench"


@dataclass(frozen=True)
class Server:
    """Where the objects are."""

    endpoint: str
    access_key: str
    secret_key: str


def main() -> None:
    """Prints objects per CPU-second, and the ratios to boto3."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--others", help="a Python that has obstore and boto3")
    parser.add_argument("--objects", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--measure", nargs=6, help="used by the benchmark itself")
    given = parser.parse_args()
    if given.measure:
        reader, *server, prefix, count = given.measure
        print(cpu_of(READERS[reader](Server(*server), [f"{prefix}/{n:06}" for n in range(int(count))])))
    else:
        compare_all(given.others, given.objects, given.rounds)


def compare_all(others: str | None, count: int, rounds: int) -> None:
    """Starts the server, and compares the readers for objects of each size."""
    from tests.support.ceph import CephGateway  # noqa: PLC0415 - the other environment has none of ours

    pythons = {"ours": sys.executable} | ({"boto3": others, "obstore": others} if others else {})
    with CephGateway() as server:
        for size in SIZES:
            asyncio.run(fill(server.settings(bucket=BUCKET), size, count))
            place = [server.endpoint, server.access_key, server.secret_key, str(size), str(count)]
            spent: dict[str, list[float]] = {reader: [] for reader in pythons}
            for turn in range(rounds):
                for reader in pythons if turn % 2 else reversed(pythons):
                    command = [pythons[reader], __file__, "--measure", reader, *place]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    spent[reader].append(float(done.stdout))
            report(f"{count} objects of {size} bytes, {rounds} rounds", count, spent)


def report(title: str, count: int, spent: dict[str, list[float]]) -> None:
    """Prints the readers' medians, and ratios to boto3, if it was measured."""
    print(title)
    for reader, seconds in spent.items():
        ratios = [other / own for own, other in zip(seconds, spent.get("boto3", seconds), strict=True)]
        share = f", {statistics.median(ratios):.1f} x boto3" if "boto3" in spent else ""
        print(f"  {reader:8} {count / statistics.median(seconds):6.0f} objects per CPU-second{share}", flush=True)


async def fill(settings: Any, size: int, count: int) -> None:
    """Puts the objects."""
    from services.infra.s3 import S3Blobs, s3_client  # noqa: PLC0415 - other environments lack it

    blobs, data = S3Blobs(s3_client(settings), BUCKET), random.Random(0).randbytes(size)
    await blobs.ensure_bucket()
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        await asyncio.gather(*(blobs.put(f"{size}/{n:06}", data) for n in numbers))


def cpu_of(read: Callable[[], object]) -> float:
    """CPU seconds of all threads, once everything is connected."""
    read()
    start = time.process_time()
    read()
    return time.process_time() - start


def at_once(get: Callable[[str], Awaitable[object]], keys: list[str]) -> Callable[[], None]:
    """Reads all keys in one event loop."""
    runner = asyncio.Runner()

    async def read() -> None:
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(key: str) -> None:
            async with limit:
                await get(key)

        await asyncio.gather(*(one(key) for key in keys))

    return lambda: runner.run(read())


def ours(server: Server, keys: list[str]) -> Callable[[], object]:
    """Through the services' port."""
    from services.infra.s3 import S3Blobs, s3_client  # noqa: PLC0415 - other environments lack them
    from services.kit.settings import Settings  # noqa: PLC0415 - likewise not there

    chosen: dict[str, Any] = {"s3_access_key": server.access_key, "s3_secret_key": server.secret_key}
    settings = Settings(s3_endpoint=server.endpoint, s3_secure=False, **chosen)
    return at_once(S3Blobs(s3_client(settings), BUCKET).get, keys)


def obstore(server: Server, keys: list[str]) -> Callable[[], object]:
    """obstore, by its asynchronous calls."""
    client, stores = import_module("obstore"), import_module("obstore.store")
    words = {"access_key_id": server.access_key, "secret_access_key": server.secret_key, "region": "us-east-1"}
    options = {"allow_http": True}
    store = stores.S3Store(BUCKET, endpoint=f"http://{server.endpoint}", client_options=options, **words)

    async def get(key: str) -> bytes:
        return bytes(await (await client.get_async(store, key)).bytes_async())

    return at_once(get, keys)


def boto3(server: Server, keys: list[str]) -> Callable[[], object]:
    """boto3, in threads."""
    config = import_module("botocore.config").Config(max_pool_connections=AT_ONCE, s3={"addressing_style": "path"})
    words = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
    url, region = f"http://{server.endpoint}", "us-east-1"
    client = import_module("boto3").client("s3", endpoint_url=url, region_name=region, config=config, **words)
    threads = ThreadPoolExecutor(AT_ONCE)
    return lambda: list(threads.map(lambda key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read(), keys))


READERS = {"ours": ours, "obstore": obstore, "boto3": boto3}

if __name__ == "__main__":
    main()
