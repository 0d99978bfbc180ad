"""What has happened to a piece of work so far, as numbers that only ever rise, so that each can be counted once."""

from collections import Counter
from datetime import timedelta
from enum import StrEnum

import msgspec

from services.trainer.ledger import ZERO


class AttemptResult(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    DIED = "died"  # the child did, under a living worker
    LEASE_LOST = "lease_lost"  # the worker died or stalled
    RELEASED = "released"  # given back unharmed


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Of one trial or evaluation. `claim` marks who counted it last, so that its author recognises it."""

    started: bool = False
    ends: dict[AttemptResult, int] = {}  # attempts that ended, by result
    given_up: bool = False
    charged: timedelta = msgspec.field(name="charged_seconds", default=ZERO)
    uncharged: timedelta = msgspec.field(name="uncharged_seconds", default=ZERO)
    claim: str = ""

    def since(self, before: "Tally") -> "Tally":
        """What has been added since an earlier tally of the same work."""
        return Tally(
            started=self.started and not before.started,
            ends=dict(Counter(self.ends) - Counter(before.ends)),
            given_up=self.given_up and not before.given_up,
            charged=max(ZERO, self.charged - before.charged),
            uncharged=max(ZERO, self.uncharged - before.uncharged),
        )
