"""The demos' data, drawings and checks of their results, without any service."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from services.dataset.boxes import Frame
from sightline.cli.frames import Found
from sightline.client.results.evaluation import Evaluation
from sightline.client.results.model import Model
from sightline.client.results.performance import Performance
from sightline.client.results.prediction import Prediction
from sightline.client.results.trial import Trial
from sightline.demo import __main__ as demo
from sightline.demo import digits, scenes
from sightline.demo.demos import FINDING, READING
from sightline.demo.runner import DemoFailed, judge, start_of
from sightline.demo.scenes import SceneSet
from sightline.v1 import evaluation_pb2, trial_pb2
from sightline.v1 import model_pb2 as pb
from sightline.v1.performance_pb2 import ModelPerformance
from sightline.v1.prediction_pb2 import AnalyzeImageResponse

SIDE = 256

NOT_MEASURED = Performance.of(ModelPerformance())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SceneSet, SceneSet]:
    return scenes.write(tmp_path_factory.mktemp("scenes"), train=30, test=10, side=SIDE)


def read(made: SceneSet) -> dict[str, Any]:
    return json.loads(made.coco.read_text())


def test_the_digits_split_is_stratified_and_always_the_same(tmp_path: Path) -> None:
    train, test = digits.write(tmp_path / "a", digits=2, per_digit=10)
    assert sorted(test.truth.values()) == ["one"] * 2 + ["zero"] * 2
    assert sorted(train.truth.values()) == ["one"] * 8 + ["zero"] * 8
    digits.write(tmp_path / "b", digits=2, per_digit=10)
    for file in (tmp_path / "a").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_scenes_are_the_same_each_time_and_others_with_another_seed(
    made: tuple[SceneSet, SceneSet], tmp_path: Path
) -> None:
    folder = made[0].coco.parent
    scenes.write(tmp_path / "again", train=30, test=10, side=SIDE)
    scenes.write(tmp_path / "other", train=30, test=10, side=SIDE, seed=1)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*.*"))
    assert len(files) == 42
    assert all((folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert all((folder / file).read_bytes() != (tmp_path / "other" / file).read_bytes() for file in files)


@pytest.mark.parametrize("part", [0, 1])
def test_scenes_are_valid_coco_and_the_truth_is_what_the_file_says(made: tuple[SceneSet, SceneSet], part: int) -> None:
    data, folder = read(made[part]), made[part].coco.parent
    names = {category["id"]: category["name"] for category in data["categories"]}
    assert list(names.values()) == ["zero", "one", "two", "three"]
    assert len({mark["id"] for mark in data["annotations"]}) == len(data["annotations"])
    for image in data["images"]:
        file = folder / image["file_name"]
        with Image.open(file) as sample_image:
            assert sample_image.size == (image["width"], image["height"]) == (SIDE, SIDE)
        marks = [mark for mark in data["annotations"] if mark["image_id"] == image["id"]]
        assert 1 <= len(marks) <= scenes.MOST
        found = tuple(Found(names[mark["category_id"]], tuple(mark["bbox"])) for mark in marks)
        assert made[part].truth[file] == found
        for one in found:
            assert Frame(SIDE, SIDE).clipped(one.box) == one.box
            assert scenes.SIZES[0] - 1 <= max(one.box[2:]) <= scenes.SIZES[1] + 1


def test_boxes_fit_tightly_around_the_ink(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scenes, "_crop", lambda *_: Image.new("RGB", (SIDE, SIDE), (128, 128, 128)))
    monkeypatch.setattr(scenes, "MOST", 1)
    truth = scenes.write(tmp_path, train=8, test=1, side=SIDE)[0].truth
    assert len(truth) == 8
    for file, (found,) in truth.items():
        with Image.open(file) as sample_image:
            changed = ImageChops.difference(
                sample_image.convert("RGB"), Image.new("RGB", sample_image.size, (128, 128, 128))
            )
        rows, columns = np.nonzero(np.asarray(changed.convert("L")) > 24)
        inked = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        x, y, w, h = found.box
        assert np.abs(inked - [x, y, x + w, y + h]).max() <= 4


def test_the_test_set_has_other_scans_on_other_parts_of_the_photographs() -> None:
    train, test = scenes.digits.split(4, None, 0.25, 0)
    seen = {scan.tobytes() for _, scan in train}
    assert not [1 for _, scan in test if scan.tobytes() in seen]
    assert len(test) > 100


def model(charged: float, *entries: float) -> pb.Model:
    one = pb.Model(name="models/m")
    one.training_cost.FromTimedelta(timedelta(seconds=charged))
    for seconds in entries:
        one.ledger.add(charged=True).duration.FromTimedelta(timedelta(seconds=seconds))
    one.ledger.add(charged=False).duration.FromTimedelta(timedelta(seconds=99))
    return one


@pytest.mark.parametrize(
    ("trained", "reached", "fault"),
    [
        (model(20, 12, 8), 0.9, ""),
        (model(301, 301), 0.9, "301.0 s were charged, more than the budget of 300 s"),
        (model(20, 12, 7), 0.9, "the ledger adds up to 19.00 s, but 20.00 s were charged"),
        (model(20, 12, 8), 0.2, "mAP50 is 20"),
    ],
)
def test_a_demo_fails_if_budget_ledger_or_quality_break_its_promise(
    trained: pb.Model, reached: float, fault: str
) -> None:
    measured = ModelPerformance(mean_average_precision_50=reached)
    evaluation = Evaluation.of(evaluation_pb2.Evaluation(performance=measured))
    if not fault:
        judge(300, FINDING.goal, Model.of(trained), evaluation)
        return
    with pytest.raises(DemoFailed, match=fault):
        judge(300, FINDING.goal, Model.of(trained), evaluation)


def answer(**fields: Any) -> Prediction:
    return Prediction.of(AnalyzeImageResponse(custom_model_result=fields))  # pyright: ignore[reportArgumentType] - either field


def test_both_demos_draw_what_their_models_predict(made: tuple[SceneSet, SceneSet]) -> None:
    file, truth = next(iter(made[1].truth.items()))
    x, y, w, h = truth[0].box
    box, tag = {"x": x, "y": y, "w": w, "h": h}, {"name": truth[0].name, "confidence": 0.9}
    found = answer(objects_result={"values": [{"bounding_box": box, "tags": [tag]}]})
    nothing = answer(objects_result={"values": []})
    sheet = FINDING.sheet([(file, found, truth), (file, nothing, truth)], NOT_MEASURED)
    assert ImageChops.difference(*(sheet.crop((n * 416, 60, 416 + n * 416, 500)) for n in (0, 1))).getbbox()
    read = answer(tags_result={"values": [tag]})
    assert READING.sheet([(file, read, "one"), (file, answer(tags_result={}), "one")], NOT_MEASURED).width > 300


def test_an_unknown_demo_is_refused_with_the_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.sys, "argv", ["demo", "segmentation"])
    with pytest.raises(SystemExit, match="usage: python"):
        demo.main()


def test_a_folder_in_which_a_demo_cannot_write_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sightline.demo.runner.FOLDER", tmp_path / "gone" / "demo")
    monkeypatch.setattr(demo.sys, "argv", ["demo"])
    with pytest.raises(SystemExit, match="1"):
        demo.main()
    assert "gone/demo cannot be read or written: " in capsys.readouterr().err


def test_the_demo_names_the_networks_that_training_started_from_and_their_weights() -> None:
    failed = trial_pb2.Trial(name="models/digits/trials/t000", state=trial_pb2.Trial.FAILED)
    started = trial_pb2.Trial(
        name="models/digits/trials/t001",
        recipe=trial_pb2.Recipe(backbones=["efficientnet_lite2"]),
        weights_source=trial_pb2.Trial.PACKAGE,
    )
    trials = [Trial.of(message) for message in (failed, started)]
    assert start_of(trials) == "efficientnet_lite2, weights from: package"
    assert start_of(trials[:1]) == ""
