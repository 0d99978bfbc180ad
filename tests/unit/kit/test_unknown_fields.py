"""A record that a newer release wrote keeps what this one does not know, through any write of this one."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import RecordUnusable
from services.kit.memory import MemoryRecords
from services.kit.records import RECORD_FORMAT, Table
from services.kit.views import View
from tests.support.waiting import eventually


@dataclass(frozen=True, slots=True)
class Part:
    name: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True)
class Whole:
    text: str = ""
    part: Part | None = None
    parts: tuple[Part, ...] = ()
    named: dict[str, Part] = field(default_factory=dict[str, Part])


async def rewritten(stored: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The record after this release has changed some of its fields."""
    records = MemoryRecords()
    await records.create("things/a", json.dumps(stored).encode())
    await Table(records, Whole).change("things/a", lambda whole: replace(whole, **changes))
    return json.loads((await records.get("things/a")).value)


async def test_unknown_fields_of_a_record_and_of_the_objects_in_it_stay() -> None:
    part = {"name": "p", "count": 1, "colour": "red"}
    stored = {"text": "old", "part": part, "named": {"x": part, "y": part}, "new": [1, {"deep": None}]}
    found = await rewritten(stored, text="new", part=Part("p", 2), named={"x": Part("p", 3), "z": Part("z")})
    assert found == {
        "text": "new",
        "part": {"name": "p", "count": 2, "colour": "red"},
        "parts": [],
        "named": {"x": {"name": "p", "count": 3, "colour": "red"}, "z": {"name": "z", "count": 0}},
        "new": [1, {"deep": None}],
    }


async def test_unknown_fields_of_elements_stay_while_these_do_not_change_wherever_they_are() -> None:
    stored = {"parts": [{"name": name, "new": name} for name in "abc"]}
    parts = (Part("c"), Part("b", 1), Part("d"), Part("a"))
    assert (await rewritten(stored, parts=parts))["parts"] == [
        {"name": "c", "new": "c"},
        {"name": "b", "count": 1},
        {"name": "d", "count": 0},
        {"name": "a", "new": "a"},
    ]


async def test_what_this_release_removes_is_gone() -> None:
    stored = {
        "text": "t",
        "part": {"name": "p", "new": 1},
        "parts": [{"name": "a", "new": 1}],
        "named": {"x": {"new": 1}},
    }
    found = await rewritten(stored, part=None, parts=(), named={})
    assert found == {"text": "t", "part": None, "parts": [], "named": {}}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().map(lambda key: f"new_{key}"), json_values), st.text())
async def test_any_unknown_fields_survive_any_number_of_writes(unknown: dict[str, Any], text: str) -> None:
    found = await rewritten(await rewritten({"text": "old", **unknown}, text="between"), text=text)
    assert found == {"text": text, "part": None, "parts": [], "named": {}, **unknown}


@pytest.mark.parametrize("format_", [RECORD_FORMAT + 1, 99, "two", 2**70])
async def test_a_record_of_another_format_is_neither_read_nor_changed_and_a_view_says_so(format_: object) -> None:
    records = MemoryRecords()
    stored = json.dumps({"text": "t", "record_format": format_}).encode()
    await records.create("things/a", stored)
    table, view = Table(records, Whole), View(records, Whole, "things")
    with pytest.raises(RecordUnusable, match="things/a"):
        await table.get("things/a")
    with pytest.raises(RecordUnusable, match="things/a"):
        await table.change("things/a", lambda whole: replace(whole, text="new"))
    assert (await records.get("things/a")).value == stored
    running = asyncio.create_task(view.run())
    await view.synced()
    assert view.all() == []
    assert view.unreadable == {"things/a"}
    await records.update("things/a", b'{"text": "\\"record_format\\": 9"}', 1)
    await eventually(lambda: not view.unreadable)
    assert [found.value.text for found in view.all()] == ['"record_format": 9']
    running.cancel()


async def test_the_present_format_may_be_said() -> None:
    found = await rewritten({"text": "old", "record_format": RECORD_FORMAT}, text="new")
    assert found["record_format"] == RECORD_FORMAT
