"""Names that differ but were probably meant to be the same."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

COMPARED = 20  # names compared letter by letter, which is slow
CUTOFF = 0.8  # share of letters in common

_BETWEEN = re.compile(r"(?<=[^\W\d_])\s*[-_\u2010-\u2015]+\s*(?=[^\W\d_])")  # hyphens and underscores between letters


def tidy(name: str) -> str:
    """The name without spaces around it, in Unicode's composed form."""
    return unicodedata.normalize("NFC", name).strip()


def folded(name: str) -> str:
    """Equal for names that differ only in case, spaces, hyphens, invisible characters or Unicode form."""
    visible = "".join(char for char in unicodedata.normalize("NFKC", name) if not _is_unseen(char))
    return " ".join(unicodedata.normalize("NFKC", _BETWEEN.sub(" ", visible).casefold()).split())


def _is_unseen(char: str) -> bool:
    return unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f"  # those choose a form, as of emoji


def alike(names: Iterable[str]) -> list[list[str]]:
    """The groups of two or more names that are equal when folded."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(folded(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def similar(names: Sequence[str], known: Iterable[str]) -> list[str]:
    """For each name, the known name that was probably meant; "" if none is close.

    A name that is equal when folded is preferred; for the first COMPARED names, one with nearly the same spelling will
    do.
    """
    by_folded: dict[str, str] = {}
    for name in known:
        by_folded.setdefault(folded(name), name)
    by_digits: dict[tuple[str, ...], list[str]] = {}  # names with different numbers are different on purpose
    for text in by_folded:
        by_digits.setdefault(_digits(text), []).append(text)
    found: list[str] = []
    for number, text in enumerate(folded(name) for name in names):
        near = [text] if text in by_folded else []
        if not near and number < COMPARED:
            near = get_close_matches(text, by_digits.get(_digits(text), []), 1, CUTOFF)
        found.append(by_folded[near[0]] if near else "")
    return found


def _digits(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+", text))
