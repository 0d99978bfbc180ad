"""The policies of the store: who may write where."""

from __future__ import annotations

from services.infra.store_policies import PROCESSES, policy

OUTPUT = "arn:aws:s3:::sightline/results/*"


def allowed(process: str, sid: str) -> list[str]:
    """The resources of one statement of a policy with a prefix that is open for results."""
    statements = policy(process, outputs=("results/",))["Statement"]
    return [resource for one in statements if one["Sid"] == sid for resource in one["Resource"]]


def test_only_predictor_workers_write_where_results_are_allowed_and_predictors_read_there() -> None:
    assert [process for process in PROCESSES if OUTPUT in allowed(process, "Write")] == ["predictor-worker"]
    assert [process for process in PROCESSES if OUTPUT in allowed(process, "Read")] == ["predictor"]


def test_predictors_write_nothing_but_feedback_and_their_workers_nothing_but_results() -> None:
    assert allowed("predictor", "Write") == ["arn:aws:s3:::sightline/feedback/*"]
    below = {resource.removeprefix("arn:aws:s3:::sightline/") for resource in allowed("predictor-worker", "Write")}
    assert below == {"batchPredictions/*", "projects/*/batchPredictions/*", "results/*", "doctor/*"}
