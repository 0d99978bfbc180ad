"""Top-1 accuracy after three minutes' budget on real image sets: `python bench/bench_accuracy.py [SET ...]`.

Needs SIGHTLINE_TEST_DATA (folders with train.json, test.json) and SIGHTLINE_WEIGHTS_DIR. Trains on train.json, with
test.json as the test dataset, which nothing but the final evaluation sees.
"""

import argparse

from bench import support
from sightline.client import Client

SETS = ("hemlock_cherry", "trash", "grocery")
BUDGET_SECONDS = 180


def main() -> None:
    """Prints a row for each set and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    support.folder("SIGHTLINE_WEIGHTS_DIR")
    print(f"{support.machine()}; budget {BUDGET_SECONDS} s")
    support.run(lambda client: measure(client, arguments.sets, arguments.seeds))


def measure(client: Client, sets: list[str], seeds: int) -> None:
    """Registers, trains and prints."""
    data = support.folder("SIGHTLINE_TEST_DATA")
    print("| set | seed | top-1 | 95 % interval | average precision | ECE | charged | trials | best |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in sets:
        for part in ("train", "test"):
            support.register(client, f"{name}-{part}", data / name / f"{part}.json")
        for seed in range(seeds):
            model = support.create_model(
                client, f"{name}-{seed}", f"{name}-train", f"{name}-test", BUDGET_SECONDS, seed
            )
            *_, last = client.watch_model(model)
            found = last.performance
            interval = found.intervals["accuracy_top1"]
            charged = last.training_cost.ToTimedelta().total_seconds()
            print(
                f"| {name} | {seed} | {found.accuracy_top1:.3f} | {interval.low:.3f} to {interval.high:.3f} "
                f"| {found.average_precision:.3f} | {found.calibration_ece:.3f} | {charged:.0f} s "
                f"| {last.progress.trials_done} | {last.best_trial.rsplit('/', 1)[-1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
