"""What projects have in use, for callers and for metrics. Depends on ports only."""

from dataclasses import dataclass

from services.kit import names
from services.kit.account import Account
from services.kit.callers import ALL_PROJECTS, DEFAULT_PROJECT, acting_project, current
from services.kit.clock import Clock
from services.kit.paging import page
from services.kit.quotas import Limits, LimitsOf, Quota
from services.trainer.quotas import DATASETS
from services.trainer.store import PREDICTOR, SERVICE, Store
from services.trainer.usage import ComputeUse, compute_use, model_bytes, model_count

SCOPE = "projects"  # of page tokens


@dataclass(frozen=True, slots=True)
class Project:
    """A project, and what it has in use."""

    name: str
    limits: Limits
    datasets: int
    models: int
    upload_bytes: int
    dataset_bytes: int
    model_bytes: int
    prediction_bytes: int
    compute: ComputeUse

    @property
    def storage_bytes(self) -> int:
        """All that it holds."""
        return self.upload_bytes + self.dataset_bytes + self.model_bytes + self.prediction_bytes

    @property
    def owns_anything(self) -> bool:
        """Whether there is anything of it, or was this month."""
        return bool(self.datasets or self.models or self.storage_bytes or self.compute.used)

    def used(self, quota: Quota) -> float:
        """What counts towards a quota."""
        return {
            Quota.DATASETS: self.datasets,
            Quota.MODELS: self.models,
            Quota.STORAGE: self.storage_bytes,
            Quota.COMPUTE: self.compute.used.total_seconds(),
        }[quota]

    def share(self, quota: Quota) -> float:
        """How much of a quota is used; 0 without a limit."""
        limit = self.limits.of(quota)
        return self.used(quota) / limit if limit else 0.0


class Projects:
    """What the dataset service holds is as it last published it, some seconds ago."""

    def __init__(self, store: Store, limits: LimitsOf, clock: Clock) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock

    async def get(self) -> Project:
        """The project that the call acts in; reflects every CreateModel that has returned."""
        return self._of(await self._store.accounts.current(acting_project()))

    def page(self, page_size: int, page_token: str) -> tuple[list[Project], str]:
        """One page of the projects that the caller's token is valid for, by name.

        For a token that is valid for all, and without authentication: those that own anything, and `default`.
        """
        caller = current.get()
        if caller is None or ALL_PROJECTS in caller.projects:
            known = map(self.last, self.names())
            found = [project for project in known if project.owns_anything or project.name == DEFAULT_PROJECT]
        else:
            found = [self.last(name) for name in caller.projects]
        return page(found, SCOPE, page_size, page_token)

    def names(self) -> list[str]:
        """Every project that has ever owned anything, and `default`."""
        accounts = {found.value.project for found in self._store.accounts.view.all()}
        models = {names.split(found.value.name)[0] for found in self._store.models.view.all()}
        return sorted(accounts | models | {DEFAULT_PROJECT})

    def last(self, name: str) -> Project:
        """The project, as this process last saw it."""
        return self._of(self._store.accounts.last(name, SERVICE))

    def _of(self, account: Account) -> Project:
        store, others = self._store, self._store.accounts.last(account.project, DATASETS)
        return Project(
            name=account.project,
            limits=self._limits(account.project),
            datasets=others.resources,
            models=model_count(store, account),
            upload_bytes=others.held_bytes.get("uploads", 0),
            dataset_bytes=others.held_bytes.get("datasets", 0),
            model_bytes=model_bytes(store, account.project),
            prediction_bytes=store.accounts.stored(account.project, PREDICTOR),
            compute=compute_use(store, account, self._clock.now()),
        )
