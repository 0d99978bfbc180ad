"""What the models and evaluations of a project have computed in a month, and what they may still compute.

Charges are in the ledgers of trials and evaluations. Those of deleted ones are on the project's account, written there
before the record goes: first one by one, so that writing them again, or by another replica, changes nothing; an hour
later added up.
"""

from collections import defaultdict
from datetime import datetime, timedelta

from services.kit import names
from services.kit.account import SETTLED, Account, Gone
from services.kit.quotas import ComputeUse, month_of
from services.kit.records import Versioned
from services.trainer.domain import Evaluation, Trial
from services.trainer.ledger import ZERO, charged_by_month, total
from services.trainer.store import PREDICTOR, Store


def compute_use(store: Store, account: Account, now: datetime) -> ComputeUse:
    """The project's compute, that of batch predictions included."""
    return own_compute(store, account, now) + store.accounts.last(account.project, PREDICTOR).compute(now)


def own_compute(store: Store, account: Account, now: datetime) -> ComputeUse:
    """The compute of the project's models and evaluations, as far as views and account tell.

    A view may lag: a charge that it does not show yet is then part of what it shows as reserved, so that the sum holds.
    """
    month, gone = month_of(now), dict(account.gone)
    paid, unended = defaultdict[str, timedelta](timedelta), set[str]()
    charged, reserved = account.charged.get(month, ZERO), ZERO
    for found in _records(store, account.project):
        record, months = found.value, store.charges.of(found)
        late = gone.pop(_key(record)).charged if gone and _key(record) in gone else {}
        charged += max(months.get(month, ZERO), late.get(month, ZERO))
        if not record.work.ended:
            unended.add(record.name)
        if isinstance(record, Trial) or record.is_final:
            paid[record.model_uid] += total(months.values())
        elif not record.work.ended:
            reserved += record.work.remaining
    for found in store.models.view.all(names.root(account.project) + "models/"):
        model = found.value
        if not model.ended:
            reserved += max(ZERO, model.budget - paid[model.uid])
            unended.add(model.name)
        elif model.end_time and now - model.end_time < SETTLED:
            charged += max(ZERO, model.training_cost - paid[model.uid])
    charged += total(deleted.charged.get(month, ZERO) for deleted in gone.values())
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
        project = names.split(record.name)[0]
        gone = Gone(record.name, now, charged)
        await store.accounts.keep_charges(
            _key(record), gone, lambda: {_key(found.value) for found in _records(store, project)}
        )


def _records(store: Store, project: str) -> list[Versioned[Trial] | Versioned[Evaluation]]:
    prefix = names.root(project) + "models/"
    return [*store.trials.view.all(prefix), *store.evaluations.view.all(prefix)]


def _key(record: Trial | Evaluation) -> str:
    """Names are used again: those of trials by another model, those of evaluations at another time."""
    return f"{record.name} {record.model_uid} {record.work.create_time.isoformat()}"
