"""Records the labels that are drawn on an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from sightline.cli import frames


@dataclass(frozen=True)
class Label:
    """A label."""

    text: str
    place: tuple[float, float, float, float]  # left, top, right, bottom


def record_labels(monkeypatch: pytest.MonkeyPatch) -> list[Label]:
    """The labels that are drawn from now on."""
    notes: list[Label] = []
    original: Any = frames._write

    def write(pen: Any, place: Any, text: str, size: Any, ink: Any) -> None:
        notes.append(Label(text, place))
        original(pen, place, text, size, ink)

    monkeypatch.setattr(frames, "_write", write)
    return notes
