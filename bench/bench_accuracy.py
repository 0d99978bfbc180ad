"""What a budget buys on real image sets: `python bench/bench_accuracy.py [SET ...] [--seeds N]`.

With `--all [--images N ...] [--results FILE]`: every set, with few images per category too, beside one plain head.
Rows are appended to the file, and those that are there are not measured again, so that a long run can be divided.

Reads SIGHTLINE_TEST_DATA (folders with train.json and test.json) and SIGHTLINE_WEIGHTS_DIR. Trains on train.json, with
test.json as the test dataset, which only the final evaluation uses.
"""

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import every_set, support
from sightline.client.stubs import Stubs
from sightline.v1 import model_pb2


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A set, its budget, and the goal for that budget."""

    budget_seconds: int
    goal: float
    detection: bool = False

    @property
    def metric(self) -> str:
        """The goal's metric, a field of ModelPerformance."""
        return "mean_average_precision_50" if self.detection else "accuracy_top1"

    @property
    def others(self) -> tuple[str, ...]:
        """The other metrics in the table."""
        if self.detection:
            return ("mean_average_precision_30", "mean_average_precision_75")
        return ("average_precision", "calibration_ece")


SETS = {
    "hemlock_cherry": ImageSet(180, 0.87),
    "trash": ImageSet(180, 0.74),
    "grocery": ImageSet(180, 0.80),
    "fork_scissors": ImageSet(240, 0.93, detection=True),
    "raccoon": ImageSet(300, 0.74, detection=True),
    "bccd": ImageSet(600, 0.89, detection=True),
}


def main() -> None:
    """Prints a table for each set, a row for each seed, and their mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}; with --all, of every folder")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="every set, at 2, 5, 10 and all images per category")
    parser.add_argument("--images", type=int, nargs="+", default=[2, 5, 10, 0], help="with --all, per category; 0: all")
    parser.add_argument("--results", type=Path, help="with --all: keeps the rows")
    parser.add_argument("--engine", action="store_true", help="with --all: the classifiers' ladder, without a budget")
    arguments = parser.parse_args()
    choices = every_set.sets_in(support.folder("SIGHTLINE_TEST_DATA")) if arguments.all else SETS
    names = arguments.sets or list(choices)
    if unknown := set(names) - set(choices):
        parser.error(f"no such set: {', '.join(sorted(unknown))}")
    support.folder("SIGHTLINE_WEIGHTS_DIR")
    print(support.machine())
    if arguments.all:
        measure_all(names, arguments.images, arguments.seeds, arguments.results, engine=arguments.engine)
    else:
        support.run(lambda client: [measure(client, name, arguments.seeds) for name in names])


def measure_all(names: list[str], sizes: list[int], seeds: int, results: Path | None, *, engine: bool) -> None:
    """Measures what the file does not have yet, and prints the tables of all that was asked for."""
    torch.set_num_threads(1)
    kinds = every_set.sets_in(support.folder("SIGHTLINE_TEST_DATA"))
    names = [name for name in names if not (engine and kinds[name])]
    rows = {row.key: row for row in every_set.known(results)}
    asked = {name: [(n, s) for n in ([0] if kinds[name] else sizes) for s in range(seeds)] for name in names}
    missing = {name: [pair for pair in pairs if (name, *pair) not in rows] for name, pairs in asked.items()}

    def measured(client: Stubs | None) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            for name in (name for name in names if missing[name]):
                if client is None:
                    found = every_set.measure_alone(name, missing[name], Path(scratch))
                else:
                    found = every_set.measure(client, name, missing[name], Path(scratch), detection=kinds[name])
                for row in found:
                    rows[row.key] = row
                    print(row, flush=True)
                    every_set.keep(row, results)

    if engine:
        measured(None)
    elif any(missing.values()):
        support.run(measured)
    print("\n".join(every_set.tables([rows[name, *pair] for name, pairs in asked.items() for pair in pairs])))
    print("\n* some recipe, rate or threshold was chosen on this set")


def measure(client: Stubs, name: str, seeds: int) -> None:
    """Registers a set, trains once for each seed, and prints a table."""
    wanted = SETS[name]
    data = support.folder("SIGHTLINE_TEST_DATA") / name
    for part in ("train", "test"):
        support.register(client, f"{name}-{part}", data / f"{part}.json", detection=wanted.detection)
    print(f"\n{name}: budget {wanted.budget_seconds} s, goal {wanted.metric} {wanted.goal}\n")
    columns = ("seed", wanted.metric, "95 % interval", *wanted.others, "charged", "trials", "served", "stop reason")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    reached = [row(client, name, wanted, seed) for seed in range(seeds)]
    verdict = "reached" if statistics.mean(reached) >= wanted.goal else "missed"
    print(f"\nmean {statistics.mean(reached):.3f} ({min(reached):.3f} to {max(reached):.3f}): {verdict}", flush=True)


def row(client: Stubs, name: str, wanted: ImageSet, seed: int) -> float:
    """Trains with one seed, prints its row, and returns the goal's metric."""
    kind = model_pb2.TrainingParameters.GENERIC_CLASSIFIER
    if wanted.detection:
        kind = model_pb2.TrainingParameters.GENERIC_DETECTOR
    model = support.create_model(
        client, f"{name}-{seed}", f"{name}-train", f"{name}-test", wanted.budget_seconds, seed, kind
    )
    *_, last = client.watch_model(model)
    if last.state != model_pb2.Model.SUCCEEDED:
        raise SystemExit(f"{model} did not succeed: {last.error.message}")
    found = last.performance
    interval = found.intervals.get(wanted.metric)
    cells = (
        seed,
        f"{getattr(found, wanted.metric):.3f}",
        f"{interval.low:.3f} to {interval.high:.3f}" if interval else "-",
        *(f"{getattr(found, other):.3f}" for other in wanted.others),
        f"{last.training_cost.ToTimedelta().total_seconds():.0f} s",
        last.progress.trials_done,
        last.best_trial.rsplit("/", 1)[-1],
        model_pb2.Model.StopReason.Name(last.stop_reason),
    )
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return getattr(found, wanted.metric)


if __name__ == "__main__":
    main()
