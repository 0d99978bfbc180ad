"""What is written on a picture, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from sightline.cli import frames


@dataclass(frozen=True)
class Written:
    """A label."""

    text: str
    place: tuple[float, float, float, float]  # left, top, right, bottom


def written(monkeypatch: pytest.MonkeyPatch) -> list[Written]:
    """The labels that are written from now on."""
    notes: list[Written] = []
    original: Any = frames._write

    def write(pen: Any, place: Any, text: str, letters: Any, ink: Any) -> None:
        notes.append(Written(text, place))
        original(pen, place, text, letters, ink)

    monkeypatch.setattr(frames, "_write", write)
    return notes
