"""Judge a report of pip-audit by the dated exceptions: `python -m tools.audit REPORT.json`.

pip-audit asks a service on the internet, in .github/workflows/audit.yml. An exception is for one vulnerability of one
package, says why, and ends: then the audit fails until somebody has looked again.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("audit-exceptions.toml")
LONGEST = timedelta(days=90)  # from today until an exception ends


@dataclass(frozen=True, slots=True)
class Accepted:
    """A vulnerability that is known and accepted until a day, that day included."""

    id: str
    package: str
    until: date
    reason: str


def main() -> int:
    """Print one line per fault; return 1 if there is any."""
    report = json.loads(Path(sys.argv[1]).read_text())
    found = list(faults(report, exceptions(FILE.read_text()), datetime.now(UTC).date()))
    print("\n".join(found) or f"{len(report['dependencies'])} packages, no vulnerability that is not accepted")
    return 1 if found else 0


def exceptions(text: str) -> list[Accepted]:
    """Those in the file; ValueError that names what is missing or wrong."""
    found: list[Accepted] = []
    for number, entry in enumerate(tomllib.loads(text).get("exception", ()), 1):
        if set(entry) != {"id", "package", "until", "reason"}:
            raise ValueError(f"{FILE.name}: exception {number} needs id, package, until and reason, and nothing else")
        if not isinstance(entry["until"], date) or isinstance(entry["until"], datetime):
            raise ValueError(  # noqa: TRY004 - of a file
                f"{FILE.name}: exception {number}: until must be a date, such as 2027-01-31, without quotes"
            )
        if not str(entry["reason"]).strip():
            raise ValueError(f"{FILE.name}: exception {number} has no reason")
        found.append(Accepted(**entry))
    return found


def faults(report: Mapping[str, Any], accepted: Sequence[Accepted], today: date) -> Iterator[str]:
    """What must change: vulnerabilities, and exceptions that have ended, are too long or not needed any more."""
    needed = set[Accepted]()
    for package in report["dependencies"]:
        name = package["name"]
        if "skip_reason" in package:
            yield f"{name} was not audited: {package['skip_reason']}"
        for vulnerability in package.get("vulns", ()):
            ids = {vulnerability["id"], *vulnerability.get("aliases", ())}
            matching = [one for one in accepted if one.package == name and one.id in ids]
            needed |= set(matching)
            if not matching:
                yield _vulnerable(name, package["version"], vulnerability)
    for one in accepted:
        if one.until < today:
            yield f"{FILE.name}: {one.id} of {one.package} was accepted until {one.until}: update it, or look again"
        elif one.until > today + LONGEST:
            yield f"{FILE.name}: {one.id} of {one.package}: {one.until} is more than {LONGEST.days} days away"
        if one not in needed:
            yield f"{FILE.name}: {one.package} no longer has {one.id}: remove the exception"


def _vulnerable(name: str, version: str, found: Mapping[str, Any]) -> str:
    fixed = ", ".join(found.get("fix_versions", ()))
    remedy = f'`make lock UPGRADE="{name}"` (fixed in {fixed})' if fixed else "nothing fixes it yet"
    ids = ", ".join([found["id"], *found.get("aliases", ())])
    return f"{name} {version}: {ids}: {remedy}, or accept it in {FILE.name} with a reason and a date"


if __name__ == "__main__":
    sys.exit(main())
