"""The same search by one worker and by two, with one thread each: `python bench/bench_parallel.py [SET ...]`.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. Each run is a suite of its own, so that nothing is cached; its time
runs from CreateModel to SUCCEEDED. Both runs have the same budget, which pays for the whole ladder, and the same seed.
It needs a core for each worker that nothing else uses: otherwise the ratio says more about the machine.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from bench import support
from sightline.client.stubs import Stubs
from sightline.local.stack import Stack
from sightline.v1 import model_pb2, model_service_pb2, trial_pb2

GOAL = 0.6
# Seconds. Workers count once they have been there for longer than a lease; by then their children have loaded torch.
IDLE_SECONDS = 25
ONE_THREAD = {"SIGHTLINE_THREADS": "1", "OMP_NUM_THREADS": "1"}
SETS = {"eurosat": (600, False), "maize_kernels": (1800, True)}  # seconds of budget, and whether it is for detection


def main() -> None:
    """Prints both runs of each pair, and the median ratio of each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--budget", type=int, default=0, help="seconds, instead of the set's own")
    arguments = parser.parse_args()
    if unknown := set(arguments.sets) - set(SETS):
        parser.error(f"no such set: {', '.join(sorted(unknown))}")
    support.folder("SIGHTLINE_WEIGHTS_DIR")
    print(f"{support.machine()}, load {os.getloadavg()[0]:.1f}")
    for name in arguments.sets:
        ratios = [pair(name, arguments.budget or SETS[name][0]) for _ in range(arguments.pairs)]
        verdict = "reached" if statistics.median(ratios) <= GOAL else "missed"
        print(f"{name}: ratio {support.spread(ratios)}, goal at most {GOAL}: {verdict}", flush=True)


def pair(name: str, budget_seconds: int) -> float:
    """The time of two workers divided by that of one."""
    one, two = (asyncio.run(search(name, budget_seconds, workers)) for workers in (1, 2))
    return two / one


async def search(name: str, budget_seconds: int, workers: int) -> float:
    """Seconds of one training by so many workers."""
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as data:
        async with Stack(Path(data), base_port=0, workers=workers, environment=ONE_THREAD) as stack:
            return await asyncio.to_thread(timed, stack, name, budget_seconds)


def timed(stack: Stack, name: str, budget_seconds: int) -> float:
    """Registers the set, trains once, prints what ran when, and returns the seconds."""
    detection = SETS[name][1]
    kinds = model_pb2.TrainingParameters
    with Stubs(stack.addresses) as client:
        annotations = support.folder("SIGHTLINE_TEST_DATA") / name / "train.json"
        support.register(client, name, annotations, detection=detection)
        time.sleep(IDLE_SECONDS)
        began = time.perf_counter()
        kind = kinds.GENERIC_DETECTOR if detection else kinds.GENERIC_CLASSIFIER
        model = support.create_model(client, name, name, "", budget_seconds, kind=kind)
        *_, last = client.watch_model(model)
        seconds = time.perf_counter() - began
        if last.state != model_pb2.Model.SUCCEEDED:
            raise SystemExit(f"{model} did not succeed: {last.error.message}")
        cost = last.training_cost.ToTimedelta().total_seconds()
        print(f"\n{name}, {stack.workers} worker(s): {seconds:.0f} s, {cost:.0f} s charged, best {last.best_trial}")
        trials = client.models.ListTrials(model_service_pb2.ListTrialsRequest(parent=model)).trials
        for trial in trials:
            print(described(trial, last))
    return seconds


def described(trial: trial_pb2.Trial, model: model_pb2.Model) -> str:
    """When the trial ran, what it was, and what it scored."""
    began = model.create_time.ToDatetime()
    start, end = ((moment.ToDatetime() - began).total_seconds() for moment in (trial.start_time, trial.end_time))
    recipe = trial.recipe
    what = f"{'+'.join(recipe.backbones)} at {recipe.resolution}, rate {recipe.learning_rate:g}"
    return f"  {start:6.1f} to {end:6.1f} s: rung {trial.rung}, {what}, score {trial.score:.3f}"


if __name__ == "__main__":
    main()
