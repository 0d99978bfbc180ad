"""Writes the tables of docs/findings.md from the rules of findings; the rest of the page is written by hand."""

from __future__ import annotations

import re
import string
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from services.dataset.dataset_rules import COMPARISON_RULES, DATASET_RULES
from services.dataset.finding_rules import ANNOTATION_RULES, FILE_RULES, IMAGE_RULES
from services.dataset.rule import Rule

PAGE = Path(__file__).resolve().parents[1] / "docs/findings.md"
COMMAND = ".venv/bin/python -m tools.findings_page"
# By the headings of the page.
CHAPTERS: Mapping[str, Mapping[str, Rule]] = {
    "Annotation files": FILE_RULES,
    "Annotations": ANNOTATION_RULES,
    "Images": IMAGE_RULES,
    "Whole datasets": DATASET_RULES,
    "A training and a test dataset": COMPARISON_RULES,
}
HEAD = "| code | severity | message | what to do |\n|---|---|---|---|\n"
# Variables whose names would mislead a reader; an empty one is a part that most messages lack.
SHOWN = {"similar": "", "other": "file", "other_id": "id", "category_id": "id", "size_bytes": "count", "bands": "count"}


def main() -> int:
    """Write the tables."""
    PAGE.write_text(page(PAGE.read_text()))
    return 0


def page(text: str) -> str:
    """The page with the tables of today's rules; ValueError if it lacks a chapter, or a chapter its table."""
    for title, rules in CHAPTERS.items():
        found = re.search(rf"(?<=\n## {title}\n)(?:(?![#|]).*\n)*((?:\|.*\n)+)", text)
        if not found:
            raise ValueError(f"docs/findings.md has no chapter `{title}` with a table")
        text = text[: found.start(1)] + HEAD + "".join(rows(rules)) + text[found.end(1) :]
    return text


def rows(rules: Mapping[str, Rule]) -> Iterator[str]:
    """A row for each rule."""
    for code, rule in rules.items():
        severity = f"{rule.severity}, fatal" if rule.fatal else str(rule.severity)
        yield f"| `{code}` | {severity} | {readable(rule.message)} | {readable(rule.remedy)} |\n"


def readable(template: str) -> str:
    """The template with italics for what `plurals.fill` inserts, and counted nouns in the plural."""
    text = ""
    for literal, name, spec, _ in string.Formatter().parse(template):
        text += literal.replace("|", r"\|")
        if name is not None:
            shown = SHOWN.get(name, name.replace("_", " "))
            _, bar, plural = (spec or "").partition("|")
            text += (f"*{shown}*" if shown else "") + (f" {plural}" if bar else "")
    return re.sub(r"`(\*[^*`]+\*)`", r"\1", text)  # within code there are no italics


if __name__ == "__main__":
    sys.exit(main())
