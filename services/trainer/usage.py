"""What the models and evaluations of a project have computed in a month, and what they may still compute.

Charges are in the ledgers of trials and evaluations. Those of deleted ones are on the project's account, written there
before the record goes: first one by one, so that writing them again, or by another replica, changes nothing; an hour
later added up.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.kit import names
from services.kit.accounts import Account, Gone
from services.kit.quotas import month_of
from services.trainer.domain import FINAL_EVALUATION, Evaluation, Trial
from services.trainer.ledger import ZERO, charged_by_month, total
from services.trainer.store import Store

SETTLED = timedelta(hours=1)  # after which no view lags behind, and nobody is still deleting a record
MAX_GONE = 500  # on an account: beyond this, the oldest are added up before that

Months = dict[str, timedelta]


@dataclass(frozen=True, slots=True)
class ComputeUse:
    """Compute of a project, in time on the reference device."""

    charged: timedelta = ZERO  # this month
    reserved: timedelta = ZERO  # what work that has not ended may still be charged

    @property
    def used(self) -> timedelta:
        """What a quota counts."""
        return self.charged + self.reserved


def compute_use(store: Store, account: Account, now: datetime) -> ComputeUse:
    """The project's compute, as far as views and account tell.

    A view may lag: a charge that it does not show yet is then part of what it shows as reserved, so that the sum holds.
    """
    month, charges, by_model = month_of(now), _charges_of(store, account), defaultdict[str, timedelta](timedelta)
    charged = total(months.get(month, ZERO) for months in (account.charged, *charges.values()))
    reserved = ZERO
    for record in _records(store, account.project):
        if isinstance(record, Trial) or record.name.endswith(f"/{FINAL_EVALUATION}"):
            by_model[record.model_uid] += record.work.charged
        elif not record.work.ended:
            reserved += record.work.remaining
    unended = {record.name for record in _records(store, account.project) if not record.work.ended}
    for found in store.models.view.all(names.root(account.project) + "models/"):
        model, paid = found.value, by_model[found.value.uid]
        if not model.ended:
            reserved += max(ZERO, model.budget - paid)
            unended.add(model.name)
        elif model.end_time and now - model.end_time < SETTLED:
            charged += max(ZERO, model.training_cost - paid)
    reserved += total(r.compute for r in account.reservations.values() if r.name not in unended)
    return ComputeUse(charged, reserved)


def model_bytes(store: Store, project: str) -> int:
    """The size of the bundles of all trials."""
    trials = store.trials.view.all(names.root(project) + "models/")
    return sum(found.value.result.bundle_bytes for found in trials if found.value.result)


def model_count(store: Store, account: Account) -> int:
    """The project's models, with those that are being created."""
    present = {found.value.name for found in store.models.view.all(names.root(account.project) + "models/")}
    return len(present | account.reserved_names("models"))


async def keep_charges(store: Store, record: Trial | Evaluation, now: datetime) -> None:
    """Writes onto the account what the record was charged, which is about to be deleted."""
    if charged := charged_by_month(record.work.segments):
        gone = Gone(record.name, now, charged)

        def decide(account: Account) -> Account:
            return _added_up(replace(account, gone={**account.gone, _key(record): gone}), store, now)

        await store.accounts.change(names.split(record.name)[0], decide, now)


def _added_up(account: Account, store: Store, now: datetime) -> Account:
    """With the older deletions in the sums by month. A record that was not deleted after all keeps its own charges."""
    present = {_key(record) for record in _records(store, account.project)}
    newest = sorted(account.gone, key=lambda key: account.gone[key].time, reverse=True)
    sums, kept = defaultdict[str, timedelta](timedelta, account.charged), dict[str, Gone]()
    for number, key in enumerate(newest):
        gone = account.gone[key]
        if number < MAX_GONE and now - gone.time < SETTLED:
            kept[key] = gone
        elif key not in present:
            for month, span in gone.charged.items():
                sums[month] += span
    return replace(account, gone=kept, charged=dict(sums))


def _charges_of(store: Store, account: Account) -> dict[str, Months]:
    """What each piece of work was charged in each month, by a key that no other work has; deleted work too."""
    charges = {key: gone.charged for key, gone in account.gone.items()}
    for record in _records(store, account.project):
        months, key = charged_by_month(record.work.segments), _key(record)
        before = charges.get(key, {})
        charges[key] = {month: max(months.get(month, ZERO), before.get(month, ZERO)) for month in months | before}
    return charges


def _records(store: Store, project: str) -> list[Trial | Evaluation]:
    prefix = names.root(project) + "models/"
    return [found.value for view in (store.trials.view, store.evaluations.view) for found in view.all(prefix)]


def _key(record: Trial | Evaluation) -> str:
    """Names are used again: those of trials by another model, those of evaluations at another time."""
    return f"{record.name} {record.model_uid} {record.work.create_time.isoformat()}"
