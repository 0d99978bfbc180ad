"""Models in the studio: the list, live progress, results, and what can be done to one."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from services.gateway.studio.charts import matrix, tradeoffs
from services.gateway.studio.results import confusions
from services.gateway.studio.text import Text
from services.kit.errors import Draining, ModelNotFound
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.evaluation_service_pb2 import ListEvaluationsResponse
from sightline.v1.insight_pb2 import (
    CategoryGain,
    ExpectedGain,
    LeaderboardEntry,
    LearningCurve,
    LearningPoint,
    Mistake,
    PowerLaw,
)
from sightline.v1.model_pb2 import LedgerEntry, Model, TrainingParameters, TrainingProgress
from sightline.v1.model_service_pb2 import ListModelsResponse, ListTrialsResponse, WatchModelResponse
from sightline.v1.performance_pb2 import (
    CalibrationBin,
    ConfusionEntry,
    ConfusionMatrix,
    Interval,
    ModelPerformance,
    PrecisionRecallCurve,
    TagPerformance,
)
from sightline.v1.progress_pb2 import RunningWork, Waiting
from sightline.v1.trial_pb2 import Recipe, Trial
from tests.support.studio import browser
from tests.unit.cli.pages import Page

HOSTILE = "<script>alert(1)</script>\"'"
PARAMETERS = TrainingParameters(
    training_dataset="datasets/trees",
    model_kind=TrainingParameters.GENERIC_CLASSIFIER,
    time_budget=Duration(seconds=600),
)
MATRIX = ConfusionMatrix(
    categories=["hemlock", HOSTILE],
    entries=[ConfusionEntry(row=0, col=0, count=9), ConfusionEntry(row=1, col=0, count=3)],
)
PERFORMANCE = ModelPerformance(
    accuracy_top1=0.9375,
    intervals={"accuracy_top1": Interval(low=0.8125, high=0.98, level=0.95)},
    tag_performance={"hemlock": TagPerformance(f1=0.95, support=9), HOSTILE: TagPerformance(f1=0.5, support=3)},
    confusion_matrix=MATRIX,
    precision_recall_curves={
        HOSTILE: PrecisionRecallCurve(thresholds=[0.9, 0.2], precisions=[1, 0.5], recalls=[0.5, 1])
    },
    calibration_ece=0.0375,
    calibration_bins=[
        CalibrationBin(mean_confidence=0.5, accuracy=0.25, count=4, interval=Interval(low=0.1, high=0.6)),
        CalibrationBin(mean_confidence=1, accuracy=1, count=8, interval=Interval(low=0.7, high=1)),
    ],
    source=ModelPerformance.HOLD_OUT,
    image_count=12,
)
CURVE = LearningCurve(
    metric="accuracy_top1",
    points=[
        LearningPoint(images_per_category=5, value=0.7, interval=Interval(low=0.6, high=0.8)),
        LearningPoint(images_per_category=20, value=0.9, interval=Interval(low=0.85, high=0.95)),
    ],
    power_law=PowerLaw(a=1.0, b=0.9, c=0.75),
    added_image_count=10,
    gain=ExpectedGain(value=0.04, interval=Interval(low=0.01, high=0.07)),
    categories=[CategoryGain(category=HOSTILE, image_count=20, gain=ExpectedGain(value=0.08))],
)


def model(state: Model.State.ValueType = Model.SUCCEEDED, **changes: Any) -> Model:
    """A model."""
    return Model(name="models/m", display_name=HOSTILE, training_parameters=PARAMETERS, state=state, **changes)


TRAINED = model(
    model_version="v1",
    performance=PERFORMANCE,
    learning_curve=CURVE,
    training_dataset_version=2,
    worst_mistakes=[
        Mistake(image_id=7, file_name=HOSTILE, true_category="hemlock", predicted_category="cherry", probability=0.98)
    ],
    leaderboard=[LeaderboardEntry(trial="models/m/trials/t0", recipe="dinov2 logistic", score=0.93, served=True)],
    ledger=[LedgerEntry(trial="models/m/trials/t0", duration=Duration(seconds=9), charged=True, reason="finished")],
    stop_reason=Model.CONVERGED,
    warnings=[HOSTILE],
)
TRAINING = model(
    Model.TRAINING,
    progress=TrainingProgress(
        phase=TrainingProgress.WAITING_FOR_WORKER,
        metric_name="accuracy_top1",
        metric_value=0.875,
        metric_interval=Interval(low=0.8, high=0.95),
        budget_used=Duration(seconds=120),
        queue_position=3,
        fraction=0.2,
        waiting=Waiting(reason=Waiting.WORKERS_BUSY),
        running=[RunningWork(name="models/m/trials/t1", recipe=HOSTILE, step="fit", progress=0.5)],
    ),
)
TRIALS = ListTrialsResponse(
    trials=[Trial(name="models/m/trials/t0", state=Trial.SUCCEEDED, score=0.875, recipe=Recipe(backbones=[HOSTILE]))]
)
ANSWERS: dict[str, Any] = {
    "ListModels": lambda request: ListModelsResponse(models=[TRAINED, TRAINING], next_page_token="a&b"),
    "GetModel": lambda request: TRAINED,
    "ListTrials": lambda request: TRIALS,
    "ListEvaluations": lambda request: ListEvaluationsResponse(
        evaluations=[Evaluation(name="models/m/evaluations/e", state=Evaluation.SUCCEEDED, performance=PERFORMANCE)]
    ),
}


async def test_the_list_shows_each_model_with_its_state_and_metric_and_leads_to_the_next_page():
    async with browser(ANSWERS) as one:
        page = (await one.open("/studio/models?page=before")).text
    assert one.requests("ListModels")[0].page_token == "before"
    assert "93.8 %" in page
    assert "training" in page
    assert "/studio/models?page=a%26b" in page
    assert "<script>alert" not in page


async def test_results_have_intervals_categories_confusions_mistakes_advice_and_where_the_budget_went():
    async with browser(ANSWERS) as one:
        page = (await one.open("/studio/models/m")).text
    assert one.requests("GetModel")[0].view == Model.FULL
    assert "81.2 % – 98.0 %" in page
    assert page.index("50.0 %") < page.index("95.0 %")  # the weakest category first
    assert "3 × &lt;script&gt;" in page
    assert "/studio/datasets/trees/thumbnails/7?version=2" in page
    assert "10 more images of every category are worth +4.0 points" in page
    assert "dinov2 logistic" in page
    assert "Training ended because the score is perfect." in page
    assert "<script>alert" not in page
    assert "data-live" not in page


async def test_names_from_elsewhere_are_text_in_every_part_of_the_progress():
    answers = ANSWERS | {"GetModel": lambda request: TRAINING}
    async with browser(answers) as one:
        page = (await one.open("/studio/models/m")).text
    for words in (
        "87.5 %",
        "80.0 % – 95.0 %",
        "3 ahead in the queue",
        "busy with other trainings",
        "of 10 min",
        "2 min",
    ):
        assert words in page
    assert 'data-live="/studio/models/m/progress"' in page
    assert "<script>alert" not in page


async def test_progress_is_sent_after_every_change_until_the_training_ends():
    watched = [WatchModelResponse(model=one) for one in (TRAINING, TRAINING, TRAINED)]
    async with browser(ANSWERS | {"WatchModel": lambda request: watched}) as one:
        response = await one("GET", "/studio/models/m/progress")
    assert response.headers["content-type"].startswith("text/event-stream")
    names = [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")]
    assert names == ["progress", "progress", "ended"]
    assert "<script>alert" not in response.text
    for line in filter(None, response.text.splitlines()):
        assert line.startswith(("event: ", "data: "))


async def test_a_stream_that_breaks_is_asked_for_again_and_a_model_that_is_not_there_is_an_error():
    broken = [WatchModelResponse(model=TRAINING), Draining(service="trainer")]

    def missing(request: Any) -> Any:
        raise ModelNotFound(name="models/m")

    async with browser(ANSWERS | {"WatchModel": lambda request: broken}) as one:
        response = await one("GET", "/studio/models/m/progress")
    assert response.text.rstrip().endswith("retry: 3000")
    async with browser(ANSWERS | {"WatchModel": missing}) as one:
        assert (await one("GET", "/studio/models/m/progress")).status_code == 404


@pytest.mark.parametrize(
    ("action", "rpc", "to"),
    [("cancel", "CancelModel", "/studio/models/m"), ("delete", "DeleteModel", "/studio/models")],
)
async def test_a_training_is_cancelled_and_a_model_deleted(action: str, rpc: str, to: str):
    async with browser(ANSWERS | {rpc: lambda request: TRAINING}) as one:
        await one.open("/studio/models/m")
        response = await one.post(f"/studio/models/m/{action}")
    assert (response.status_code, response.headers["location"]) == (303, to)
    assert one.requests(rpc)[0].name == "models/m"


@pytest.mark.parametrize(
    ("roles", "tries", "deletes"),
    [(("viewer",), False, False), (("predictor",), True, False), (("trainer",), False, True), ((), True, True)],
)
async def test_a_page_offers_what_the_callers_roles_allow(roles: tuple[str, ...], tries: bool, deletes: bool):
    async with browser(ANSWERS, roles=roles) as one:
        page = (await one.open("/studio/models/m")).text
    assert ("/models/m/try" in page) == tries
    assert ("/models/m/delete" in page) == deletes


def test_cells_have_the_shade_of_their_share_of_the_row():
    classes = [cell["class"] for cell in Page(matrix(MATRIX, "models/m", Text())).all("td")[1:]]
    assert classes == ["right s6", "wrong s0", "wrong s6", "right s0"]
    assert [(one.true, one.count) for one in confusions(MATRIX)] == [(HOSTILE, 3)]


async def test_what_confidences_are_worth_is_drawn_or_only_said_if_an_earlier_version_measured_it():
    old = model(performance=ModelPerformance(calibration_ece=0.05, accuracy_top1=0.5))
    boxes = ModelPerformance(mean_average_precision_50=0.5, calibration_bins=PERFORMANCE.calibration_bins)
    pages: list[str] = []
    for found in (TRAINED, old, model(performance=boxes)):
        async with browser(ANSWERS | {"GetModel": lambda request, found=found: found}) as one:
            pages.append((await one.open("/studio/models/m")).text)
    assert "confidence 50 %: 25 % of 4 right" in pages[0]
    assert "off by 5.0 points" in pages[1]
    assert "dashed line" not in pages[1]
    assert "confidence 50 %: 25 % of 4 right" in pages[2]
    assert "off by" not in pages[2]
    assert all(" style=" not in page for page in pages)  # the policy forbids it


def test_precision_falls_from_left_to_right_as_recall_grows_and_the_suggested_threshold_is_a_point():
    tag = TagPerformance(precision=0.5, recall=1.0, suggested_threshold=0.2)
    curve = PrecisionRecallCurve(thresholds=[0.9, 0.2], precisions=[1, 0.5], recalls=[0.5, 1])
    performance = ModelPerformance(precision_recall_curves={"a": curve}, tag_performance={"a": tag})
    perfect = PrecisionRecallCurve(thresholds=[0.9, 0.8], precisions=[1, 1], recalls=[0.5, 1])
    performance.precision_recall_curves["perfect"].CopyFrom(perfect)
    (drawn,) = tradeoffs(performance, ["a", "has none", "perfect"], Text())
    page = Page(drawn.drawing)
    assert page.all("polyline")[0]["points"] == "48.0,20.0 128.0,20.0 208.0,100.0"
    assert [(dot["cx"], dot["cy"]) for dot in page.all("circle")] == [("208.0", "100.0")]
    assert drawn.average_precision is None


async def test_curves_and_calibration_are_shown_and_a_cell_leads_to_its_images():
    async with browser(ANSWERS) as one:
        page = (await one.open("/studio/models/m")).text
    assert 'points="48.0,20.0 128.0,20.0 208.0,100.0"' in page
    assert "off by 3.8 points" in page
    cell = "mistakes?true=%3Cscript%3Ealert%281%29%3C%2Fscript%3E%22%27&amp;predicted=hemlock"
    assert page.count(cell) == 2  # the cell, and the list of confusions
    assert "predicted=%3Cscript%3E" not in page  # neither an empty cell nor the diagonal leads anywhere


@pytest.mark.parametrize(
    ("source", "elsewhere"), [(ModelPerformance.HOLD_OUT, False), (ModelPerformance.TEST_DATASET, True)]
)
async def test_the_images_behind_a_cell_are_those_of_the_record_and_the_page_says_what_is_missing(
    source: ModelPerformance.Source.ValueType, elsewhere: bool
):
    matrix = ConfusionMatrix(categories=["hemlock", HOSTILE], entries=[ConfusionEntry(row=0, col=1, count=5)])
    wrong = [
        Mistake(image_id=7, file_name=HOSTILE, true_category="hemlock", predicted_category=HOSTILE),
        Mistake(image_id=8, file_name="b.jpg", true_category=HOSTILE, predicted_category="hemlock"),
    ]
    found = model(
        performance=ModelPerformance(confusion_matrix=matrix, source=source),
        worst_mistakes=wrong,
        training_dataset_version=2,
    )
    query = "true=hemlock&predicted=%3Cscript%3Ealert(1)%3C/script%3E%22'"
    async with browser({"GetModel": lambda request: found}) as one:
        page = (await one.open(f"/studio/models/m/mistakes?{query}")).text
        nothing = (await one.open("/studio/models/m/mistakes?true=%3Cscript%3E&predicted=x")).text
    assert "5 in the table" in page
    assert "/studio/datasets/trees/thumbnails/7?version=2" in page
    assert "/thumbnails/8" not in page
    assert ("table is of the test dataset" in page) == elsewhere
    assert "None of the worst mistakes" in nothing
    assert "<script>" not in page + nothing
