"""Changes valid input at random: bytes, JSON and names. The same `Random` gives the same change."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.attack import escapes

NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
MOST_BYTES = 1 << 16  # of a mutated input; what grows with each change stays small
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(
        "",
        "a",
        "x" * 300,
        "é",
        "\0",
        "\ud800",
        "../x",
        "1e999",
        "NaN",
        " ",
        "\n",
        "\u202e",
        "http://[::1",
        "/etc/passwd",
    ),
    *([], {}, [[]], [None], {"": None}),
)
NAMES = (
    *(
        "",
        ".",
        "..",
        "/",
        "//",
        "a",
        "m",
        "-",
        "_",
        "*",
        ">",
        "$",
        "=",
        "%2e%2e",
        "%00",
        "\0",
        "\\",
        "..\\",
        "../",
        "/..",
    ),
    *(
        "models",
        "models/m",
        "datasets",
        "datasets/pets",
        "projects/acme",
        "uploads/u",
        "evaluations",
        "trials/t000",
        "weights",
    ),
    *(
        "\u2024\u2024",
        "\uff0e\uff0e",
        "\u2215",
        "\uff0f",
        "\u202e",
        "\u200b",
        "\ufeff",
        "a\u0301",
        "\ud800",
        "é",
        "\n",
        "\r\n",
    ),
    *(
        "x" * 255,
        "x" * 256,
        "x" * 1100,
        "CON",
        "nul",
        ".sightline-tmp",
        "?x=1",
        "#x",
        "@",
        ":",
        "C:",
        "~",
        "{x}",
        "${HOME}",
    ),
    *(
        "s3://",
        "s3://sightline/",
        "s3://sightline/uploads/u/a.png",
        "file:///etc/passwd",
        "http://169.254.169.254/",
        "//host/x",
    ),
)

Change = Callable[[bytearray, Random], None]


def mutated(data: bytes, random: Random, others: Sequence[bytes] = (), tokens: Sequence[bytes] = ()) -> bytes:
    """One to eight changes; `others` are spliced in, `tokens` are what the format's parsers look for."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 5, 8))):
        if others and random.random() < 0.05:
            other = random.choice(others)
            cut, start = _at(changed, random), random.randrange(len(other) + 1)
            changed[cut:] = other[start:]
        elif tokens and random.random() < 0.15:
            place = _at(changed, random)
            changed[place : place + random.choice((0, 0, 1, 4))] = random.choice(tokens)
        else:
            random.choice(_CHANGES)(changed, random)
    return bytes(changed[: max(MOST_BYTES, len(data))])


def _at(data: bytearray, random: Random) -> int:
    """A place, as often in the first bytes, where headers are, as anywhere."""
    return random.randrange(min(len(data), random.choice((64, 512, 1 << 30))) + 1)


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[min(_at(data, random), len(data) - 1)] ^= 1 << random.randrange(8)


def _replace(data: bytearray, random: Random) -> None:
    if data:
        data[min(_at(data, random), len(data) - 1)] = random.randrange(256)


def _number(data: bytearray, random: Random) -> None:
    size, place = random.choice((1, 2, 4, 8)), _at(data, random)
    number = random.choice(NUMBERS) + random.choice((0, 0, -1, 1))
    data[place : place + size] = (number % (1 << 8 * size)).to_bytes(size, random.choice(("little", "big")))


def _insert(data: bytearray, random: Random) -> None:
    place = _at(data, random)
    data[place:place] = random.randbytes(random.choice((1, 2, 4, 16, 100)))


def _remove(data: bytearray, random: Random) -> None:
    place = _at(data, random)
    del data[place : place + random.choice((1, 2, 4, 16, 100, 1000))]


def _repeat(data: bytearray, random: Random) -> None:
    place, size = _at(data, random), random.choice((1, 4, 16, 100, 1000))
    data[place:place] = data[place : place + size] * random.choice((1, 1, 2, 20))


def _truncate(data: bytearray, random: Random) -> None:
    del data[_at(data, random) :]


def _swap(data: bytearray, random: Random) -> None:
    one, other, size = _at(data, random), _at(data, random), random.choice((1, 4, 16, 64))
    first, second = bytes(data[one : one + size]), bytes(data[other : other + size])
    if len(first) == len(second):
        data[one : one + size], data[other : other + size] = second, first


_CHANGES: tuple[Change, ...] = (_flip, _flip, _replace, _number, _number, _insert, _remove, _repeat, _truncate, _swap)


def mutated_json(content: Any, random: Random) -> bytes:
    """JSON in which some values, keys or levels are others; now and then it is no JSON any more."""
    for _ in range(random.choice((1, 1, 2, 4))):
        content = _changed(content, random)
    text = json.dumps(content, ensure_ascii=random.random() < 0.7, indent=random.choice((None, None, 1)))
    data = text.encode(errors="surrogatepass")
    if random.random() < 0.03:
        depth = random.choice((40, 900, 20_000))
        data = data.replace(b"null", random.choice((b"[", b'{"a":')) * depth, 1)
    return mutated(data, random) if random.random() < 0.2 else data


def _changed(content: Any, random: Random) -> Any:
    """The value with one place in it changed; the parts that did not change are shared."""
    if isinstance(content, dict) and content and random.random() < 0.9:
        key = random.choice(list(content))
        rest = {name: value for name, value in content.items() if name != key}
        match random.randrange(12):
            case 0:
                return rest
            case 1:
                return rest | {random.choice(NAMES): content[key]}
            case 2:
                return content | {random.choice(list(content)): content[key]}
            case _:
                return content | {key: _changed(content[key], random)}
    if isinstance(content, list) and content and random.random() < 0.9:
        place = random.randrange(len(content))
        match random.randrange(12):
            case 0:
                return content[:place] + content[place + 1 :]
            case 1:
                return content + content[place : place + 1] * random.choice((1, 1, 50))
            case _:
                return [*content[:place], _changed(content[place], random), *content[place + 1 :]]
    if isinstance(content, int | float) and not isinstance(content, bool) and random.random() < 0.4:
        return random.choice((-content, content + 1, content * 2, str(content), content * 10**6))
    return random.choice(VALUES)


def name(random: Random, words: Sequence[str] = NAMES) -> str:
    """A name, path or uri of parts that are valid, hostile or both, or one of the tables of escapes."""
    if words is NAMES and random.random() < 0.2:
        return random.choice(random.choice((escapes.NAMES, escapes.URIS)))
    parts = [random.choice(words) for _ in range(random.choice((1, 1, 2, 2, 3, 4, 6)))]
    text = random.choice(("/", "/", "", "\\", "%2f", ".")).join(parts)
    return text if random.random() < 0.9 else mutated(text.encode(errors="replace"), random).decode(errors="replace")
