"""Quotas of projects, as batch predictions are created: compute that they reserve, and storage of their results."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.kit import names
from services.kit.account import ZERO, Account, Gone, Use, computed_by_month
from services.kit.accounts import Accounts
from services.kit.clock import Clock
from services.kit.collection import Collection
from services.kit.quotas import ComputeUse, LimitsOf, Quota, allowance_of, compute_left, month_of, require
from services.kit.records import Versioned
from services.kit.tasks import repeat_aside
from services.predictor.batch.domain import COLLECTION, BatchRecord

SERVICE = "predictor"  # whose accounts these are
TRAINER = "trainer"  # the service whose accounts have the compute of trainings and evaluations
HOLDERS = TRAINER, "dataset"  # the services whose accounts hold bytes too
PUBLISH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Quotas:
    """Creates batch predictions if their project's quotas allow; else ProjectQuotaExceeded.

    Law: what the work of a project was charged in a month, and what it may still be charged, is never more than the
    quota, however many replicas of this and other services create at the same time.
    """

    batches: Collection[BatchRecord]
    accounts: Accounts
    limits: LimitsOf
    clock: Clock

    async def create(self, record: BatchRecord) -> Versioned[BatchRecord]:
        """Adds it, with an allowance if compute is limited; RecordExists."""

        def decide(account: Account) -> tuple[BatchRecord, timedelta]:
            allowed = self._allowed(record, account)
            return allowed, allowed.remaining

        return await self.accounts.create(self.batches, record.name, decide, self.clock.now())

    async def check(self, record: BatchRecord) -> BatchRecord:
        """The record as it could be created now."""
        return self._allowed(record, await self.accounts.current(record.project))

    def limits_compute(self, project: str) -> bool:
        """Whether the project's compute has a limit."""
        return bool(self.limits(project).compute_seconds)

    def _allowed(self, record: BatchRecord, account: Account) -> BatchRecord:
        project, limits, now = record.project, self.limits(record.project), self.clock.now()
        require(Quota.STORAGE, project, limits, self._stored_bytes(project), 0)
        use = self._compute(account, now) + self.accounts.last(project, TRAINER).compute(now)
        left = compute_left(project, limits, use, record.expected, now)
        return record if left is None else replace(record, allowance=allowance_of(record.expected, left))

    def _stored_bytes(self, project: str) -> int:
        return self._own_bytes(project) + self.accounts.stored(project, *HOLDERS)

    def _own_bytes(self, project: str) -> int:
        return sum(found.value.stored_bytes for found in self._of(project))

    def _compute(self, account: Account, now: datetime) -> ComputeUse:
        """The compute of the project's batch predictions, as far as view and account tell.

        A view may lag: a charge that it does not show yet is then part of what it shows as reserved, so the sum holds.
        """
        month, gone = month_of(now), dict(account.gone)
        charged, reserved, unended = account.charged.get(month, ZERO), ZERO, set[str]()
        for found in self._of(account.project):
            record = found.value
            late = gone.pop(_key(record)).charged if _key(record) in gone else {}
            charged += max(record.charged.get(month, ZERO), late.get(month, ZERO))
            reserved += record.remaining
            if not record.ended:
                unended.add(record.name)
        charged += sum((one.charged.get(month, ZERO) for one in gone.values()), ZERO)
        reserved += sum((one.compute for one in account.reservations.values() if one.name not in unended), ZERO)
        return ComputeUse(charged, reserved)

    async def keep_charges(self, record: BatchRecord) -> None:
        """Writes onto the account what a record was charged that is about to be deleted. Safe to repeat."""
        if record.charged:
            gone = Gone(record.name, self.clock.now(), record.charged)
            await self.accounts.keep_charges(
                _key(record), gone, lambda: {_key(found.value) for found in self._of(record.project)}
            )

    async def run(self) -> None:
        """Publishes what each project has in use until cancelled, once the views are synced."""
        await self.batches.view.synced()
        await self.accounts.view.synced()
        await repeat_aside(self.publish, self.clock, PUBLISH_SECONDS)

    async def publish(self) -> None:
        """One pass over all projects that have, or had, batch predictions."""
        mine = {found.value.project for found in self.accounts.view.all() if found.value.name.endswith(f"/{SERVICE}")}
        for project in sorted(mine | {found.value.project for found in self.batches.view.all()}):
            await self.accounts.publish(project, self._use, self.clock.now())

    def _use(self, account: Account) -> Use:
        now, project = self.clock.now(), account.project
        compute, held = self._compute(account, now), {COLLECTION: self._own_bytes(project)}
        computed = computed_by_month(compute.charged, compute.reserved, now)
        return Use(len(self._of(project)), held, computed, compute.reserved)

    def _of(self, project: str) -> list[Versioned[BatchRecord]]:
        return self.batches.view.all(f"{names.root(project)}{COLLECTION}/")


def _key(record: BatchRecord) -> str:
    """Names are used again."""
    return f"{record.name} {record.uid}"
