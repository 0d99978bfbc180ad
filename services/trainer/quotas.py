"""Quotas of projects, as models and evaluations are created."""

from datetime import timedelta

from msgspec.structs import replace

from services.kit import names
from services.kit.account import Account
from services.kit.clock import Clock
from services.kit.quotas import LimitsOf, Quota, allowance_of, compute_left, require
from services.kit.records import Versioned
from services.trainer.domain import Evaluation, Model
from services.trainer.store import PREDICTOR, Store
from services.trainer.usage import compute_use, model_bytes, model_count

DATASETS = "dataset"  # the service whose accounts hold uploads and datasets


class Quotas:
    """Creates models and evaluations if their project's quotas allow; else ProjectQuotaExceeded.

    Law: what the work of a project was charged in a month, and what it may still be charged, is never more than the
    quota, however many replicas create at the same time.
    """

    def __init__(self, store: Store, limits: LimitsOf, clock: Clock) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock

    async def create_model(self, model: Model) -> Versioned[Model]:
        """Adds the model; RecordExists."""

        def decide(account: Account) -> tuple[Model, timedelta]:
            self._check_model(model, account)
            return model, model.budget

        return await self._store.accounts.create(self._store.models, model.name, decide, self._clock.now())

    async def check_model(self, model: Model) -> None:
        """Whether it could be created now."""
        self._check_model(model, await self._store.accounts.current(names.split(model.name)[0]))

    def _check_model(self, model: Model, account: Account) -> None:
        limits, project = self._limits(account.project), account.project
        require(Quota.MODELS, project, limits, model_count(self._store, account), 1)
        others = self._store.accounts.stored(project, DATASETS, PREDICTOR)
        require(Quota.STORAGE, project, limits, others + model_bytes(self._store, project), 0)
        self._left(account, model.budget, can_ask_less=True)

    async def create_evaluation(self, evaluation: Evaluation, expected: timedelta) -> Versioned[Evaluation]:
        """Adds the evaluation, whose allowance is at most what is left; RecordExists."""

        def decide(account: Account) -> tuple[Evaluation, timedelta]:
            allowed = self._allowed(evaluation, expected, account)
            return allowed, allowed.work.allowance

        return await self._store.accounts.create(self._store.evaluations, evaluation.name, decide, self._clock.now())

    async def check_evaluation(self, evaluation: Evaluation, expected: timedelta) -> Evaluation:
        """The evaluation as it could be created now."""
        return self._allowed(evaluation, expected, await self._store.accounts.current(names.split(evaluation.name)[0]))

    def _allowed(self, evaluation: Evaluation, expected: timedelta, account: Account) -> Evaluation:
        left = self._left(account, expected, can_ask_less=False)
        if left is None:
            return evaluation
        allowance = min(evaluation.work.allowance, allowance_of(expected, left))
        return replace(evaluation, work=replace(evaluation.work, allowance=allowance))

    def _left(self, account: Account, asked: timedelta, *, can_ask_less: bool) -> timedelta | None:
        """What is left of the month's compute, None without a limit; ProjectQuotaExceeded if it is less than asked."""
        limits, now = self._limits(account.project), self._clock.now()
        use = compute_use(self._store, account, now)
        return compute_left(account.project, limits, use, asked, now, can_ask_less=can_ask_less)
