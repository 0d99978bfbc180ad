"""Errors as tests raise them: none may have a hole where its subject belongs."""

from collections.abc import Generator
from contextlib import contextmanager
from string import Formatter

import pytest

from services.kit.errors import SightlineError


def holes(error: SightlineError) -> list[str]:
    """The variables that leave a gap in the error's message: empty ones, unless quoted or the end of another word."""
    found: list[str] = []
    for before, name, _, conversion in Formatter().parse(error.template):
        word_goes_on = bool(before) and before[-1].isalnum()
        if name and not (conversion or word_goes_on or error.metadata[name].strip()):
            found.append(name)
    return found


@contextmanager
def errors_watched() -> Generator[list[str]]:
    """Every message with a hole that this process makes within the block."""
    faults: list[str] = []
    original = SightlineError.__init__

    def checked(self: SightlineError, **variables: object) -> None:
        original(self, **variables)
        if names := holes(self):
            faults.append(f"{type(self).__name__} without {', '.join(names)}: {self.message}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SightlineError, "__init__", checked)
        yield faults
