"""Real image sets with real pretrained weights: what the README promises of a few minutes' budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Command

pytestmark = [pytest.mark.slow, pytest.mark.real_data, pytest.mark.weights, pytest.mark.timeout(400)]

BUDGET_SECONDS = 180
GOALS = {"hemlock_cherry": 0.87, "trash": 0.74, "grocery": 0.80}


@pytest.mark.parametrize("name", sorted(GOALS))
def test_three_minutes_of_compute_reach_the_goal(
    name: str, sightline: Command, test_data: Path, weights_dir: Path
) -> None:
    for part in ("train", "test"):
        coco = test_data / name / f"{part}.json"
        sightline("datasets", "create", f"{name}-{part}", "--kind", "classification", "--coco", coco, "--wait")
    words = ("--dataset", f"{name}-train", "--test-dataset", f"{name}-test", "--watch", "--json")
    model = sightline("models", "train", name, *words, "--budget", f"{BUDGET_SECONDS}s").json
    assert model["state"] == "SUCCEEDED"
    assert float(model["trainingCost"].removesuffix("s")) <= BUDGET_SECONDS
    assert model["performance"]["source"] == "TEST_DATASET"
    assert model["performance"]["accuracyTop1"] >= GOALS[name]
    assert not any("random weights" in warning for warning in model.get("warnings", []))
