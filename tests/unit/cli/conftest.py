"""The command against fake services in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from sightline.cli.commands import app
from sightline.client.transport.addresses import VARIABLES
from tests.unit.cli.fakes import Fakes, serving


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.out)


class Command:
    """`sightline` as a person runs it."""

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
    """The command, with its services answering."""
    with serving(fakes) as address:
        for variable in VARIABLES.values():
            monkeypatch.setenv(variable, address)
        yield Command()


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO file with two images beside it, and a third image that it does not name."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for name in ("a", "b", "unnamed"):
        Image.new("RGB", (64, 48), "red").save(folder / "images" / f"{name}.png")
    images = [{"id": number, "file_name": f"images/{name}.png"} for number, name in enumerate("ab", 1)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    file = folder / "coco.json"
    file.write_text(json.dumps(content))
    return file
