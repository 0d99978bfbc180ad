"""Quotas: how much a project may have and compute, in all of its resources together."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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
GENEROUS = 10  # times its expected cost, that work may take
LEAST = timedelta(minutes=10)  # that it may take in any case
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


def require_one_more(what: str, project: str, count: int, limit: int, setting: str, remedy: str) -> None:
    """ProjectQuotaExceeded if a project has as many of something as it may, by a limit that is no quota of its own."""
    if count >= limit:
        raise ProjectQuotaExceeded(
            subject=f"Project {project}, {what}",
            used=f"{count} in use",
            asked=1,
            limit=limit,
            setting=setting,
            remedy=remedy,
        )


@dataclass(frozen=True, slots=True)
class ComputeUse:
    """Compute of a project, in time on the reference device."""

    charged: timedelta = timedelta()  # this month
    reserved: timedelta = timedelta()  # what work that has not ended may still be charged

    @property
    def used(self) -> timedelta:
        """What a quota counts."""
        return self.charged + self.reserved

    def __add__(self, other: "ComputeUse") -> "ComputeUse":
        return ComputeUse(self.charged + other.charged, self.reserved + other.reserved)


def compute_left(
    project: str, limits: Limits, use: ComputeUse, asked: timedelta, now: datetime, *, can_ask_less: bool = False
) -> timedelta | None:
    """What is left of the month's compute, None without a limit; ProjectQuotaExceeded if it is less than asked."""
    if not limits.compute_seconds:
        return None
    left = timedelta(seconds=limits.compute_seconds) - use.used
    used, reserved = use.used.total_seconds(), use.reserved.total_seconds()
    detail = f" ({reserved:.15g} s of it reserved by work that has not ended)" if reserved else ""
    rest = left.total_seconds() if can_ask_less else 0
    remedy = f"Ask for at most {rest:.15g} s, wait" if rest >= 1 else "Wait"
    remedy += f"{' for other work to end or' if reserved else ''} until {month_around(now)[1]:%Y-%m-%d} (UTC)"
    require(Quota.COMPUTE, project, limits, used, asked.total_seconds(), detail=detail, remedy=remedy)
    return left


def allowance_of(expected: timedelta, left: timedelta) -> timedelta:
    """What work may be charged whose compute is estimated: far more than that, so that no pessimist is needed."""
    return min(left, max(LEAST, GENEROUS * expected))


def month_of(moment: datetime) -> str:
    """The calendar month, such as `2026-11`."""
    return f"{moment.astimezone(UTC):%Y-%m}"


def month_around(moment: datetime) -> tuple[datetime, datetime]:
    """When the month began, and when the next one begins."""
    begin = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    years, month = divmod(begin.month, 12)
    return begin, begin.replace(year=begin.year + years, month=month + 1)
