"""docs/findings.md lists every code of findings with its severity, its message and what to do."""

import re
from collections.abc import Mapping

import pytest

from services.dataset.finding_rules import RULES
from services.dataset.rule import Rule, Severity
from tools.findings_page import CHAPTERS, COMMAND, PAGE, page, readable

DOCUMENT = PAGE.read_text()
ROW = re.compile(r"^\| `(\w+)` \| (ERROR|WARNING|INFO)(, fatal)? \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def chapter(title: str) -> str:
    """The text between a heading and the next one."""
    _, _, rest = DOCUMENT.partition(f"\n## {title}\n")
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize(("title", "rules"), CHAPTERS.items(), ids=list(CHAPTERS))
def test_every_code_is_listed_as_the_service_has_it_and_no_other_is(title: str, rules: Mapping[str, Rule]) -> None:
    listed = {
        code: Rule(Severity(severity), message, remedy, bool(fatal))
        for code, severity, fatal, message, remedy in ROW.findall(chapter(title))
    }
    real = {
        code: rule._replace(message=readable(rule.message), remedy=readable(rule.remedy))
        for code, rule in rules.items()
    }
    assert listed == real, f"run `{COMMAND}`"


def test_every_code_is_in_one_chapter() -> None:
    assert sorted(code for rules in CHAPTERS.values() for code in rules) == sorted(RULES)
    assert sorted(code for code, *_ in ROW.findall(DOCUMENT)) == sorted(RULES)


def test_a_page_with_the_tables_of_earlier_rules_gets_those_of_today() -> None:
    stale = DOCUMENT.replace("| `boxTiny` | WARNING |", "| `boxOld` | INFO |")
    assert stale != DOCUMENT
    assert page(stale) == DOCUMENT
    with pytest.raises(ValueError, match="no chapter `Images` with a table"):
        page(DOCUMENT.replace("\n## Images\n", "\n## Pictures\n"))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{count:box is|boxes are} in {other!r} (image {other_id}).", "*count* boxes are in *file* (image *id*)."),
        ("{over:.4g} px, {overlap:.0%}", "*over* px, *overlap*"),
        ("no file at {uri} in the store{similar}.", "no file at *uri* in the store."),
        ("in `{section}` of `x|y`", r"in *section* of `x\|y`"),
    ],
)
def test_a_template_is_readable(template: str, text: str) -> None:
    assert readable(template) == text
