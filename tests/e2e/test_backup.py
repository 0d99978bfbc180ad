"""The drill: a suite is backed up while it works, lost, and restored into another, which answers as it did."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sightline.demo.digits import DigitSet
from tests.e2e.conftest import Command, RunningStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def without_etags(value: Any) -> Any:
    """The value without what depends on the stream that the records are in."""
    if isinstance(value, dict):
        return {name: without_etags(inner) for name, inner in value.items() if name != "etag"}
    return [without_etags(one) for one in value] if isinstance(value, list) else value


def answers(sightline: Command, image: Path) -> list[Any]:
    """What callers see of the suite."""
    asked = (("datasets", "show", "digits"), ("datasets", "findings", "digits"), ("models", "show", "m", "--full"),
             ("models", "trials", "m"), ("evaluations", "show", "m", "held-out"), ("predict", "m", image))  # fmt: skip
    return [without_etags(sightline(*words, "--json").json) for words in asked]


def test_what_was_backed_up_is_answered_by_the_suite_that_it_was_restored_into(
    tmp_path: Path, images: tuple[DigitSet, DigitSet]
) -> None:
    training, test = images
    photo = next(test.coco.parent.rglob("*.png"))
    with RunningStack(tmp_path / "lost") as running:
        sightline = Command(running.stack.addresses, tmp_path)
        for name, made in (("digits", training), ("held-out", test)):
            sightline("datasets", "create", name, "--kind", "classification", "--coco", made.coco, "--wait")
        sightline("models", "train", "m", "--dataset", "digits", "--budget", "40s", "--watch")
        sightline("evaluations", "create", "m", "held-out", "--dataset", "held-out", "--wait")
        before = answers(sightline, photo)
        sightline("models", "train", "running", "--dataset", "digits", "--budget", "60s")
        saved = sightline("backup", tmp_path / "backup", "--data", tmp_path / "lost", "--json").json
    shutil.rmtree(tmp_path / "lost")
    assert saved["records"] > 5
    assert saved["blobs"] > 5
    assert sightline("restore", tmp_path / "backup", "--data", tmp_path / "found", "--json").json == saved
    with RunningStack(tmp_path / "found") as running:
        sightline = Command(running.stack.addresses, tmp_path)
        refused = sightline("backup", tmp_path / "backup", "--data", tmp_path / "found", code=1)
        assert "name a new folder for each backup" in refused.err
        busy = sightline("restore", tmp_path / "backup", "--data", tmp_path / "found", code=1)
        assert "already running" in busy.err
        assert answers(sightline, photo) == before
        sightline("models", "watch", "running")
        assert sightline("models", "show", "running", "--json").json["state"] == "SUCCEEDED"
