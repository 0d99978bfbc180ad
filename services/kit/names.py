"""Resource names and ids: `datasets/{dataset}`, `models/{model}/trials/{trial}` and so on, and the project in a name.

Inside the services a name says which project its resource belongs to: `projects/acme/datasets/x`, and `datasets/x` for
the project `default`. Callers see `datasets/x` in both; only `infra.projects` turns one into the other.
"""

import re
import secrets

from services.kit.callers import DEFAULT_PROJECT, acting_project
from services.kit.errors import InvalidName

ID_PATTERN = r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}$"
ALIAS_MARK = "@"
PROJECTS = "projects"
PROJECT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ID = re.compile(ID_PATTERN)
_ALIAS = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_id(value: str, field: str) -> str:
    """The id itself; InvalidName with the field and the expected form."""
    if not is_id(value):
        raise InvalidName(field=field, value=value, expected=f"letters, digits, '.', '_' or '-' as in {ID_PATTERN}")
    return value


def is_id(value: str) -> bool:
    """Whether a resource can have this id."""
    return bool(_ID.fullmatch(value))


def is_project(value: str) -> bool:
    """Whether a project can be called this."""
    return bool(PROJECT.fullmatch(value))


def join(*parts: str) -> str:
    """`join("models", "m1", "trials", "t0")` is `models/m1/trials/t0`; ids are not checked."""
    return "/".join(parts)


def root(project: str) -> str:
    """What the names of a project's resources start with: nothing for `default`."""
    return "" if project == DEFAULT_PROJECT else f"{PROJECTS}/{project}/"


def own(*parts: str) -> str:
    """The name, or the prefix of names, in the project that the current call acts in."""
    return root(acting_project()) + join(*parts)


def split(name: str) -> tuple[str, str]:
    """A name's project, and the name within it."""
    first, _, rest = name.partition("/")
    if first != PROJECTS:
        return DEFAULT_PROJECT, name
    project, _, local = rest.partition("/")
    return project, local


def parent(name: str) -> str:
    """The name of the outermost resource: of `models/m1/trials/t0`, `models/m1`."""
    project, local = split(name)
    return root(project) + "/".join(local.split("/", 2)[:2])


def parse(name: str, *collections: str, field: str = "name") -> tuple[str, ...]:
    """The ids in a name of the given collections, outermost first; InvalidName if it is malformed."""
    _, local = split(name)
    parts = local.split("/")
    expected = "/".join(f"{c}/{{{c.removesuffix('s')}}}" for c in collections)
    if len(parts) != 2 * len(collections) or tuple(parts[::2]) != collections:
        raise InvalidName(field=field, value=local, expected=expected)
    return tuple(check_id(part, field) for part in parts[1::2])


def is_alias(name: str) -> bool:
    """Whether the name, which must be valid, is that of an alias: `models/{model}@{alias}`."""
    return ALIAS_MARK in name


def check_alias(name: str, field: str = "name") -> str:
    """The name itself; InvalidName unless it is `models/{model}@{alias}`."""
    local = split(name)[1]
    model, mark, alias = local.rpartition(ALIAS_MARK)
    collection, _, id_ = model.partition("/")
    if not (mark and collection == "models" and is_id(id_) and _ALIAS.fullmatch(alias)):
        expected = "models/{model}@{alias}, the alias of lower-case letters, digits and '-', at most 63"
        raise InvalidName(field=field, value=local, expected=expected)
    return name


def check_model(name: str, field: str = "name") -> str:
    """The name itself; InvalidName unless it is `models/{model}`, or `models/{model}@{alias}`, an alias of a model."""
    if is_alias(name):
        return check_alias(name, field)
    parse(name, "models", field=field)
    return name


def new_uid() -> str:
    """A short random id of one creation, so that the blobs of two resources of the same name never mix."""
    return secrets.token_hex(6)
