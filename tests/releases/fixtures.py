"""The fixtures of releases, as `python -m tests.releases` made them; its docstring says what each file is."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "fixtures" / "releases"
PROTOS = Path(__file__).parents[2] / "protos" / "lock.binpb"
QUEUED = "queued"  # the model that no worker has begun


@dataclass(frozen=True)
class Release:
    """The folder of one release."""

    folder: Path

    @property
    def contract(self) -> Path:
        return self.folder / "contract.binpb"

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return _lines(self.folder / "jobs.jsonl")

    @property
    def answers(self) -> list[dict[str, Any]]:
        return _lines(self.folder / "answers.jsonl")

    @property
    def image(self) -> bytes:
        return (self.folder / "image.png").read_bytes()

    @property
    def records(self) -> set[str]:
        """The names of the records in the backup."""
        with tarfile.open(self.folder / "backup.tar.xz") as tar:
            file = tar.extractfile("backup/records.jsonl")
            assert file is not None, "every backup has records"
            return {json.loads(line)["key"] for line in file.read().splitlines()}

    def backup(self, folder: Path) -> Path:
        """Unpacks the backup into the folder, as `sightline restore` takes it."""
        with tarfile.open(self.folder / "backup.tar.xz") as tar:
            tar.extractall(folder, filter="data")
        return folder / "backup"


RELEASES = tuple(Release(folder) for folder in sorted(FOLDER.iterdir())) if FOLDER.exists() else ()


def write_lines(path: Path, documents: Iterable[Any]) -> None:
    """One JSON document on each line."""
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
