"""How counts and lists are said: `1 image`, `2 images`, `cats, dogs, …`."""

import string
from collections.abc import Mapping, Sequence


def counted(count: int, singular: str, plural: str = "") -> str:
    """The count and its noun; the plural adds an s unless it is given."""
    return f"{count} {singular if count == 1 else plural or f'{singular}s'}"


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and whether there are more."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def fill(template: str, variables: Mapping[str, object]) -> str:
    """The template filled as by `str.format`, where `{count:image|images}` is a counted noun.

    KeyError if a variable is missing.
    """
    return _FORMATTER.vformat(template, (), variables)


class _Formatter(string.Formatter):
    def format_field(self, value: object, format_spec: str) -> str:
        singular, bar, plural = format_spec.partition("|")
        if bar:
            return f"{value} {singular if str(value) == '1' else plural}"
        return str(super().format_field(value, format_spec))


_FORMATTER = _Formatter()
