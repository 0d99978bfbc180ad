"""What a second training of a dataset pays on a worker with an empty folder: `python bench/bench_feature_bank.py`.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. Per pair, a training of `--set` in a new suite, then another of the
same dataset after a restart with an empty worker's folder; both have the same budget and seed.
"""

import argparse
import asyncio
import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from bench import support
from sightline.client.stubs import Stubs
from sightline.local.stack import Stack
from sightline.v1 import model_service_pb2


def main() -> None:
    """Prints each pair and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="trash")
    parser.add_argument("--budget", type=int, default=180, help="seconds")
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    annotations = support.folder("SIGHTLINE_TEST_DATA") / arguments.set / "train.json"
    support.folder("SIGHTLINE_WEIGHTS_DIR")
    print(support.machine())
    ratios = [pair(annotations, arguments.set, arguments.budget) for _ in range(arguments.pairs)]
    print(f"charged, second to first, median (minimum to maximum): {support.spread(ratios)}")


def pair(annotations: Path, dataset: str, budget: int) -> float:
    """Two trainings of one dataset; returns what the second was charged, relative to the first."""
    charged: list[float] = []
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as data:
        _with_suite(Path(data), lambda client: support.register(client, dataset, annotations))
        for name in ("first", "second"):
            shutil.rmtree(Path(data) / "work", ignore_errors=True)
            _with_suite(Path(data), lambda client, name=name: charged.append(train(client, name, dataset, budget)))
    return charged[1] / charged[0]


def train(client: Stubs, name: str, dataset: str, budget: int) -> float:
    """Trains a model, prints what its trials read and were charged, and returns the sum in seconds."""
    model = support.create_model(client, name, dataset, "", budget)
    *_, last = client.watch_model(model)
    trials = client.models.ListTrials(model_service_pb2.ListTrialsRequest(parent=model)).trials
    for trial in trials:
        use, cost = trial.features, trial.cost.ToTimedelta()
        blocks = f"{use.computed_blocks} blocks computed, {use.reused_blocks} reused"
        print(
            f"{name}: {cost / timedelta(seconds=1):.1f} s, {blocks}, saved {use.saved.ToTimedelta()}, {trial.score:.3f}"
        )
    return last.training_cost.ToTimedelta() / timedelta(seconds=1)


def _with_suite(data: Path, act: Callable[[Stubs], object]) -> None:
    def connected(stack: Stack) -> None:
        with Stubs(stack.addresses) as client:
            act(client)

    async def run() -> None:
        async with Stack(data, base_port=0) as stack:
            await asyncio.to_thread(connected, stack)

    asyncio.run(run())


if __name__ == "__main__":
    main()
