"""Leases: who works on a record, until when, and under which epoch.

A lease is a value inside the record that it protects, so one compare-and-set both fences a write and carries what
the holder reports. The epoch rises by one with every taking; a holder whose epoch is no longer the record's has
lost the lease and must stop without another write.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.kit.errors import LeaseLost


@dataclass(frozen=True, slots=True)
class Lease:
    """`holder` may write until `expires`, under `epoch`; an empty holder means free."""

    holder: str = ""
    epoch: int = 0
    expires: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether somebody holds it at this moment."""
        return bool(self.holder) and self.expires is not None and now < self.expires

    def taken(self, holder: str, now: datetime, ttl: timedelta) -> "Lease":
        """The lease after `holder` takes it over, with a new epoch; LeaseLost while somebody else holds it."""
        if self.is_live(now) and self.holder != holder:
            raise LeaseLost(name=self.holder, epoch=self.epoch)
        return Lease(holder, self.epoch + 1, now + ttl)

    def renewed(self, now: datetime, ttl: timedelta) -> "Lease":
        """The same lease with its expiry moved; the caller has checked the epoch."""
        return replace(self, expires=now + ttl)

    def released(self) -> "Lease":
        """Free at once for anybody; the epoch stays, so that the past holder remains fenced."""
        return Lease("", self.epoch, None)
