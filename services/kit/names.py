"""Resource names and ids: `datasets/{dataset}`, `models/{model}/trials/{trial}` and their like."""

import re
import secrets

from services.kit.errors import InvalidName

ID_PATTERN = r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}$"
_ID = re.compile(ID_PATTERN)


def check_id(value: str, field: str) -> str:
    """The id itself, or InvalidName with the field and the form that is expected."""
    if not _ID.fullmatch(value):
        raise InvalidName(field=field, value=value, expected=f"letters, digits, '.', '_' or '-' as in {ID_PATTERN}")
    return value


def join(*parts: str) -> str:
    """`join("models", "m1", "trials", "t0")` is `models/m1/trials/t0`; ids are not checked."""
    return "/".join(parts)


def parse(name: str, *collections: str, field: str = "name") -> tuple[str, ...]:
    """The ids of a name whose collections are given, outermost first; InvalidName if it has another form."""
    parts = name.split("/")
    expected = "/".join(f"{c}/{{{c.removesuffix('s')}}}" for c in collections)
    if len(parts) != 2 * len(collections) or tuple(parts[::2]) != collections:
        raise InvalidName(field=field, value=name, expected=expected)
    return tuple(check_id(part, field) for part in parts[1::2])


def new_uid() -> str:
    """A short random id for one creation of a resource, so that its blobs never mix with a namesake's."""
    return secrets.token_hex(6)
