"""`sightline models` against fake services."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from pathlib import Path

import grpc
import pytest
import typer
from rich.console import Console

from sightline.cli.formats import parse_duration
from sightline.cli.watching import line, watching
from sightline.client.quantities import duration
from sightline.client.results.model import ModelData
from sightline.v1.dataset_pb2 import Dataset, DatasetProgress
from sightline.v1.insight_pb2 import Doubt
from sightline.v1.model_pb2 import Model, TrainingParameters, TrainingProgress
from sightline.v1.model_service_pb2 import (
    EstimateTrainingRequest,
    EstimateTrainingResponse,
    ExportModelRequest,
    GetModelRequest,
)
from sightline.v1.performance_pb2 import Interval, ModelPerformance
from sightline.v1.progress_pb2 import Validation, Waiting
from sightline.v1.trial_pb2 import NameUse, Recipe, Trial
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes, status


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1h1m1s", 3661),
        ("1S", 1),
        ("50ms", 0.05),
        ("1s500ms", 1.5),
        ("1m1ms", 60.001),
        ("1h30", 5400),
        ("5m30", 330),
        ("1h 30m", 5400),
        ("90 min", 5400),
        ("1.5 Hours", 5400),
        ("2 hrs 1 minute 30 sec", 7290),
    ],
)
def test_common_spellings_of_durations_are_parsed(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "ten minutes", "-5m", "5m1h", "1d", "5ms1s", "1h5", "1:30"])
def test_a_malformed_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="10m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (8.44, "8.4s"), (59.99, "1m"), (90, "1m30s"), (7500, "2h05m"), (3600, "1h00m")]
)
def test_durations_are_formatted_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("annotations", "kind"),
    [
        (Dataset.IMAGE_CLASSIFICATION, TrainingParameters.GENERIC_CLASSIFIER),
        (Dataset.OBJECT_DETECTION, TrainingParameters.GENERIC_DETECTOR),
    ],
)
def test_the_kind_of_a_model_follows_from_its_dataset(
    sightline: Command, fakes: Fakes, annotations: Dataset.AnnotationKind.ValueType, kind: int
) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets", annotation_kind=annotations)
    outcome = sightline(
        "models", "train", "m", "--dataset", "pets", "--test-dataset", "held", "--budget", "1h30m", "--json"
    )
    assert outcome.code == 0, outcome.err
    model = fakes.models["models/m"]
    assert model.training_parameters.model_kind == kind
    assert model.training_parameters.time_budget.seconds == 5400
    assert model.training_parameters.training_dataset == "datasets/pets"
    assert model.evaluation_parameters.test_dataset == "datasets/held"


def test_too_small_a_budget_is_refused_with_one_that_suffices(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets")
    message = "A budget of 1 s is not enough for datasets/pets: the minimum is 8 s, 59.2 s is suggested."
    fakes.errors["CreateModel"] = [
        status(grpc.StatusCode.FAILED_PRECONDITION, "notEnoughBudget", message, suggested_seconds="59.2")
    ]
    outcome = sightline("models", "train", "m", "--dataset", "pets", "--budget", "1s")
    assert outcome.code == 9
    assert "notEnoughBudget" in outcome.err
    assert "the minimum is 8 s" in outcome.err
    assert "--budget 60s" in outcome.err


def an_estimate(*, metric: str = "") -> EstimateTrainingResponse:
    """Of two budgets, the second with an expected accuracy if there is a metric."""
    found = EstimateTrainingResponse(device="cpu, 2 threads", calibration_factor=0.5, metric_name=metric)
    found.minimum_budget.FromSeconds(12)
    found.suggested_budget.FromSeconds(150)
    for seconds in (12, 150):
        outlook = found.outlook.add()
        outlook.budget.FromSeconds(seconds)
        outlook.expected_cost.FromSeconds(seconds - 2)
    if metric:
        found.outlook[1].metric_value = 0.82
        found.outlook[1].interval.CopyFrom(Interval(low=0.7, high=0.91, level=0.95))
    return found


def test_an_estimate_shows_budgets_and_what_to_expect_of_them(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets", annotation_kind=Dataset.IMAGE_CLASSIFICATION)
    fakes.estimate = an_estimate(metric="accuracy_top1")
    outcome = sightline("models", "estimate", "--dataset", "pets", "--test-dataset", "held", "--timeout", "2m")
    assert outcome.code == 0, outcome.err
    for words in ("12s", "2m30s", "cpu, 2 threads, charged at 0.5", "2m28s", "82.0 %  (70.0 % to 91.0 %)", "TOP-1"):
        assert words in outcome.out, words
    asked = fakes.requests[-1]
    assert isinstance(asked, EstimateTrainingRequest)
    assert asked.training_parameters.model_kind == TrainingParameters.GENERIC_CLASSIFIER
    assert asked.training_parameters.training_dataset == "datasets/pets"
    assert asked.evaluation_parameters.test_dataset == "datasets/held"
    assert 100 < fakes.patience < 125


def test_an_estimate_without_a_metric_shows_costs_alone(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets", annotation_kind=Dataset.OBJECT_DETECTION)
    fakes.estimate = an_estimate()
    outcome = sightline("models", "estimate", "--dataset", "pets")
    assert "EXPECTED COST" in outcome.out
    assert "ACCURACY" not in outcome.out
    assert sightline("models", "estimate", "--dataset", "pets", "--json").json["suggestedBudget"] == "150s"


def test_an_estimate_that_no_worker_was_free_for_says_so(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets")
    message = "datasets/pets was not measured within 30 s: no worker was free."
    fakes.errors["EstimateTraining"] = [status(grpc.StatusCode.UNAVAILABLE, "EstimateTimedOut", message)] * 5
    outcome = sightline("models", "estimate", "--dataset", "pets", "--timeout", "30s")
    assert outcome.code == 14
    assert "no worker was free" in outcome.err


def test_an_export_writes_the_archive_and_says_how_to_run_it(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    path = tmp_path / "a model.zip"
    outcome = sightline("models", "export", "m", "--format", "torch-export", "--output", str(path))
    assert outcome.code == 0, outcome.err
    assert path.read_bytes() == fakes.archive
    assert "all 2 workers are busy with other work" in outcome.err
    run = f"unzip -q '{path}' -d '{tmp_path}/a model' && cd '{tmp_path}/a model'"
    last = outcome.out.splitlines()[-1]
    assert last == f"run it: {run} && pip install -r requirements.txt && python predict.py --check IMAGE"
    assert fakes.requests[-1] == ExportModelRequest(name="models/m", format=ExportModelRequest.TORCH_EXPORT)
    again = sightline("models", "export", "m", "--output", str(tmp_path), "--json").json
    assert again["path"] == str(tmp_path / "m-v1-onnx.zip")
    assert (again["format"], again["version"], again["size_bytes"]) == ("onnx", "v1", len(fakes.archive))


def test_an_export_into_a_folder_that_does_not_exist_is_refused_at_once(
    sightline: Command, fakes: Fakes, tmp_path: Path
) -> None:
    outcome = sightline("models", "export", "m", "--output", str(tmp_path / "none" / "m.zip"))
    assert outcome.code != 0
    assert "is not a folder" in outcome.err
    assert not fakes.requests


def test_watching_a_training_that_fails_exits_with_the_code_of_its_error(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets")
    original = Fakes.check

    def check(context, rpc, request) -> None:
        original(fakes, context, rpc, request)
        if rpc == "WatchModel":
            fakes.models["models/m"].state = Model.FAILED
            failed = status(grpc.StatusCode.FAILED_PRECONDITION, "diverged", "The loss became nan.")
            fakes.models["models/m"].error.CopyFrom(failed)

    fakes.check = check
    outcome = sightline("models", "train", "m", "--dataset", "pets", "--budget", "5m", "--watch")
    assert outcome.code == 9
    assert "diverged" in outcome.err
    assert "The loss became nan." in outcome.err


def test_a_model_is_shown_with_its_metrics_its_interval_and_its_worst_category(
    sightline: Command, fakes: Fakes
) -> None:
    performance = ModelPerformance(accuracy_top1=0.971, image_count=100, source=ModelPerformance.TEST_DATASET)
    performance.intervals["accuracy_top1"].low, performance.intervals["accuracy_top1"].high = 0.95, 0.984
    performance.intervals["accuracy_top1"].level = 0.95
    performance.tag_performance["cat"].accuracy, performance.tag_performance["cat"].support = 0.5, 50
    performance.confusion_matrix.categories.extend(["cat", "dog"])
    performance.confusion_matrix.entries.add(row=0, col=1, count=25)
    fakes.models["models/m"] = Model(name="models/m", state=Model.SUCCEEDED, performance=performance, warnings=["Hm."])
    outcome = sightline("models", "show", "m")
    assert outcome.code == 0, outcome.err
    for part in ("97.1 %", "95.0 % to 98.4 %", "the test dataset", "25 × cat taken for dog", "Hm.", "50.0 %"):
        assert part in outcome.out


def test_all_figures_of_a_category_refer_to_the_decision_for_the_highest_score(
    sightline: Command, fakes: Fakes
) -> None:
    performance = ModelPerformance(accuracy_top1=0.6, image_count=20, source=ModelPerformance.TEST_DATASET)
    for name, accuracy in (("cat", 0.0), ("dog", 0.75), ("owl", 1.0)):
        tag = performance.tag_performance[name]
        tag.accuracy, tag.support = accuracy, 8 if name != "owl" else 4
        tag.precision, tag.recall, tag.f1, tag.suggested_threshold = 0.44, 1.0, 0.62, 0.01
    performance.confusion_matrix.categories.extend(["cat", "dog", "owl"])
    for row, col, count in ((0, 1, 6), (0, 2, 2), (1, 1, 6), (1, 2, 2), (2, 2, 4)):
        performance.confusion_matrix.entries.add(row=row, col=col, count=count)
    fakes.models["models/m"] = Model(name="models/m", state=Model.SUCCEEDED, performance=performance)
    out = sightline("models", "show", "m").out
    rows = [
        line.replace(" %", "").split() for line in out.splitlines() if line.strip().startswith(("cat ", "dog", "owl"))
    ]
    assert rows == [
        ["cat", "8", "0.0", "0.0"],  # never predicted, so there is no precision
        ["dog", "8", "75.0", "50.0", "60.0"],
        ["owl", "4", "100.0", "50.0", "66.7"],
    ]
    assert "the category with the highest confidence" in out


def test_a_detector_is_shown_with_its_precision_over_boxes_and_each_category(sightline: Command, fakes: Fakes) -> None:
    performance = ModelPerformance(image_count=40, source=ModelPerformance.HOLD_OUT)
    performance.mean_average_precision_30, performance.mean_average_precision_50 = 0.91, 0.82
    performance.mean_average_precision_75 = 0.43
    for name, ap in (("WBC", 0.95), ("RBC", 0.69)):
        tag = performance.tag_performance[name]
        tag.average_precision_50, tag.precision, tag.recall, tag.f1, tag.support = ap, 0.88, 0.77, 0.82, 250
        tag.suggested_threshold = 0.31
    fakes.models["models/m"] = Model(name="models/m", state=Model.SUCCEEDED, performance=performance)
    fakes.models["models/m"].training_parameters.model_kind = TrainingParameters.GENERIC_DETECTOR
    outcome = sightline("models", "show", "m")
    for part in ("detector", "mAP at IoU 0.30", "91.0 %", "82.0 %", "mAP at IoU 0.75", "43.0 %", "BOXES"):
        assert part in outcome.out
    rows = [
        line.replace(" %", "").split() for line in outcome.out.splitlines() if line.strip().startswith(("RBC", "WBC"))
    ]
    assert rows[0] == ["RBC", "250", "69.0", "88.0", "77.0", "82.0", "31.0"], "the worst comes first"
    assert [row[0] for row in rows] == ["RBC", "WBC"]
    assert "82.0 % mAP at IoU 0.50" in sightline("models", "list").out


def test_trials_are_listed_with_the_metric_that_compares_them(sightline: Command, fakes: Fakes) -> None:
    recipe = Recipe(backbones=["yolox_nano"], head="detection", depth=Recipe.LAST_STAGES, resolution=416)
    tried = Trial(name="models/m/trials/t1", score=0.61, standard_error=0.02, recipe=recipe)
    tried.score_metric = "mean_average_precision_50"
    fakes.trials = [tried, Trial(name="models/m/trials/t2", recipe=recipe)]
    fakes.trials[1].recipe.refit = True
    outcome = sightline("models", "trials", "m")
    assert "mAP at IoU 0.50" in outcome.out
    (first,) = [line for line in outcome.out.splitlines() if line.strip().startswith("t1")]
    (refit,) = [line for line in outcome.out.splitlines() if line.strip().startswith("t2")]
    assert "yolox_nano, detection, last stages, 416 px" in first
    assert "61.0 % ± 2.0 %" in first
    assert "on all images" in refit
    assert "%" not in refit


def test_trials_say_what_reused_features_saved(sightline: Command, fakes: Fakes) -> None:
    fakes.trials = [Trial(name="models/m/trials/t1"), Trial(name="models/m/trials/t2")]
    assert "SAVED" not in sightline("models", "trials", "m").out
    fakes.trials[0].features.reused_blocks = 2
    fakes.trials[0].features.saved.FromSeconds(75)
    outcome = sightline("models", "trials", "m").out
    assert "SAVED" in outcome
    (first,) = [line for line in outcome.splitlines() if line.strip().startswith("t1")]
    assert "1m15s" in first


def test_trials_say_that_category_names_helped(sightline: Command, fakes: Fakes) -> None:
    fakes.trials = [Trial(name=f"models/m/trials/t{number}") for number in range(3)]
    for trial, effect in zip(fakes.trials, (NameUse.NONE, NameUse.CENTRE, NameUse.ALONE), strict=True):
        trial.recipe.backbones.append("net")
        trial.category_names.CopyFrom(NameUse(effect=effect, network="net"))
    none, centre, alone = (line for line in sightline("models", "trials", "m").out.splitlines() if " net" in line)
    assert "category" not in none
    assert "net, from category names" in centre
    assert "net, category names alone" in alone


def test_a_caller_can_have_category_names_ignored(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets")
    arguments = ("models", "train", "m", "--dataset", "pets", "--budget", "10m")
    for flags in ((), ("--ignore-category-names",)):
        assert sightline(*arguments, *flags).code == 0
        given = fakes.models.pop("models/m").training_parameters.hyperparameters
        assert given.ignore_category_names == bool(flags)


def test_markup_in_names_is_printed_literally(sightline: Command, fakes: Fakes) -> None:
    fakes.models["models/m"] = Model(name="models/m", warnings=["[bold]not bold[/bold]"])
    assert "[bold]not bold[/bold]" in sightline("models", "show", "m").out


def test_watching_without_a_terminal_prints_a_line_for_each_change(sightline: Command, fakes: Fakes) -> None:
    states = watched()
    fakes.watched["models/m"] = [*states, states[-1]]
    fakes.models["models/m"] = states[-1]
    outcome = sightline("models", "watch", "m")
    assert outcome.code == 0, outcome.err
    lines = outcome.err.splitlines()
    assert len(lines) == 4, "two equal states, and one that differs by seconds only, are one line"
    assert "dataset birds: 12 of 48 images checked" in lines[0]
    assert "all 2 workers are busy with other work (3 jobs ahead)" in lines[1]
    for part in ("t001 mobilenet_v2 linear: computing features, 43 %", "1 trial done", "94.0 % top-1 accuracy (90.0 %"):
        assert part in lines[2]
    assert "12s of 1m used" in lines[2]
    assert "about 40s left, an estimate" in lines[2]
    assert "done" in lines[3]
    assert "SUCCEEDED" in outcome.out


def test_watching_a_training_that_fails_ends_with_its_error(sightline: Command, fakes: Fakes) -> None:
    failed = Model(name="models/m", state=Model.FAILED)
    failed.error.CopyFrom(status(grpc.StatusCode.FAILED_PRECONDITION, "diverged", "The loss became nan."))
    fakes.watched["models/m"] = [failed]
    outcome = sightline("models", "watch", "m")
    assert outcome.code == 9
    assert "The loss became nan." in outcome.err


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_a_training_that_ended_without_being_done_is_not_called_done(state: str) -> None:
    ended = Model(name="models/m", state=Model.State.Value(state))
    ended.progress.phase, ended.progress.fraction = TrainingProgress.FINISHED, 1
    assert line(ModelData.of(ended)).startswith(f"m: 100 %  {state.lower()}")


def test_a_terminal_shows_rungs_running_trials_budget_and_time(fakes: Fakes) -> None:
    shown = Console(width=120, force_terminal=True, record=True, file=StringIO())
    _, _, searching, *_ = watched()
    with watching(shown) as show:
        show(ModelData.of(searching))
    text = shown.export_text()
    for part in (
        "0 heads on frozen features: 1 done, 1 running",
        "t001 mobilenet_v2 linear: computing features, 43 %",
        "94.0 % top-1 accuracy (90.0 % to 97.0 %) by t000",
        "12s used, 48s left",
        "about 40s left, an estimate",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Waiting.NO_WORKER, "no trainer worker is connected (3 jobs ahead)"),
        (Waiting.WORKER_STARTING, "waiting for a worker"),
        (Waiting.DATASET_SERVICE_UNREACHABLE, "the dataset service does not respond"),
    ],
)
def test_a_training_says_why_it_waits(reason: Waiting.Reason.ValueType, words: str) -> None:
    progress = TrainingProgress(queue_position=3, waiting=Waiting(reason=reason))
    assert words in line(ModelData.of(Model(name="models/m", progress=progress)))


def watched() -> list[Model]:
    """States of a training: waiting for its dataset, for a worker, searching (twice), ended."""
    made = [Model(name="models/m", state=Model.TRAINING) for _ in range(5)]
    for model in made:
        model.training_parameters.time_budget.seconds = 60
    made[0].state = Model.NOT_STARTED
    validation = Validation(dataset="datasets/birds")
    validation.progress.phase = DatasetProgress.CHECKING_IMAGES
    validation.progress.images_done, validation.progress.images_total = 12, 48
    made[0].progress.waiting.reason = Waiting.DATASET_VALIDATING
    made[0].progress.waiting.validations.append(validation)
    made[1].progress.waiting.CopyFrom(Waiting(reason=Waiting.WORKERS_BUSY, workers=2, busy_workers=2))
    made[1].progress.queue_position = 3
    for seconds, model in ((12, made[2]), (13, made[3])):
        model.best_trial, progress = "models/m/trials/t000", model.progress
        progress.phase, progress.trials_done = TrainingProgress.SEARCHING, 1
        progress.metric_name, progress.metric_value = "accuracy_top1", 0.94
        progress.metric_interval.low, progress.metric_interval.high = 0.9, 0.97
        progress.budget_used.seconds, progress.budget_left.seconds = seconds, 60 - seconds
        progress.estimated_time_left.seconds = 40
        work = progress.running.add(name="models/m/trials/t001", recipe="mobilenet_v2 linear", step="features")
        work.progress = 0.43
        progress.rungs.add(rung=0, trials_done=1, trials_running=1)
    made[4].state, made[4].progress.phase, made[4].progress.fraction = Model.SUCCEEDED, TrainingProgress.FINISHED, 1
    return made


def test_a_model_is_shown_in_full_with_its_leaderboard_mistakes_and_learning_curve(
    sightline: Command, fakes: Fakes
) -> None:
    made = Model(name="models/m", state=Model.SUCCEEDED)
    first = made.leaderboard.add(trial="models/m/trials/t001", recipe="two networks", score=0.9, served=True)
    first.score_metric, first.log_loss, first.verdict = "accuracy_top1", 0.31, "served"
    first.score_interval.low, first.score_interval.high = 0.84, 0.94
    worse = "worse by 0.030 ± 0.010 log loss than t001 on the same 100 images"
    made.leaderboard.add(trial="models/m/trials/t000", recipe="[one] network", score=0.8, verdict=worse)
    made.worst_mistakes.add(file_name="a.jpg", true_category="cat", predicted_category="dog", probability=0.98)
    made.learning_curve.points.add(images_per_category=12.5, value=0.8)
    made.performance.calibration_bins.add(mean_confidence=0.955, accuracy=0.875, count=16)
    made.performance.mean_average_precision_50 = 0.5
    made.doubts.add(file_name="b.jpg", kind=Doubt.MISSING, category="owl", box=[1, 2, 3, 4], confidence=0.9)
    made.doubts.add(file_name="c.jpg", kind=Doubt.CATEGORY, category="owl", region_category="wren", confidence=0.8)
    fakes.models["models/m"] = made
    assert "Leaderboard" not in sightline("models", "show", "m").out
    out = " ".join(sightline("models", "show", "m", "--full").out.split())
    for part in (
        "90.0 % (84.0 % to 94.0 %) 0.310",
        worse,
        "[one] network",
        "a.jpg cat dog 98.0 %",
        "b.jpg missing owl [1, 2, 3, 4] 90.0 %",
        "c.jpg not wren owl",
        "12.5 80.0 %",
        "Calibration: how many detections are right, by confidence",
        "95.5 % 87.5 % 16",
    ):
        assert part in out
    asked = fakes.requests[-1]
    assert isinstance(asked, GetModelRequest)
    assert asked.view == Model.FULL


def test_advice_is_printed_as_sentences_or_as_json(sightline: Command, fakes: Fakes) -> None:
    fakes.models["models/m"] = Model(name="models/m", model_version="v")
    fakes.models["models/m"].learning_curve.unavailable = "It is measured for classifiers only."
    outcome = sightline("models", "advise", "m")
    assert "What more images are worth is not known. It is measured for classifiers only." in outcome.out
    document = json.loads(sightline("models", "advise", "m", "--json").out)
    assert document["advice"][0]["question"] == "More images"
    assert "classifiers only" in document["advice"][0]["sentences"][0]


def test_a_limit_of_a_predictions_cost_is_sent_and_the_cost_is_shown(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets")
    arguments = ("models", "train", "m", "--dataset", "pets", "--budget", "10m", "--max-prediction-cost", "50ms")
    assert sightline(*arguments).code == 0
    made = fakes.models["models/m"]
    assert made.training_parameters.hyperparameters.max_prediction_cost.ToTimedelta() == timedelta(milliseconds=50)
    made.prediction_cost.FromTimedelta(timedelta(microseconds=23_510))
    assert "24 ms an image" in sightline("models", "show", "m").out
    trial = Trial(name="models/m/trials/t000", state=Trial.SUCCEEDED)
    trial.prediction_cost.FromTimedelta(timedelta(microseconds=134_200))
    fakes.trials = [trial]
    assert "134 ms" in sightline("models", "trials", "m").out


def test_a_model_says_which_one_it_continues(sightline: Command, fakes: Fakes) -> None:
    fakes.datasets["datasets/pets"] = Dataset(name="datasets/pets")
    assert sightline("models", "train", "m", "--dataset", "pets", "--budget", "10m", "--base-model", "old").code == 0
    made = fakes.models["models/m"]
    assert made.training_parameters.base_model == "models/old"
    made.base_model_version = "t001.1-ab"
    assert "models/old, version t001.1-ab" in sightline("models", "show", "m").out


def test_a_model_is_loaded_listed_and_unloaded(sightline: Command, fakes: Fakes) -> None:
    shown = sightline("models", "load", "m")
    assert (shown.code, shown.out.strip()) == (0, "models/m, version v1, is loaded (6 MB)")
    assert sightline("models", "load", "other", "--json").json["pinned"] is True
    shown = sightline("models", "loaded")
    assert [line.split()[:5] for line in shown.out.splitlines() if "v1" in line] == [
        ["m", "v1", "6", "MB", "yes"],
        ["other", "v1", "6", "MB", "yes"],
    ]
    assert "unloaded models/m" in sightline("models", "unload", "m").out
    assert list(fakes.loaded) == ["models/other"]
    assert [one["modelName"] for one in sightline("models", "loaded", "--json").json["loadedModels"]] == [
        "models/other"
    ]
