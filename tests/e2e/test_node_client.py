"""A client in another language needs nothing but the protos."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from sightline.demo.digits import DigitSet
from sightline.local.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ROOT = Path(__file__).resolve().parents[2]


def test_a_node_client_runs_the_story_from_the_protos_alone(suite: Stack, images: tuple[DigitSet, DigitSet]) -> None:
    node = shutil.which("node")
    assert node, "node is not installed: run `make setup`"
    addresses = suite.addresses
    ended = subprocess.run(
        [node, ROOT / "tests/e2e/node/story.js", ROOT / "protos", addresses.dataset, addresses.trainer,
         addresses.predictor, images[0].coco.parent, "node-story"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["images"] == len(images[0].truth)
    assert summary["top1"] > 0.5
    assert {tag["name"] for tag in summary["tags"]} == {"zero", "one", "two"}
    assert sum(tag["confidence"] for tag in summary["tags"]) == pytest.approx(1.0, abs=0.01)
    assert summary["width"] == 64
    assert summary["missing"] == 5
