"""Counted nouns, alone and in every message that has one."""

import re
import string
from collections.abc import Iterator

import pytest

from services.dataset.finding_rules import RULES
from services.kit.errors import SightlineError
from sightline.plurals import counted, fill, listed

NOUNS = "images|boxes|annotations|categories|uris|tags|bytes|pixels|values|retries|attempts|calls"
WRONG = rf"\b1 (usable )?({NOUNS}|are|were|have)\b"


def test_a_count_has_the_right_form_of_its_noun() -> None:
    assert [counted(count, "image") for count in (0, 1, 2, 11)] == ["0 images", "1 image", "2 images", "11 images"]
    assert [counted(count, "box", "boxes") for count in (1, 2)] == ["1 box", "2 boxes"]


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 box is"), ("1", "1 box is"), (2, "2 boxes are"), ("0", "0 boxes are")]
)
def test_a_template_chooses_the_form_for_numbers_and_numeric_strings(count: object, text: str) -> None:
    assert fill("{count:box is|boxes are} in {file!r}", {"count": count, "file": "a"}) == f"{text} in 'a'"


def test_a_template_without_counts_is_filled_as_usual() -> None:
    assert fill("{over:.3g} of {name}", {"over": 1.23456, "name": "a|b"}) == "1.23 of a|b"
    with pytest.raises(KeyError, match="missing"):
        fill("{missing}", {})


def test_a_long_list_ends_with_an_ellipsis() -> None:
    assert [listed(names, 2) for names in ((), ("a", "b"), ("a", "b", "c"))] == ["", "a, b", "a, b, …"]


def templates() -> Iterator[tuple[str, str]]:
    """Every template of an error or a finding, by its name."""
    kinds = [SightlineError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    yield from ((kind.__name__, kind.template) for kind in kinds)
    yield from ((code, rule.message) for code, rule in RULES.items())


def test_no_message_says_1_images() -> None:
    found = list(templates())
    assert len(found) > len(RULES) > 0
    for name, template in found:
        variables = {field for _, field, _, _ in string.Formatter().parse(template) if field}
        text = fill(template, dict.fromkeys(variables, 1))
        assert not re.search(WRONG, text), f"{name}: {text}"
