"""The metrics of projects, and what the trainer publishes of them for the dataset service."""

import asyncio
from collections import defaultdict

from services.kit.account import Account, Use, computed_by_month
from services.kit.clock import Clock
from services.kit.quotas import Quota
from services.kit.tasks import repeat_aside
from services.kit.telemetry import Telemetry
from services.trainer import metrics
from services.trainer.labels import Labels
from services.trainer.projects import Project, Projects
from services.trainer.store import Store
from services.trainer.usage import model_bytes, model_count, own_compute

EVERY_SECONDS = 5.0


class ProjectGauges:
    """One pass every few seconds; `Labels` decides which projects are named."""

    def __init__(self, store: Store, projects: Projects, clock: Clock, telemetry: Telemetry) -> None:
        self._store = store
        self._projects = projects
        self._clock = clock
        self._telemetry = telemetry
        self._labels = Labels()

    async def keep_going(self) -> None:
        """Publishes and measures until cancelled, once the views are synced."""
        await self._store.synced()
        await repeat_aside(self.update, self._clock, EVERY_SECONDS)

    async def update(self) -> None:
        """One pass over all projects."""
        projects = list[Project]()
        for name in self._projects.names():
            await self._store.accounts.publish(name, self._use, self._clock.now())
            projects.append(self._projects.last(name))
            await asyncio.sleep(0)  # one may have thousands of trials; calls go first
        self._measure(projects)

    def _use(self, account: Account) -> Use:
        store, now = self._store, self._clock.now()
        compute, held = own_compute(store, account, now), {"models": model_bytes(store, account.project)}
        computed = computed_by_month(compute.charged, compute.reserved, now)
        return Use(model_count(store, account), held, computed, compute.reserved)

    def _measure(self, projects: list[Project]) -> None:
        for project in sorted(projects, key=lambda found: (-max(map(found.share, Quota)), found.name)):
            if project.owns_anything:
                self._labels.admit(project.name)
        groups = defaultdict[str, list[Project]](list)
        for project in projects:
            groups[self._labels.of(project.name)].append(project)
        for label, group in groups.items():
            self._telemetry.set(metrics.PROJECT_STORAGE, sum(one.storage_bytes for one in group), project=label)
            charged = sum(one.compute.charged.total_seconds() for one in group)
            self._telemetry.set(metrics.PROJECT_COMPUTE, charged, project=label)
            for quota in Quota:
                share = max(one.share(quota) for one in group)
                self._telemetry.set(metrics.PROJECT_SHARE, share, project=label, quota=quota)
