"""Leases: who works on a record, until when, and under which epoch.

A lease is part of the record that it protects, so one compare-and-set both fences a write and carries the holder's
report. The epoch increases by one each time the lease is taken; a holder whose epoch is no longer the record's has lost
the lease and must stop without another write.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.kit.errors import LeaseLost


@dataclass(frozen=True, slots=True)
class Lease:
    """`holder` may write until `expires`, under `epoch`; free if `holder` is empty."""

    holder: str = ""
    epoch: int = 0
    expires: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether it is held at this moment."""
        return bool(self.holder) and self.expires is not None and now < self.expires

    def taken(self, holder: str, now: datetime, ttl: timedelta) -> "Lease":
        """The lease taken by `holder`, with a new epoch; LeaseLost while another holds it."""
        if self.is_live(now) and self.holder != holder:
            raise LeaseLost(name=self.holder, epoch=self.epoch)
        return Lease(holder, self.epoch + 1, now + ttl)

    def renewed(self, now: datetime, ttl: timedelta) -> "Lease":
        """The lease with a later expiry; the caller has checked the epoch."""
        return replace(self, expires=now + ttl)

    def released(self) -> "Lease":
        """Free at once; the epoch stays, so that the previous holder remains fenced."""
        return Lease("", self.epoch, None)
