"""Characters that are not seen but change what a person sees: refused in names and keys, escaped on output."""

import re

# Between two letters of these scripts a joiner is spelling, and between two emoji it makes one of them.
_JOINED = r"[\u0600-\u1fff\u200c\u200d\u2600-\u27bf\ufe0f\U0001f000-\U0001faff]"
_HIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f"  # C0 and C1, with escape: they move the cursor, colour, and change the terminal's title
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the direction of writing
    r"\u00ad\u180e\u200b\u2028\u2029\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # no width, no line
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # of shorthand and of musical notation
    r"\ud800-\udfff]"  # halves of characters
    rf"|(?<!{_JOINED})[\u200c\u200d]|[\u200c\u200d](?!{_JOINED})"
)


def fault_of_text(text: str) -> str:
    """What is wrong with a name, as a predicate (`has the control character U+001B`); empty if all of it is seen."""
    found = _HIDDEN.search(text)
    if not found:
        return ""
    code = ord(found[0])
    return f"has the {'control' if code < 0xA0 else 'invisible'} character U+{code:04X}"


def shown(text: str, keep: str = "\n") -> str:
    """The text with each such character as JSON escapes it; those in `keep` stay.

    JSON, in which they are only ever inside strings, means the same afterwards.
    """
    return _HIDDEN.sub(lambda found: found[0] if found[0] in keep else _escaped(ord(found[0])), text)


def replaced(text: str, by: str) -> str:
    """The text with each such character replaced."""
    return _HIDDEN.sub(by, text)


def _escaped(code: int) -> str:
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\u{0xD800 + (code - 0x10000 >> 10):04x}\\u{0xDC00 + (code - 0x10000 & 0x3FF):04x}"
