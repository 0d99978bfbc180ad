"""The command against fake services in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from sightline.cli.commands import app
from sightline.client.transport.addresses import VARIABLES
from tests.support.commands import Outcome
from tests.unit.cli.fakes import Fakes, serving


class Command:
    """Runs `sightline` in this process."""

    def __call__(self, *words: object) -> Outcome:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def sightline(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """The command against the fake services."""
    with serving(fakes) as address:
        for variable in VARIABLES.values():
            monkeypatch.setenv(variable, address)
        yield Command()


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO file with its two images, and a third image that it does not list."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for name in ("a", "b", "unnamed"):
        Image.new("RGB", (64, 48), "red").save(folder / "images" / f"{name}.png")
    images = [{"id": number, "file_name": f"images/{name}.png"} for number, name in enumerate("ab", 1)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    file = folder / "coco.json"
    file.write_text(json.dumps(content))
    return file
