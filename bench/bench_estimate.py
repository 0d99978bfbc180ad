"""Estimates beside what is then charged: `python bench/bench_estimate.py [SET ...]`.

Reads SIGHTLINE_TEST_DATA (folders with train.json and test.json) and SIGHTLINE_WEIGHTS_DIR. Estimates the training of
each set, trains with the suggested budget, and prints what was expected, what was charged, and their ratio. Both depend
on what else the machine does meanwhile.
"""

import argparse
import time

from google.protobuf.duration_pb2 import Duration

from bench import support
from sightline.client.stubs import Stubs
from sightline.v1 import model_pb2
from sightline.v1 import model_service_pb2 as pb

CLASSIFICATION = ("hemlock_cherry", "trash", "grocery", "coffee_leaf", "eurosat")
DETECTION = ("fork_scissors", "raccoon", "bccd")
GOAL = 1.5  # the ratio of what was expected and what is charged, in either direction
ESTIMATE_SECONDS = 600.0
PARAMETERS = model_pb2.TrainingParameters


def main() -> None:
    """Prints a row for each set, and how many are within the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=[*CLASSIFICATION, *DETECTION], metavar="SET")
    arguments = parser.parse_args()
    if unknown := set(arguments.sets) - {*CLASSIFICATION, *DETECTION}:
        parser.error(f"no such set: {', '.join(sorted(unknown))}")
    support.folder("SIGHTLINE_WEIGHTS_DIR")
    print(support.machine())
    support.run(lambda client: measure(client, arguments.sets))


def measure(client: Stubs, names: list[str]) -> None:
    """Prints the table."""
    columns = (
        "set",
        "took",
        "minimum",
        "suggested",
        "expected cost",
        "charged",
        "ratio",
        "expected accuracy",
        "reached",
        "trials",
        "stop reason",
    )
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    ratios = [row(client, name) for name in names]
    within = sum(1 / GOAL <= ratio <= GOAL for ratio in ratios)
    print(f"\n{within} of {len(ratios)} within a factor of {GOAL}; {support.spread(ratios)}")


def row(client: Stubs, name: str) -> float:
    """Estimates and trains one set, prints its row, and returns expected over charged."""
    data, detects = support.folder("SIGHTLINE_TEST_DATA") / name, name in DETECTION
    for part in ("train", "test"):
        support.register(client, f"{name}-{part}", data / f"{part}.json", detection=detects)
    kind = PARAMETERS.GENERIC_DETECTOR if detects else PARAMETERS.GENERIC_CLASSIFIER
    asked = pb.EstimateTrainingRequest(
        training_parameters=PARAMETERS(training_dataset=f"datasets/{name}-train", model_kind=kind)
    )
    asked.evaluation_parameters.test_dataset = f"datasets/{name}-test"
    began = time.monotonic()
    found = client.models.EstimateTraining(asked, timeout=ESTIMATE_SECONDS)
    took = time.monotonic() - began
    outlook = next(each for each in found.outlook if each.budget == found.suggested_budget)
    budget = found.suggested_budget.seconds
    model = support.create_model(client, name, f"{name}-train", f"{name}-test", budget, kind=kind)
    *_, last = client.watch_model(model)
    expected, charged = seconds(outlook.expected_cost), seconds(last.training_cost)
    known = outlook.HasField("interval")
    promised = (
        f"{outlook.metric_value:.3f} ({outlook.interval.low:.3f} to {outlook.interval.high:.3f})" if known else "-"
    )
    cells = (
        name,
        f"{took:.0f} s",
        f"{found.minimum_budget.seconds} s",
        f"{budget} s",
        f"{expected:.0f} s",
        f"{charged:.0f} s",
        f"{expected / charged:.2f}",
        promised,
        f"{last.performance.mean_average_precision_50 if detects else last.performance.accuracy_top1:.3f}",
        str(last.progress.trials_done),
        model_pb2.Model.StopReason.Name(last.stop_reason),
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    return expected / charged


def seconds(span: Duration) -> float:
    """As a float."""
    return span.ToTimedelta().total_seconds()


if __name__ == "__main__":
    main()
