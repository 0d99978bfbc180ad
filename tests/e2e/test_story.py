"""The README's story with the real command against the real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sightline.demo.digits import DigitSet
from tests.e2e.conftest import Command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

Sets = tuple[DigitSet, DigitSet]


@pytest.fixture(scope="session")
def _registered() -> set[str]:
    return set()


@pytest.fixture
def trained(sightline: Command, images: Sets, _registered: set[str]) -> str:
    """The name of a model that the story's first steps train, once for all tests."""
    if not _registered:
        for name, made in zip(("story-train", "story-test"), images, strict=True):
            sightline("datasets", "create", name, "--kind", "classification", "--coco", made.coco, "--wait")
        words = ("--dataset", "story-train", "--test-dataset", "story-test", "--budget", "60s", "--watch", "--json")
        model = sightline("models", "train", "story", *words).json
        assert model["state"] == "SUCCEEDED"
        _registered.add("story")
    return "story"


def test_a_dataset_is_validated_and_frozen(sightline: Command, images: Sets) -> None:
    made = images[0]
    words = ("--kind", "classification", "--coco", made.coco, "--wait", "--json")
    dataset = sightline("datasets", "create", "checked", *words).json
    assert dataset["state"] == "READY"
    assert dataset["stats"]["imageCount"] == len(made.truth)
    assert [category["name"] for category in dataset["stats"]["categories"]] == ["zero", "one", "two"]
    assert dataset["snapshotDigest"].startswith("sha256:")
    names = [each["name"] for each in sightline("datasets", "list", "--json").json["datasets"]]
    assert "datasets/checked" in names


def test_a_model_is_trained_within_its_budget_and_its_ledger_adds_up(sightline: Command, trained: str) -> None:
    model = sightline("models", "show", trained, "--json").json
    charged = _seconds(model["trainingCost"])
    assert 0 < charged <= 60
    entries = [_seconds(entry["duration"]) for entry in model["ledger"] if entry.get("charged")]
    assert sum(entries) == pytest.approx(charged, abs=1e-3)
    assert model["performance"]["source"] == "TEST_DATASET"
    assert model["performance"]["accuracyTop1"] > 0.6
    trials = sightline("models", "trials", trained, "--json").json["trials"]
    assert any(trial["state"] == "SUCCEEDED" for trial in trials)


def test_a_model_is_evaluated_on_a_chosen_dataset(sightline: Command, trained: str) -> None:
    words = ("--dataset", "story-test", "--wait", "--json")
    created = sightline("evaluations", "create", trained, "again", *words).json
    assert created["state"] == "SUCCEEDED"
    shown = sightline("evaluations", "show", trained, "again", "--json").json
    assert shown["performance"]["imageCount"] == 12
    assert shown["performance"]["confusionMatrix"]["categories"] == ["zero", "one", "two"]


def test_images_are_predicted_and_drawn(sightline: Command, trained: str, images: Sets) -> None:
    truth = images[1].truth
    files = sorted(truth)
    answers = sightline("predict", trained, *files, "--draw", "drawn", "--json").json
    right = sum(
        answer["response"]["customModelResult"]["tagsResult"]["values"][0]["name"] == truth[Path(answer["id"])]
        for answer in answers
        if answer["response"]["customModelResult"]["tagsResult"].get("values")
    )
    assert right >= 0.6 * len(files)
    assert sorted(path.stem for path in (sightline.folder / "drawn").iterdir()) == [file.stem for file in files]
    table = sightline("predict", trained, files[0]).out
    assert "%" in table


def test_lists_and_details_are_readable_without_json(sightline: Command, trained: str) -> None:
    assert trained in sightline("models", "list").out
    assert "top-1 accuracy" in sightline("models", "show", trained).out
    assert "SUCCEEDED" in sightline("models", "trials", trained).out
    assert "story-train" in sightline("datasets", "list").out
    assert sightline("datasets", "findings", "story-train").code == 0


def test_an_unknown_dataset_is_not_found(sightline: Command) -> None:
    outcome = sightline("models", "train", "m", "--dataset", "nope", "--budget", "1m", code=5)
    assert "datasetNotFound" in outcome.err
    assert outcome.out == ""


def test_an_unknown_model_is_not_found(sightline: Command, images: Sets) -> None:
    assert "ModelNotFound" in sightline("predict", "nope", images[0].coco.parent / "test/0001.png", code=5).err


def test_a_budget_of_a_second_is_refused_with_the_minimum(sightline: Command, trained: str) -> None:
    outcome = sightline("models", "train", "hasty", "--dataset", "story-train", "--budget", "1s", code=9)
    assert "notEnoughBudget" in outcome.err
    assert "the minimum is" in outcome.err
    assert "--budget" in outcome.err


def test_a_name_in_use_is_refused(sightline: Command, trained: str, images: Sets) -> None:
    words = ("--kind", "classification", "--coco", images[0].coco)
    assert "DatasetAlreadyExists" in sightline("datasets", "create", "story-train", *words, code=6).err


def test_a_small_image_is_refused_with_the_accepted_sides(sightline: Command, trained: str, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "small.png")
    outcome = sightline("predict", trained, tmp_path / "small.png", code=3)
    assert "InvalidImageSize" in outcome.err
    assert "50" in outcome.err


def test_a_dataset_with_a_missing_category_fails_and_says_where(
    sightline: Command, images: Sets, tmp_path: Path
) -> None:
    content = json.loads(images[1].coco.read_text())
    content["annotations"][0]["category_id"] = 77
    for annotation in content["annotations"]:
        annotation["category_id"] = 77
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content))
    words = ("--kind", "classification", "--coco", broken, "--images", images[1].coco.parent, "--wait")
    outcome = sightline("datasets", "create", "broken", *words, code=3)
    assert "datasets/broken failed" in outcome.err
    findings = sightline("datasets", "findings", "broken", "--json").json["findings"]
    assert any("77" in finding["message"] for finding in findings)


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))
