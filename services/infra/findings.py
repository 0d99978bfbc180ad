"""The findings of the doctor's checks: one line each, and what to do about it."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from sightline.text import shown

GIB = 2**30


class Level(StrEnum):
    """How serious it is."""

    OK = "ok"
    WARNING = "warning"  # works, but less safely or less well than it could
    FAULT = "fault"  # does not work, or will lose data


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `remedy` is empty if there is nothing to do."""

    area: str
    level: Level
    text: str
    remedy: str = ""


class Report:
    """Collects what the checks of one area find, in order."""

    def __init__(self, area: str) -> None:
        self.area = area
        self.findings: list[Finding] = []

    def ok(self, text: str) -> None:
        """As it should be."""
        self.findings.append(Finding(self.area, Level.OK, text))

    def warn(self, text: str, remedy: str) -> None:
        """It works, but less safely or less well than it could."""
        self.findings.append(Finding(self.area, Level.WARNING, text, remedy))

    def fault(self, text: str, remedy: str) -> None:
        """It does not work."""
        self.findings.append(Finding(self.area, Level.FAULT, text, remedy))

    def skew(self, whose: str, seconds: float) -> None:
        """Judges how far this machine's clock is ahead of another's: leases and signatures depend on clocks."""
        text = f"the clock here and that of {whose} differ by {abs(seconds):.1f} s"
        remedy = "keep every machine's clock in sync with NTP (chrony, systemd-timesyncd)"
        if abs(seconds) > 10:
            self.fault(f"{text}: leases are lost or kept too long, and S3 may refuse signatures", remedy)
        elif abs(seconds) > 2:
            self.warn(text, remedy)
        else:
            self.ok(f"the clock agrees with that of {whose}")

    def room(self, where: str, free_bytes: int, wanted_bytes: int, least_bytes: int = GIB) -> None:
        """Judges the free space."""
        text = f"{free_bytes / GIB:.1f} GiB are free {where}"
        remedy = f"make room, or choose a larger disk: {wanted_bytes / GIB:.0f} GiB are recommended"
        if free_bytes < least_bytes:
            self.fault(text, remedy)
        elif free_bytes < wanted_bytes:
            self.warn(text, remedy)
        else:
            self.ok(text)


Check = Callable[[Report], Awaitable[None]]


async def examine(area: str, check: Check) -> list[Finding]:
    """What the check finds; a check that raises is itself a fault, and keeps what it had found."""
    report = Report(area)
    try:
        await check(report)
    except Exception as error:  # noqa: BLE001 - whatever breaks a check is a finding
        report.fault(f"the check failed: {type(error).__name__}: {error}", "fix what it names, or report a bug")
    return report.findings


def as_text(findings: Sequence[Finding]) -> str:
    """A line each, with its remedy below, and the totals."""
    lines: list[str] = []
    for found in findings:
        lines.append(f"{found.level:8} {found.area:9} {found.text}")
        if found.remedy:
            lines.append(f"{'':18} -> {found.remedy}")
    return shown("\n".join([*lines, _sum(findings)]))


def as_json(findings: Sequence[Finding]) -> str:
    """The same as JSON."""
    return json.dumps({"checks": [asdict(found) for found in findings], **_counts(findings)}, indent=2)


def has_faults(findings: Sequence[Finding]) -> bool:
    """Whether anything does not work."""
    return any(found.level is Level.FAULT for found in findings)


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {f"{level}s" if level is not Level.OK else "ok": sum(f.level is level for f in findings) for level in Level}


def _sum(findings: Sequence[Finding]) -> str:
    return ", ".join(f"{count} {name}" for name, count in _counts(findings).items())
