"""What has happened to a piece of work so far, as numbers that only ever rise, so that each can be counted once."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class AttemptResult(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    DIED = "died"  # the child did, under a living worker
    LEASE_LOST = "lease_lost"  # the worker died or stalled
    RELEASED = "released"  # given back unharmed


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Of one trial or evaluation. `claim` marks who counted it last, so that its author recognises it."""

    started: bool = False
    ends: dict[AttemptResult, int] = field(
        default_factory=dict[AttemptResult, int]
    )  # attempts that ended, by how they did
    given_up: bool = False
    charged_seconds: float = 0.0
    uncharged_seconds: float = 0.0
    claim: str = ""

    def since(self, before: "Tally") -> "Tally":
        """What has been added since an earlier tally of the same work."""
        return Tally(
            started=self.started and not before.started,
            ends=dict(Counter(self.ends) - Counter(before.ends)),
            given_up=self.given_up and not before.given_up,
            charged_seconds=max(0.0, self.charged_seconds - before.charged_seconds),
            uncharged_seconds=max(0.0, self.uncharged_seconds - before.uncharged_seconds),
        )
