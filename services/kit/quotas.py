"""Quotas: how much a project may have and compute, in all of its resources together."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from services.kit.errors import ProjectQuotaExceeded


class Quota(StrEnum):
    """What is limited, by the name that it has in the file of quotas."""

    DATASETS = "datasets"
    MODELS = "models"
    STORAGE = "storage_bytes"
    COMPUTE = "compute_seconds"  # charged in a calendar month, in UTC


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one project; 0 is no limit."""

    datasets: int = 0
    models: int = 0
    storage_bytes: int = 0
    compute_seconds: int = 0

    def of(self, quota: Quota) -> int:
        """One of them."""
        return int(getattr(self, quota))


UNLIMITED = Limits()
LimitsOf = Callable[[str], Limits]  # of a project


_TITLES = {
    Quota.DATASETS: ("datasets", ""),
    Quota.MODELS: ("models", ""),
    Quota.STORAGE: ("storage", " bytes"),
    Quota.COMPUTE: ("compute this month", " s"),
}
_REMEDIES = {
    Quota.DATASETS: "Delete datasets that nobody needs",
    Quota.MODELS: "Delete models that nobody needs",
    Quota.STORAGE: "Delete uploads, datasets or models that nobody needs",
}


def require(
    quota: Quota, project: str, limits: Limits, used: float, asked: float, *, detail: str = "", remedy: str = ""
) -> None:
    """ProjectQuotaExceeded unless so much more fits into the quota; with 0 asked for, unless there is anything left."""
    limit = limits.of(quota)
    if not limit or used + (asked or 1) <= limit:
        return
    title, unit = _TITLES[quota]
    raise ProjectQuotaExceeded(
        subject=f"Project {project}, {title}",
        used=f"{used:.15g}{unit} in use{detail}",
        asked=f"{asked:.15g}{unit}" if asked else "any",
        limit=f"{limit}{unit}",
        setting=f"SIGHTLINE_MAX_PROJECT_{quota.upper()}",
        remedy=f"{remedy or _REMEDIES[quota]}, or ask an operator for a higher limit.",
    )


def month_of(moment: datetime) -> str:
    """The calendar month, such as `2026-11`."""
    return f"{moment.astimezone(UTC):%Y-%m}"


def month_around(moment: datetime) -> tuple[datetime, datetime]:
    """When the month began, and when the next one begins."""
    begin = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    years, month = divmod(begin.month, 12)
    return begin, begin.replace(year=begin.year + years, month=month + 1)
