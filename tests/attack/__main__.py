"""Measures a dataset api under each attack: `python -m tests.attack [--before FOLDER] [--only KIND ...]`.

FOLDER has the source of another version, which is measured in the same way. For each attack, a new api is started, with
its own nats-server, store and keys. An admin calls it for some seconds, then the attack starts in another process, of
the lowest priority.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from sightline.client import keys
from sightline.client.transport.channel import OPTIONS
from sightline.client.transport.connection import bearer
from sightline.v1 import dataset_pb2
from sightline.v1 import dataset_service_pb2 as pb
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from tests.attack.kinds import HELD, KINDS, Target
from tests.support.servers import NatsServer, free_port, stop

ROOT = Path(__file__).parents[2]
CALLS_PER_SECOND = 50
SWING_SECONDS = 3.0  # between the start of the attack and the first measured call


@dataclass
class Measured:
    """What a good caller saw."""

    seconds: list[float] = field(default_factory=list[float])
    failed: int = 0

    @property
    def success(self) -> float:
        """The share of its calls that succeeded."""
        return len(self.seconds) / max(1, len(self.seconds) + self.failed)

    @property
    def p99(self) -> float:
        """Of the calls that succeeded, in milliseconds."""
        ordered = sorted(self.seconds) or [float("nan")]
        return 1000 * ordered[int(0.99 * (len(ordered) - 1))]


@dataclass(frozen=True)
class Api:
    """A running dataset api."""

    target: Target
    pid: int

    def peak_mib(self) -> float:
        """The most memory that it has had so far; nan if it is gone."""
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
        return float("nan")


@contextmanager
def running(source: Path, folder: Path) -> Generator[Api]:
    """A dataset api of this source, with the dataset that attackers watch."""
    made = {role: keys.make(role, role) for role in keys.ROLES}
    (folder / "keys").write_text("\n".join(line for _, line in made.values()) + "\n")
    coco = folder / "store" / "uploads" / "u" / "coco.json"
    coco.parent.mkdir(parents=True)
    coco.write_text("{}")
    port = free_port()
    with NatsServer(folder / "nats") as nats, (folder / "log").open("wb") as log:
        environment = os.environ | {
            "PYTHONPATH": str(source),
            "SIGHTLINE_PORT": str(port),
            "SIGHTLINE_NATS_URL": nats.url,
            "SIGHTLINE_STORE_DIRECTORY": str(folder / "store"),
            "SIGHTLINE_AUTH_KEYS": str(folder / "keys"),
        }
        command = [sys.executable, "-m", "services.dataset", "api"]
        process = subprocess.Popen(command, cwd=source, env=environment, stderr=log)
        try:
            tokens = {role: key for role, (key, _) in made.items()}
            yield Api(Target(f"127.0.0.1:{port}", tokens), process.pid)
        finally:
            stop(process)


async def good_calls(api: Api, seconds: float) -> Measured:
    """An admin's calls at a steady rate, each tenth with a health check; late ones do not delay the next."""
    found, tasks = Measured(), set[asyncio.Task[None]]()

    async def call(number: int, channel: grpc.aio.Channel) -> None:
        start = time.perf_counter()
        try:
            metadata = [bearer(api.target.tokens["admin"])]
            await DatasetServiceStub(channel).GetDataset(pb.GetDatasetRequest(name=HELD), metadata=metadata, timeout=5)
            if number % 10 == 0:
                health: Any = HealthStub(channel)
                await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError:
            found.failed += 1
        else:
            found.seconds.append(time.perf_counter() - start)

    async with grpc.aio.insecure_channel(api.target.address, options=OPTIONS) as channel:
        for number in range(round(seconds * CALLS_PER_SECOND)):
            tasks.add(asyncio.create_task(call(number, channel)))
            await asyncio.sleep(1 / CALLS_PER_SECOND)
        await asyncio.gather(*tasks)
    return found


async def create_held(api: Api) -> None:
    """Creates the dataset that no worker checks; returns once the api serves."""
    async with grpc.aio.insecure_channel(api.target.address, options=OPTIONS) as channel:
        dataset = dataset_pb2.Dataset(
            annotation_kind=dataset_pb2.Dataset.IMAGE_CLASSIFICATION,
            annotation_file_uris=["s3://sightline/uploads/u/coco.json"],
        )
        request = pb.CreateDatasetRequest(dataset_id=HELD.removeprefix("datasets/"), dataset=dataset)
        await DatasetServiceStub(channel).CreateDataset(
            request, metadata=[bearer(api.target.tokens["admin"])], timeout=60, wait_for_ready=True
        )


async def measure(kind: str, source: Path, seconds: float) -> str:
    """The cells of one attack's row for one version."""
    with tempfile.TemporaryDirectory() as folder, running(source, Path(folder)) as api:
        await create_held(api)
        quiet = await good_calls(api, seconds)
        environment = os.environ | {"SIGHTLINE_ATTACK": json.dumps([api.target.address, api.target.tokens])}
        attacker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.attack", "--strike", kind, cwd=ROOT, env=environment
        )
        try:
            await asyncio.sleep(SWING_SECONDS)
            under = await good_calls(api, seconds)
        finally:
            attacker.kill()
            await attacker.wait()
        ratio = under.p99 / quiet.p99
        return f"{under.success:.2%} | {quiet.p99:.0f} → {under.p99:.0f} ms ({ratio:.1f} x) | {api.peak_mib():.0f} MiB"


async def strike(kind: str) -> None:
    """Attacks until the process is ended, at the lowest priority: an attacker has machines of its own."""
    os.nice(19)
    address, tokens = json.loads(os.environ["SIGHTLINE_ATTACK"])
    await KINDS[kind](Target(address, tokens))


async def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="the source of the version to compare with")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="how long calls are measured, quiet and under attack"
    )
    parser.add_argument("--strike", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.strike:
        await strike(options.strike)
        return
    sources = {"now": ROOT} | ({"before": options.before.absolute()} if options.before else {})
    sys.stdout.write("| attack | version | good calls | p99, quiet → attack | peak memory |\n|---|---|---|---|---|\n")
    for kind in options.only:
        for version, source in sources.items():
            cells = await measure(kind, source, options.seconds)
            sys.stdout.write(f"| {kind} | {version} | {cells} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
