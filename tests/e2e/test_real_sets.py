"""Real image sets with real pretrained weights: what the README promises for a few minutes of budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Command

pytestmark = [pytest.mark.slow, pytest.mark.real_data, pytest.mark.weights, pytest.mark.timeout(800)]

# bench/bench_accuracy.py has all sets.
GOALS = {
    "hemlock_cherry": ("classification", 180, "accuracyTop1", 0.87),
    "trash": ("classification", 60, "accuracyTop1", 0.74),
    "grocery": ("classification", 180, "accuracyTop1", 0.80),
    "fork_scissors": ("detection", 240, "meanAveragePrecision50", 0.93),
}
LONG = {"trash", "grocery", "fork_scissors"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in GOALS]
)
def test_minutes_of_compute_reach_the_goal(name: str, sightline: Command, test_data: Path, weights_dir: Path) -> None:
    kind, budget_seconds, metric, goal = GOALS[name]
    for part in ("train", "test"):
        coco = test_data / name / f"{part}.json"
        sightline("datasets", "create", f"{name}-{part}", "--kind", kind, "--coco", coco, "--wait")
    words = ("--dataset", f"{name}-train", "--test-dataset", f"{name}-test", "--watch", "--json")
    if kind == "detection":
        words = (*words, "--kind", "detector")
    model = sightline("models", "train", name, *words, "--budget", f"{budget_seconds}s").json
    assert model["state"] == "SUCCEEDED"
    assert float(model["trainingCost"].removesuffix("s")) <= budget_seconds
    assert model["performance"]["source"] == "TEST_DATASET"
    assert model["performance"][metric] >= goal
    assert not any("random weights" in warning for warning in model.get("warnings", []))
