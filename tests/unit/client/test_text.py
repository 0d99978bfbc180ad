"""Characters that people do not see: found in names, escaped on output."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dataset.categories import Categories
from services.dataset.coco import CocoCategory
from services.dataset.findings import FindingLog
from sightline.blob_keys import fault_of_key
from sightline.client.safe_console import SafeConsole
from sightline.text import fault_of_text, shown

ESCAPE, C1, RIGHT_TO_LEFT, NO_WIDTH = "\x1b[31m", "\x9b31m", "a\u202eb", "c\u200bat"


@pytest.mark.parametrize(
    ("text", "character"),
    [
        (ESCAPE, "control character U+001B"),
        (C1, "control character U+009B"),
        ("a\nb", "control character U+000A"),
        ("a\x7f", "control character U+007F"),
        (RIGHT_TO_LEFT, "invisible character U+202E"),
        ("a\u2067b", "invisible character U+2067"),
        (NO_WIDTH, "invisible character U+200B"),
        ("\ufeffcat", "invisible character U+FEFF"),
        ("c\u200dat", "invisible character U+200D"),
        ("cat\U000e0041", "invisible character U+E0041"),
        ("a\ud800", "invisible character U+D800"),
    ],
)
def test_a_name_with_a_character_that_is_not_seen_is_at_fault(text: str, character: str) -> None:
    assert fault_of_text(text) == f"has the {character}"


SCRIPTS = ("cat", "飞机", "Straße 7", "می\u200cخواهم", "क्\u200dष", "👩\u200d🔬", "❤\ufe0f\u200d🔥", "قطة", "")


@pytest.mark.parametrize("text", SCRIPTS)
def test_a_name_in_any_script_is_not(text: str) -> None:
    assert fault_of_text(text) == ""
    assert shown(text) == text


@given(st.text())
def test_what_is_shown_has_no_fault_and_json_keeps_its_meaning(text: str) -> None:
    assert fault_of_text(shown(text, keep="")) == ""
    assert json.loads(shown(json.dumps([text], ensure_ascii=False))) == [text]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_prints_its_own_colours_and_no_others(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    file.isatty = lambda: terminal
    SafeConsole(file=file).print(f"[bold]x[/] \x1b]0;title\x07{C1}{RIGHT_TO_LEFT}\nnext", markup=True)
    printed = file.getvalue()
    assert ("\x1b[1mx" in printed) == terminal
    assert "\x1b]0;" not in printed
    assert not {"\x07", "\x9b", "\u202e"} & set(printed)
    assert "\\u001b]0;title" in printed
    assert printed.splitlines()[1] == "next"


@pytest.mark.parametrize("text", [ESCAPE, C1, RIGHT_TO_LEFT, NO_WIDTH, "a\u206ab", "a\U0001d173b"])
def test_keys_and_names_of_categories_refuse_the_same_characters_as_other_names(text: str) -> None:
    fault, log = fault_of_text(text), FindingLog(10)
    assert fault_of_key(f"images/{text}.png") == fault
    Categories().merge([CocoCategory(id=1, name=text)], "train.json", log)
    assert [finding.message for finding in log.ordered()] == [f"The name {text!r} of category 1 {fault}."]


@pytest.mark.parametrize("text", [text for text in SCRIPTS if text])
def test_keys_and_names_of_categories_may_be_in_any_script(text: str) -> None:
    log = FindingLog(10)
    assert fault_of_key(f"images/{text}.png") == ""
    Categories().merge([CocoCategory(id=1, name=text)], "train.json", log)
    assert log.ordered() == []
