"""Checks the messages of errors: none may have a gap where a variable belongs."""

from collections.abc import Generator
from contextlib import contextmanager
from string import Formatter

import pytest

from services.kit.errors import SightlineError


def gaps(error: SightlineError) -> list[str]:
    """The variables that leave a gap in the error's message: empty ones, unless quoted or the end of another word."""
    found: list[str] = []
    for before, name, _, conversion in Formatter().parse(error.template):
        ends_a_word = bool(before) and before[-1].isalnum()
        if name and not (conversion or ends_a_word or error.metadata[name].strip()):
            found.append(name)
    return found


@contextmanager
def collect_gaps() -> Generator[list[str]]:
    """Collects the messages with gaps of the errors created within the block."""
    faults: list[str] = []
    original = SightlineError.__init__

    def checked(self: SightlineError, **variables: object) -> None:
        original(self, **variables)
        if names := gaps(self):
            faults.append(f"{type(self).__name__} without {', '.join(names)}: {self.message}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SightlineError, "__init__", checked)
        yield faults
