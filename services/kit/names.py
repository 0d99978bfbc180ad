"""Resource names and ids: `datasets/{dataset}`, `models/{model}/trials/{trial}` and so on."""

import re
import secrets

from services.kit.errors import InvalidName

ID_PATTERN = r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}$"
_ID = re.compile(ID_PATTERN)


def check_id(value: str, field: str) -> str:
    """The id itself; InvalidName with the field and the expected form."""
    if not _ID.fullmatch(value):
        raise InvalidName(field=field, value=value, expected=f"letters, digits, '.', '_' or '-' as in {ID_PATTERN}")
    return value


def join(*parts: str) -> str:
    """`join("models", "m1", "trials", "t0")` is `models/m1/trials/t0`; ids are not checked."""
    return "/".join(parts)


def parse(name: str, *collections: str, field: str = "name") -> tuple[str, ...]:
    """The ids in a name of the given collections, outermost first; InvalidName if it is malformed."""
    parts = name.split("/")
    expected = "/".join(f"{c}/{{{c.removesuffix('s')}}}" for c in collections)
    if len(parts) != 2 * len(collections) or tuple(parts[::2]) != collections:
        raise InvalidName(field=field, value=name, expected=expected)
    return tuple(check_id(part, field) for part in parts[1::2])


def new_uid() -> str:
    """A short random id of one creation, so that the blobs of two resources of the same name never mix."""
    return secrets.token_hex(6)
