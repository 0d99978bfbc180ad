"""Findings: what validation noticed, where, and what to do about it."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from services.dataset.domain import FindingCounts
from services.dataset.finding_rules import ANNOTATION_ERRORS, RULES, Severity
from services.kit.masking import without_credentials
from sightline.plurals import counted, fill

MAX_TEXT = 1024  # characters of a file name or value in a finding


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """A single finding."""

    severity: Severity
    code: str
    message: str
    remedy: str
    file: str = ""
    image_id: int | None = None
    annotation_id: int | None = None
    other_file: str = ""  # of the image that this one repeats
    other_image_id: int | None = None


def make(
    code: str, file: str = "", image_id: int | None = None, annotation_id: int | None = None, **variables: object
) -> Finding:
    """A finding with the given code; KeyError for an unknown code or a missing variable.

    Long names from an annotation file are truncated. `other` and `other_id`, if given, are the image that it repeats.
    """
    rule = RULES[code]
    shown = {name: _cut(value) if isinstance(value, str) else value for name, value in variables.items()}
    message = fill(rule.message, shown)
    other, other_id = shown.get("other"), shown.get("other_id")
    return Finding(
        rule.severity,
        code,
        message,
        rule.remedy,
        _cut(file),
        image_id,
        annotation_id,
        other if isinstance(other, str) else "",
        other_id if isinstance(other_id, int) else None,
    )


def _cut(text: str) -> str:
    text = without_credentials(text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


class FindingLog:
    """Collects findings, at most `limit` per code, so that memory stays bounded if everything is wrong."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[Finding] = []
        self._seen: Counter[str] = Counter()

    def add(
        self,
        code: str,
        file: str = "",
        image_id: int | None = None,
        annotation_id: int | None = None,
        **variables: object,
    ) -> None:
        """Adds a finding; beyond the limit of its code it is only counted."""
        if self._seen[code] < self._limit:
            self._kept.append(make(code, file, image_id, annotation_id, **variables))
        self._seen[code] += 1

    def take(self, findings: Iterable[Finding], more: dict[str, int] | None = None) -> None:
        """Adds the findings of another log."""
        for finding in findings:
            if self._seen[finding.code] < self._limit:
                self._kept.append(finding)
            self._seen[finding.code] += 1
        self._seen.update(more or {})

    def count(self, code: str) -> int:
        """How many findings of this code were added, whether kept or only counted."""
        return self._seen[code]

    @property
    def refused_annotations(self) -> int:
        """How many annotations were left out."""
        return sum(self._seen[code] for code in ANNOTATION_ERRORS)

    @property
    def fatal(self) -> Finding | None:
        """The first finding that makes an annotation file unusable."""
        return next((finding for finding in self._kept if RULES[finding.code].fatal), None)

    @property
    def kept(self) -> list[Finding]:
        """The findings within the limit, in the order they were added."""
        return list(self._kept)

    @property
    def more(self) -> dict[str, int]:
        """How many were only counted, by code."""
        listed = Counter(finding.code for finding in self._kept)
        return {code: count - listed[code] for code, count in self._seen.items() if count > listed[code]}

    def ordered(self) -> list[Finding]:
        """Worst first, then in the order they were added; an extra line per code over its limit says by how many."""
        extra = [
            Finding(
                RULES[code].severity,
                code,
                f"{counted(count, 'more like this is', 'more like these are')} not listed.",
                RULES[code].remedy,
            )
            for code, count in sorted(self.more.items())
        ]
        return sorted(self._kept + extra, key=lambda finding: list(Severity).index(finding.severity))


def count(findings: Iterable[Finding]) -> FindingCounts:
    """The number of findings, by severity."""
    found = Counter(finding.severity for finding in findings)
    return FindingCounts(found[Severity.ERROR], found[Severity.WARNING], found[Severity.INFO])
