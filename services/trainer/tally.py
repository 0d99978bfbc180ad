"""What has happened to a piece of work, as numbers that only rise, so that each can be counted once."""

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
    DIED = "died"  # the child did, the worker did not
    HUNG = "hung"  # the child made no progress, and its worker ended it
    LEASE_LOST = "lease_lost"  # the worker died or stalled
    RELEASED = "released"  # given back by the worker


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one trial or evaluation. `claim` identifies the write that counted it last."""

    started: bool = False
    ends: dict[AttemptResult, int] = {}  # attempts that ended, by result
    given_up: bool = False
    charged: timedelta = msgspec.field(name="charged_seconds", default=ZERO)
    uncharged: timedelta = msgspec.field(name="uncharged_seconds", default=ZERO)
    claim: str = ""

    def since(self, before: "Tally") -> "Tally":
        """The difference from an earlier tally of the same work."""
        return Tally(
            started=self.started and not before.started,
            ends=dict(Counter(self.ends) - Counter(before.ends)),
            given_up=self.given_up and not before.given_up,
            charged=max(ZERO, self.charged - before.charged),
            uncharged=max(ZERO, self.uncharged - before.uncharged),
        )
