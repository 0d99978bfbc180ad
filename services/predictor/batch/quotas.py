"""The compute of batch predictions: what a project was charged, and whether it may have any more."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from services.kit import names
from services.kit.accounts import ZERO, Accounts
from services.kit.clock import Clock
from services.kit.quotas import LimitsOf, Quota, month_around, month_of, require
from services.kit.records import Versioned
from services.kit.tasks import repeat
from services.kit.views import View
from services.predictor.batch.domain import COLLECTION, BatchRecord

SERVICE = "predictor"  # whose accounts these are
TRAINER = "trainer"  # the service whose accounts have the compute of trainings and evaluations
PUBLISH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Quotas:
    """Goes by what the trainer published last, some seconds before; publishes the charges of batch predictions."""

    view: View[BatchRecord]
    accounts: Accounts
    limits: LimitsOf
    clock: Clock

    def check(self, project: str) -> None:
        """ProjectQuotaExceeded if the project has used up its compute of the month."""
        now = self.clock.now()
        month = month_of(now)
        charged = sum((found.value.charged.get(month, ZERO) for found in self._of(project)), ZERO)
        used = charged + self.accounts.computed(project, month, TRAINER)
        remedy = f"Wait until {month_around(now)[1]:%Y-%m-%d} (UTC)"
        require(Quota.COMPUTE, project, self.limits(project), used.total_seconds(), 0, remedy=remedy)

    async def run(self) -> None:
        """Publishes what each project was charged until cancelled, once the views are synced."""
        await self.view.synced()
        await self.accounts.view.synced()
        await repeat(self.publish, partial(self.clock.sleep, PUBLISH_SECONDS))

    async def publish(self) -> None:
        """One pass over all projects."""
        charged = defaultdict[str, dict[str, timedelta]](dict)
        for found in self.view.all():
            months = charged[found.value.project]
            for month, span in found.value.charged.items():
                months[month] = months.get(month, ZERO) + span
        for project, months in sorted(charged.items()):
            await self.accounts.publish(project, len(self._of(project)), {}, self.clock.now(), dict(months))

    def _of(self, project: str) -> list[Versioned[BatchRecord]]:
        return self.view.all(f"{names.root(project)}{COLLECTION}/")
