"""The file of static keys: one line `name role sha256:digest [projects]` each, in force as soon as it is written.

The projects are separated by commas, or `*` for all; a key without any is valid for the project `default`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from services.kit.callers import ALL_PROJECTS, DEFAULT_PROJECT, Caller
from services.kit.log import Log
from services.kit.names import is_project
from services.kit.roles import Role
from sightline.client.keys import NAME, PREFIX, digest
from sightline.client.transport.reloading import ReloadingFiles

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")

_log = Log(__name__)


class StaticKeys:
    """The callers by their keys. Law: a file with a malformed line is rejected; the previous one stays in force."""

    def __init__(self, path: Path) -> None:
        """ValueError or OSError if the file cannot be used."""
        self._watched = ReloadingFiles(
            [path], lambda contents: parse(contents[0]), lambda error: _log.error("auth_keys_unusable", error)
        )

    def takes(self, token: str) -> bool:
        """Whether the token has the form of a static key."""
        return token.startswith(PREFIX)

    def caller(self, token: str) -> Caller | None:
        """The key's owner, if it has one."""
        return self._watched.get().get(digest(token))


def parse(content: bytes) -> Mapping[str, Caller]:
    """The callers by the digests of their keys; ValueError naming the first malformed line."""
    found: dict[str, Caller] = {}
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            name, role, hashed, *projects = words
            match = _DIGEST.fullmatch(hashed)
            if not match or not NAME.fullmatch(name) or len(projects) > 1:
                raise ValueError
            caller = Caller(name, frozenset({Role(role)}), projects=_projects(projects))
        except ValueError:
            roles = "|".join(Role)
            raise ValueError(
                f"the keys' line {number} is not `name {roles} sha256:digest [project,project|*]`"
            ) from None
        if match[1] in found:
            raise ValueError(f"the keys' line {number} has the key of {found[match[1]].subject}")
        found[match[1]] = caller
    return found


def _projects(words: list[str]) -> frozenset[str]:
    """The projects in a line's last word; ValueError if one cannot be a project."""
    projects = words[0].split(",") if words else [DEFAULT_PROJECT]
    if not all(project == ALL_PROJECTS or is_project(project) for project in projects):
        raise ValueError
    return frozenset(projects)
