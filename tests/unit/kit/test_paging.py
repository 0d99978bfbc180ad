"""Pages cover a list exactly once, and tokens of other lists are refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import InvalidPageToken, InvalidRequest
from services.kit.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, check_page_size, encode_token, page


@dataclass(frozen=True)
class Item:
    name: str


names = st.sets(st.from_regex(r"models/[a-zA-Z0-9._-]{1,8}", fullmatch=True), max_size=40)


def walk(items: list[Item], size: int) -> list[str]:
    seen: list[str] = []
    token = ""
    while True:
        chosen, token = page(items, "models", size, token)
        assert len(chosen) <= size
        seen += [item.name for item in chosen]
        if not token:
            return seen


@given(names, st.integers(1, 50))
def test_pages_yield_every_item_once_in_the_order_of_names(found: set[str], size: int) -> None:
    assert walk([Item(name) for name in found], size) == sorted(found)


@given(names, names, names, st.integers(1, 10))
def test_an_item_that_exists_throughout_appears_exactly_once(
    stays: set[str], goes: set[str], comes: set[str], size: int
) -> None:
    first, token = page([Item(name) for name in stays | goes], "models", size, "")
    seen = [item.name for item in first]
    while token:
        chosen, token = page([Item(name) for name in stays | comes], "models", size, token)
        seen += [item.name for item in chosen]
    assert seen == sorted(set(seen))
    if len(first) < len(stays | goes):
        assert stays <= set(seen)


def test_a_full_last_page_has_no_token() -> None:
    assert page([Item("models/a"), Item("models/b")], "models", 2, "")[1] == ""


@pytest.mark.parametrize(("asked", "used"), [(0, DEFAULT_PAGE_SIZE), (1, 1), (1000, 1000), (10**9, MAX_PAGE_SIZE)])
def test_a_page_size_has_a_default_and_a_limit(asked: int, used: int) -> None:
    assert check_page_size(asked) == used


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="page_size"):
        check_page_size(-1)


@given(st.text(min_size=1))
def test_a_foreign_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidPageToken):
        page([Item("models/a")], "models", 1, token)


def test_a_token_of_another_list_is_refused() -> None:
    with pytest.raises(InvalidPageToken):
        page([Item("models/a")], "models", 1, encode_token("datasets", "datasets/a"))
