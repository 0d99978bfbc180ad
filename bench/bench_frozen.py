"""What a CPU gains by computing the features of frozen networks from graphs, beside torch, and evaluations likewise.

`python bench/bench_frozen.py [SET ...] [--rounds N]`: the ladder's first two trials and an evaluation of the second,
with and without graphs in turn, in one process, each on a feature bank of its own; the medians, and the median of the
rounds' ratios. Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. Memory and threads are as in training children.
"""

import argparse
import os
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from bench import support
from bench.bench_recipes import KIND, ladder
from bench.engine import tested, trained
from bench.snapshots import pack
from services.trainer.engine.warm_up import warm_up
from services.trainer.messages import Result

STEPS = ("one network", "two networks", "evaluation")


def main() -> None:
    """Prints a line for each set and step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=["trash", "grocery"], metavar="SET")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    support.become_like_a_training_child()
    data, weights = support.folder("SIGHTLINE_TEST_DATA"), support.folder("SIGHTLINE_WEIGHTS_DIR")
    print(support.machine())
    warm_up()
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as scratch:
            train, test = (pack(data / name / f"{part}.json", Path(scratch) / part, KIND) for part in ("train", "test"))
            seconds: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
            for number in range(arguments.rounds + 1):  # the first warms up
                pair = [
                    run(train, test, weights, Path(scratch) / f"{number}-{by_graph}", by_graph=by_graph)
                    for by_graph in (False, True)
                ]
                for step, times in zip(STEPS, zip(*pair, strict=True), strict=True):
                    seconds[step].append(times)
        for step, pairs in seconds.items():
            torch, graph = (statistics.median(times) for times in zip(*pairs[1:], strict=True))
            ratio = statistics.median(slow / fast for slow, fast in pairs[1:])
            print(
                f"{name}, {step}: {torch:.1f} s by torch, {graph:.1f} by graphs; median ratio {ratio:.2f}", flush=True
            )


def run(train: Path, test: Path, weights: Path, root: Path, *, by_graph: bool) -> list[float]:
    """Seconds of each step."""
    threads, results = os.cpu_count() or 1, list[Result]()
    for number, recipe in enumerate(ladder(weights, 0)[:2]):
        out = root / str(number)
        results.append(trained(recipe, train, out, out / "cache", weights, by_graph=by_graph, threads=threads))
    found = tested(results[-1], test, root / "test")
    return [each.used.total_seconds() for each in (*results, found)]


if __name__ == "__main__":
    main()
