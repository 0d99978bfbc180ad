"""What a training loses when its worker has to go: `python bench/bench_notice.py [--times N]`.

A detector trains on small images of digits, in one trial. Its worker gets SIGTERM, as on a spot node whose notice has
come, or SIGKILL, as on one that is lost; the next worker continues. Prints how long the worker took to save a last
checkpoint and end, and the compute that was not saved: the ledger's entries that are not charged, which know of it what
heartbeats told.
"""

import argparse
import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path

from bench import support
from sightline.client.stubs import Stubs
from sightline.demo import scenes
from sightline.local.stack import Stack
from sightline.v1 import model_pb2, model_service_pb2

WORKER = "trainer-worker-1"
BUDGET_SECONDS = 3600
UNDISTURBED_SECONDS = 15.0  # of a trial between two signals


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="of each signal")
    times = parser.parse_args().times
    print(support.machine())
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as folder:
        asyncio.run(measure(Path(folder), times))


async def measure(folder: Path, times: int) -> None:
    """Measures in a suite in the folder, which starts another worker whenever one ends."""
    train, _ = scenes.write(folder / "images", train=120, test=1)
    async with Stack(folder / "suite", base_port=0) as stack:
        await asyncio.to_thread(trained, stack, train.coco, times)


def trained(stack: Stack, annotations: Path, times: int) -> None:
    """Trains one model and disturbs its worker."""
    with Stubs(stack.addresses) as client:
        support.register(client, "digits", annotations, detection=True)
        kind = model_pb2.TrainingParameters.GENERIC_DETECTOR
        model = support.create_model(client, "digits", "digits", "", BUDGET_SECONDS, kind=kind)
        wait_for_work(client, model)
        print("\n| signal | seconds until the worker has ended | compute not saved, s |\n|---|---|---|")
        for number in (signal.SIGTERM, signal.SIGKILL):
            found = [disturbed(stack, client, model, number) for _ in range(times)]
            ends, losses = zip(*found, strict=True)
            print(f"| {number.name} | {support.spread(ends)} | {support.spread(losses)} |", flush=True)
        client.models.CancelModel(model_service_pb2.CancelModelRequest(name=model))


def disturbed(stack: Stack, client: Stubs, model: str, number: signal.Signals) -> tuple[float, float]:
    """Sends the signal; seconds until the worker has ended, and the compute that the next one repeats."""
    before, pid, began = lost(client, model), stack.pids[WORKER], time.monotonic()
    os.kill(pid, number)
    while stack.pids.get(WORKER) == pid:
        time.sleep(0.01)
    ended = time.monotonic() - began
    wait_for_work(client, model)
    return ended, lost(client, model) - before


def wait_for_work(client: Stubs, model: str) -> None:
    """Returns once an attempt to fine-tune has gone on for a while."""
    since, seen = time.monotonic(), ("", 0)
    while time.monotonic() - since < UNDISTURBED_SECONDS:
        time.sleep(0.2)
        trials = client.models.ListTrials(model_service_pb2.ListTrialsRequest(parent=model)).trials
        now = next(((one.name, one.attempts) for one in trials if one.state == one.RUNNING and one.rung), ("", 0))
        if now != seen or not now[0]:
            since, seen = time.monotonic(), now


def lost(client: Stubs, model: str) -> float:
    """Seconds in the ledger that are not charged."""
    found = client.models.GetModel(model_service_pb2.GetModelRequest(name=model, view=model_pb2.Model.FULL))
    return sum(entry.duration.ToTimedelta().total_seconds() for entry in found.ledger if not entry.charged)


if __name__ == "__main__":
    main()
