"""`sightline train` against fake services."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from sightline.cli import train
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.model_pb2 import Model
from sightline.v1.model_service_pb2 import CreateModelRequest
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes, status
from tests.unit.importers import exports


@pytest.fixture
def ended(fakes: Fakes) -> None:
    """The training of `models/my-pets` predicts at once and then ends."""
    states = [
        Model(name="models/my-pets", state=state, model_version="v1") for state in (Model.TRAINING, Model.SUCCEEDED)
    ]
    fakes.watched["models/my-pets"] = states


def requested(fakes: Fakes) -> CreateModelRequest:
    return next(one for one in fakes.requests if isinstance(one, CreateModelRequest))


@pytest.mark.usefixtures("ended")
def test_a_folder_of_photos_becomes_a_model_and_the_command_says_how_to_predict(
    sightline: Command, fakes: Fakes, tmp_path: Path
) -> None:
    exports.folder_per_class(tmp_path / "my pets")
    outcome = sightline("train", tmp_path / "my pets", "--budget", "90s")
    assert outcome.code == 0, outcome.err
    assert list(fakes.datasets) == ["datasets/my-pets"]
    parameters = requested(fakes).model.training_parameters
    assert (parameters.training_dataset, parameters.time_budget.seconds) == ("datasets/my-pets", 90)
    assert "too few images" in outcome.err
    assert "it predicts already: `sightline predict my-pets IMAGE...`" in outcome.err
    assert "predict: `sightline predict my-pets IMAGE... --draw seen`" in outcome.out


@pytest.mark.usefixtures("ended")
def test_a_test_split_is_the_test_dataset(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    exports.folder_per_class(tmp_path / "pets", ("train", "test"))
    outcome = sightline("train", tmp_path / "pets", "--name", "my-pets")
    assert outcome.code == 0, outcome.err
    assert list(fakes.datasets) == ["datasets/my-pets", "datasets/my-pets-test"]
    assert requested(fakes).model.evaluation_parameters.test_dataset == "datasets/my-pets-test"
    assert "6 images for training, 6 for testing" in outcome.err


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize(
    ("options", "says"), [((), "too many images look alike or are of rare categories"), (("--test-share", "0"), "")]
)
def test_why_nothing_is_set_aside_for_testing(
    sightline: Command, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    for number in range(60):
        exports.picture(tmp_path / "my pets" / ("cat", "dog")[number % 2] / f"{number}.png")
    outcome = sightline("train", tmp_path / "my pets", *options)
    assert outcome.code == 0, outcome.err
    assert says in outcome.err
    assert ("set some aside" in outcome.err) == bool(says)


@pytest.mark.usefixtures("ended")
def test_a_name_that_is_taken_gets_a_number(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    fakes.datasets["datasets/my"] = Dataset(name="datasets/my", state=Dataset.READY)
    fakes.models["models/my-2"] = Model(name="models/my-2")
    fakes.watched["models/my-3"] = [Model(name="models/my-3", state=Model.SUCCEEDED)]
    outcome = sightline("train", exports.yolo(tmp_path / "my"), "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["name"] == "models/my-3"
    assert outcome.json["trainingParameters"]["modelKind"] == "GENERIC_DETECTOR"
    assert json.loads(fakes.files["annotations.json"])["images"]


@pytest.mark.parametrize("taken", ["datasets/my-pets", "datasets/my-pets-test", "models/my-pets"])
def test_a_given_name_that_is_taken_is_said_before_the_upload(
    sightline: Command, fakes: Fakes, tmp_path: Path, taken: str
) -> None:
    fakes.datasets |= {taken: Dataset(name=taken)} if taken.startswith("datasets") else {}
    fakes.models |= {taken: Model(name=taken)} if taken.startswith("models") else {}
    exports.folder_per_class(tmp_path / "pets", ("train", "test"))
    outcome = sightline("train", tmp_path / "pets", "--name", "my-pets")
    assert (outcome.code, f"{taken} exists" in outcome.err, fakes.files) == (6, True, {}), outcome.err
    assert "fix: choose another --name" in outcome.err
    assert ("or train on it" in outcome.err) == (taken == "datasets/my-pets")


def test_a_training_that_is_refused_leaves_no_datasets_behind(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    refused = status(
        grpc.StatusCode.FAILED_PRECONDITION, "notEnoughBudget", "1 s is too little", suggested_seconds="40"
    )
    fakes.errors["CreateModel"] = [refused]
    exports.folder_per_class(tmp_path / "pets", ("train", "test"))
    outcome = sightline("train", tmp_path / "pets", "--budget", "1s")
    assert (outcome.code, fakes.datasets) == (9, {}), outcome.err
    assert "fix: repeat with --budget 40s" in outcome.err


def test_after_an_interruption_the_dataset_is_trained_on_by_its_name(
    sightline: Command, fakes: Fakes, tmp_path: Path
) -> None:
    fakes.datasets |= {name: Dataset(name=name) for name in ("datasets/my-pets", "datasets/my-pets-test")}
    exports.folder_per_class(tmp_path / "pets", ("train", "test"))
    outcome = sightline("train", tmp_path / "pets", "--name", "my-pets")
    command = "sightline models train my-pets --dataset my-pets --test-dataset my-pets-test --budget 5m"
    assert f"or train on it: `{command}`" in outcome.err


@pytest.mark.parametrize(
    ("files", "says", "fix"),
    [
        (
            ["cat/1.jpg", "cat/2.jpg"],
            "has only one class, cat: a classifier needs at least two",
            "name the folder above",
        ),
        (["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], "there are fewer than 2 images of dog", "add images of them"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_upload(
    sightline: Command, fakes: Fakes, tmp_path: Path, files: list[str], says: str, fix: str
) -> None:
    exports.pictures(tmp_path / "pets", files)
    outcome = sightline("train", tmp_path / "pets")
    assert outcome.code == 1
    assert says in outcome.err
    assert fix in outcome.err
    assert not fakes.files


def test_a_test_split_with_all_images_is_refused_before_the_upload(
    sightline: Command, fakes: Fakes, tmp_path: Path
) -> None:
    names = [f"{number}.jpg" for number in range(4)]
    exports.pictures(tmp_path / "pets", names)
    for split in ("train", "val"):
        exports.coco_file(tmp_path / "pets" / f"{split}.json", names)
    outcome = sightline("train", tmp_path / "pets")
    assert outcome.code == 1
    assert "all images are in the split val, which leaves none for training" in outcome.err
    assert "list images in the other splits that val does not have" in outcome.err
    assert not fakes.files


def test_a_trainer_that_does_not_respond_is_said_before_the_upload(
    sightline: Command, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_TRAINER_ADDRESS", "127.0.0.1:9")
    exports.folder_per_class(tmp_path / "pets")
    outcome = sightline("train", tmp_path / "pets", "--name", "pets")
    assert outcome.code == 14
    assert "the trainer service does not respond at 127.0.0.1:9" in outcome.err
    assert not fakes.files


def test_who_interrupts_the_command_is_told_that_the_training_goes_on(
    sightline: Command, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_watched", interrupted)
    exports.folder_per_class(tmp_path / "pets")
    outcome = sightline("train", tmp_path / "pets")
    assert outcome.code == 130
    assert "the training goes on: `sightline models watch pets`, or `sightline models cancel pets`" in outcome.err
