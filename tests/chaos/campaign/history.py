"""What a caller knows of one value that only it writes, from the answers it got; whatever else is found is a violation.

A write that failed without an answer may have happened, or may still happen as long as nothing else has been written:
such a value is pending. Every write names the revision that it replaces, so the next one that succeeds settles it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


class Violation(AssertionError):
    """An invariant that does not hold; the message says which, and what was found."""


@dataclass(slots=True)
class History(Generic[T]):
    """The value as last known, None if there is none, and the revision that the next write must name."""

    name: str
    value: T | None = None
    revision: int = 0
    pending: list[T | None] = field(default_factory=list[T | None])

    def written(self, value: T | None, revision: int) -> None:
        """A write was acknowledged; Violation if its revision is not a later one."""
        if revision <= self.revision:
            raise Violation(f"{self.name}: revision {revision} was acknowledged after {self.revision}")
        self.value, self.revision, self.pending = value, revision, []

    def lost_sight(self, value: T | None) -> None:
        """A write got no answer."""
        self.pending.append(value)

    def refused(self, how: str) -> None:
        """A write at the known revision was refused; Violation unless a pending one explains that."""
        if not self.pending:
            raise Violation(f"{self.name}: {how} at revision {self.revision}, the last that was acknowledged")

    def read(self, value: T | None, revision: int) -> None:
        """A read that began after the last write had returned; Violation unless it is what is known, or pending."""
        if value == self.value and (value is None or revision == self.revision):
            return
        later = value is None or revision > self.revision
        if value not in self.pending or not later:
            known = f"{self.value!r} at {self.revision}"
            raise Violation(f"{self.name}: read {value!r} at {revision}; known {known}, pending {self.pending!r}")
        self.value, self.revision, self.pending = value, max(revision, self.revision), []
