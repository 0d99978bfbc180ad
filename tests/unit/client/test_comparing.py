"""Which of two models is better: which evaluations are compared, and how it is said."""

from __future__ import annotations

import pytest

from sightline.client import errors
from sightline.client.client import Client
from sightline.client.client_aio import AsyncClient
from sightline.client.comparing import pairs
from sightline.client.results.model_comparison import ModelComparison
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import CompareEvaluationsRequest, CompareEvaluationsResponse
from sightline.v1.model_pb2 import Model
from tests.unit.cli.fakes import Fakes


def evaluation(name: str, digest: str, ended: int, **changes: object) -> Evaluation:
    """One of the present version that has SUCCEEDED."""
    made = Evaluation(name=name, state=Evaluation.SUCCEEDED, model_version="v2", test_dataset="datasets/t")
    made.snapshot_digest = digest
    made.end_time.FromSeconds(ended)
    for field, value in changes.items():
        setattr(made, field, value)
    return made


@pytest.fixture
def two(fakes: Fakes) -> Fakes:
    """Models a and b, both measured on the images x, at first, and y."""
    for name in ("a", "b"):
        fakes.models[f"models/{name}"] = Model(name=f"models/{name}", model_version="v2", state=Model.SUCCEEDED)
        for id_, digest, ended, dataset in (("e", "x", 1, "datasets/t"), ("f", "y", 2, "datasets/u")):
            full = f"models/{name}/evaluations/{id_}"
            fakes.evaluations[full] = evaluation(full, digest, ended, test_dataset=dataset)
    return fakes


def comparison(difference: float, p_value: float, count: int = 120) -> ModelComparison:
    """Of two models, `birds` and `owls`."""
    names = {
        "first_evaluation": "models/birds/evaluations/e",
        "second_evaluation": "models/owls/evaluations/f",
    }
    answer = CompareEvaluationsResponse(difference=difference, p_value=p_value, image_count=count)
    answer.interval.low, answer.interval.high = difference - 0.027, difference + 0.028
    return ModelComparison.of(CompareEvaluationsRequest(**names), answer)


def test_the_latest_evaluations_of_the_present_versions_on_the_same_images_make_a_pair() -> None:
    a, b = Model(model_version="v2"), Model(model_version="v2")
    of_a = [evaluation("a1", "x", 1), evaluation("a2", "x", 5), evaluation("a3", "y", 9), evaluation("a4", "z", 1)]
    of_b = [
        evaluation("b1", "x", 3),
        evaluation("b2", "y", 2),
        evaluation("b3", "y", 3, model_version="v1"),
        evaluation("b4", "x", 9, state=Evaluation.RUNNING),
        evaluation("b5", "", 9),
    ]
    assert [(one.name, other.name) for one, other in pairs(a, of_a, b, of_b)] == [("a2", "b1"), ("a3", "b2")]


def test_models_are_compared_where_both_were_measured_last_or_on_a_given_dataset(client: Client, two: Fakes) -> None:
    two.compared = CompareEvaluationsResponse(metric="accuracy_top1", second_value=0.9, both_right_count=0)
    found = client.models.compare("a", "models/b")
    assert (found.first, found.second) == ("models/a/evaluations/f", "models/b/evaluations/f")
    assert (found.second_value, found.both_right_count, found.first_only_right_count) == (0.9, 0, None)
    assert client.models.compare("a", "b", dataset="t").first == "models/a/evaluations/e"


async def test_the_asynchronous_client_compares_likewise(aio: AsyncClient, two: Fakes) -> None:
    found = await aio.models.compare("a", "b")
    assert found.second == "models/b/evaluations/f"
    assert (await aio.evaluations.compare(found.first, found.second)).first == found.first
    with pytest.raises(errors.EvaluationNotFound):
        await aio.models.compare("a", "b", dataset="none")
    assert len(two.requests) > 3


def test_models_that_were_measured_on_different_images_only_are_not_compared(client: Client, two: Fakes) -> None:
    for id_ in ("e", "f"):
        two.evaluations[f"models/b/evaluations/{id_}"].snapshot_digest = "changed"
    with pytest.raises(errors.EvaluationNotFound, match="models/a and models/b were not both measured") as caught:
        client.models.compare("a", "b", dataset="t")
    assert "`sightline evaluations create b NAME --dataset t`" in caught.value.fix
    assert not any(isinstance(one, CompareEvaluationsRequest) for one in two.requests)


@pytest.mark.parametrize(
    ("found", "better", "says"),
    [
        (comparison(0.031, 0.021), "models/owls/evaluations/f", "owls is better by 3.1 points (0.4 to 5.9), p = 0.021"),
        (
            comparison(-0.031, 0.0002),
            "models/birds/evaluations/e",
            "birds is better by 3.1 points (0.3 to 5.8), p < 0.001",
        ),
        (
            comparison(0.01, 0.47),
            "",
            "not distinguishable on these 120 images: owls is ahead by 1.0 points (-1.7 to 3.8), p = 0.47",
        ),
        (comparison(0, 1, 1), "", "not distinguishable on this image: they differ by 0.0 points (-2.7 to 2.8), p = 1"),
    ],
)
def test_the_verdict_is_a_sentence(found: ModelComparison, better: str, says: str) -> None:
    assert found.better == better
    assert found.verdict == says
