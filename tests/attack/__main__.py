"""Measures a service under each attack: `python -m tests.attack [--before FOLDER] [--only KIND ...]`.

FOLDER has the source of another version, which is measured in the same way. For each attack, a new dataset api or
predictor is started, with its own servers, store and keys. An admin calls it for some seconds, then the attack starts
in another process, of the lowest priority. The peak of memory includes the processes that decode.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from sightline.client.transport.channel import OPTIONS
from tests.attack.files import KINDS
from tests.attack.kinds import Target, strike
from tests.attack.targets import Api, running

ROOT = Path(__file__).parents[2]
SWING_SECONDS = 3.0  # between the start of the attack and the first measured call
SAMPLE_SECONDS = 0.1  # between two looks at the memory


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


async def good_calls(api: Api, seconds: float) -> Measured:
    """An admin's calls at a steady rate; late ones do not delay the next."""
    found, tasks = Measured(), set[asyncio.Task[None]]()

    async def call(number: int, channel: grpc.aio.Channel) -> None:
        start = time.perf_counter()
        try:
            await api.good_call(channel, api.target.tokens["admin"], number)
        except grpc.aio.AioRpcError:
            found.failed += 1
        else:
            found.seconds.append(time.perf_counter() - start)

    async with grpc.aio.insecure_channel(api.target.address, options=OPTIONS) as channel:
        for number in range(round(seconds * api.calls_per_second)):
            tasks.add(asyncio.create_task(call(number, channel)))
            await asyncio.sleep(1 / api.calls_per_second)
        await asyncio.gather(*tasks)
    return found


@asynccontextmanager
async def memory_watched(api: Api) -> AsyncGenerator[list[float]]:
    """What it used within the block, in MiB, at several times."""
    seen: list[float] = []

    async def look() -> None:
        while True:
            seen.append(await asyncio.to_thread(api.memory_mib))
            await asyncio.sleep(SAMPLE_SECONDS)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        seen.append(api.peak_mib())


async def measure(kind: str, source: Path, seconds: float) -> str:
    """The cells of one attack's row for one version."""
    with tempfile.TemporaryDirectory() as folder:
        async with running(kind, source, Path(folder)) as api:
            quiet = await good_calls(api, seconds)
            environment = os.environ | {"SIGHTLINE_ATTACK": json.dumps([api.target.address, api.target.tokens])}
            command = (sys.executable, "-m", "tests.attack", "--strike", kind)
            attacker = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert attacker.stdout
                await attacker.stdout.readline()
                async with memory_watched(api) as mib:
                    await asyncio.sleep(SWING_SECONDS)
                    under = await good_calls(api, seconds)
            finally:
                attacker.kill()
                await attacker.wait()
            ratio = under.p99 / quiet.p99
            times = f"{quiet.p99:.0f} → {under.p99:.0f} ms ({ratio:.1f} x)"
            return f"{under.success:.2%} | {times} | {max(mib):.0f} MiB"


async def strike_alone(kind: str) -> None:
    """Attacks until the process is ended, at the lowest priority: an attacker has machines of its own.

    Prints a line when it begins.
    """
    os.nice(19)
    address, tokens = json.loads(os.environ["SIGHTLINE_ATTACK"])
    await strike(kind, Target(address, tokens, begun=lambda: print("begun", flush=True)))  # noqa: T201 - to the process that measures


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
        await strike_alone(options.strike)
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
