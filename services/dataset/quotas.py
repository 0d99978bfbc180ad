"""Quotas of projects: how many datasets they have, and what their uploads, snapshots and models hold."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from services.dataset.domain import COLLECTION, DatasetRecord
from services.kit import names
from services.kit.account import Account, Use
from services.kit.accounts import Accounts
from services.kit.callers import acting_project
from services.kit.clock import Clock
from services.kit.collection import Collection
from services.kit.quotas import LimitsOf, Quota, require
from services.kit.reach import UPLOADS
from services.kit.records import Versioned
from services.kit.tasks import repeat_aside
from services.kit.views import View

SERVICE = "dataset"  # whose accounts these are
OTHERS = "trainer", "predictor"  # the services whose accounts hold bundles, and results of batch predictions
PUBLISH_SECONDS = 2.0


class Quotas:
    """Creates datasets if their project's quotas allow; else ProjectQuotaExceeded."""

    def __init__(
        self,
        datasets: Collection[DatasetRecord],
        uploads: View[Any],
        accounts: Accounts,
        limits: LimitsOf,
        clock: Clock,
    ) -> None:
        """`uploads`: the view of upload records."""
        self._datasets = datasets
        self._accounts = accounts
        self._limits = limits
        self._clock = clock
        self.uploads = UploadSums(uploads)
        self._held = {
            UPLOADS: self.uploads.bytes,
            COLLECTION: Sums(datasets.view, lambda dataset: dataset.stored_bytes),
        }

    async def create(self, record: DatasetRecord) -> Versioned[DatasetRecord]:
        """Adds the dataset; RecordExists."""

        def decide(account: Account) -> tuple[DatasetRecord, timedelta]:
            self._check(account)
            return record, timedelta()

        return await self._accounts.create(self._datasets, record.name, decide, self._clock.now())

    async def check(self) -> None:
        """Whether the call's project could have a further dataset now."""
        self._check(await self._accounts.current(acting_project()))

    def _check(self, account: Account) -> None:
        present = {found.value.name for found in self._datasets.view.all(f"{names.root(account.project)}{COLLECTION}/")}
        count = len(present | account.reserved_names(COLLECTION))
        require(Quota.DATASETS, account.project, self._limits(account.project), count, 1)
        self.check_storage(account.project, 0)

    def check_storage(self, project: str, more: int) -> None:
        """Whether so many more bytes of uploads fit; with 0, whether there is any room left."""
        used = sum(self._held_bytes(project).values()) + self._accounts.stored(project, *OTHERS)
        require(Quota.STORAGE, project, self._limits(project), used, more)

    def _held_bytes(self, project: str) -> dict[str, int]:
        return {collection: sizes.by_project()[project] for collection, sizes in self._held.items()}

    async def run(self) -> None:
        """Publishes what each project holds until cancelled, once the views are synced."""
        for view in (self._datasets.view, self._accounts.view, self._held[UPLOADS].view):
            await view.synced()
        await repeat_aside(self.publish, self._clock, PUBLISH_SECONDS)

    async def publish(self) -> None:
        """Publishes what each project holds, for the trainer and for the workers."""
        counts = Counter(names.split(found.value.name)[0] for found in self._datasets.view.all())
        known = {found.value.project for found in self._accounts.view.all()}
        for project in sorted({*counts, *known, *self._held[UPLOADS].by_project()}):
            use = Use(counts[project], self._held_bytes(project))
            await self._accounts.publish(project, lambda _, use=use: use, self._clock.now())


@dataclass(slots=True)
class Sums:
    """What a collection's resources have, such as bytes, by project; added up again only after a change."""

    view: View[Any]
    size_of: Callable[[Any], int]
    _version: int = -1
    _sums: Counter[str] = field(default_factory=Counter[str])

    def by_project(self) -> Counter[str]:
        """The sums; 0 for a project without any."""
        if self.view.version != self._version:
            sums, version = Counter[str](), self.view.version
            for found in self.view.all():
                sums[names.split(found.value.name)[0]] += self.size_of(found.value)
            self._sums, self._version = sums, version
        return self._sums


class UploadSums:
    """What all uploads hold."""

    def __init__(self, uploads: View[Any]) -> None:
        self.bytes = Sums(uploads, lambda upload: upload.size_bytes)
        self.files = Sums(uploads, lambda upload: upload.file_count)
        self.number = Sums(uploads, lambda _: 1)


@dataclass(frozen=True, slots=True)
class SnapshotRoom:
    """What workers check: they have no views, and go by what the apis published last, some seconds before."""

    accounts: Accounts
    limits: LimitsOf

    async def require(self, project: str, size_bytes: int) -> None:
        """ProjectQuotaExceeded if a snapshot of this size does not fit into the project's storage."""
        limits = self.limits(project)
        if limits.storage_bytes:
            used = await self.accounts.published_bytes(project, SERVICE, *OTHERS)
            require(Quota.STORAGE, project, limits, used, size_bytes)
