"""The file of quotas: limits of single projects, in force as soon as it is written.

JSON by project: `{"acme": {"datasets": 100, "models": 50, "storage_bytes": 0, "compute_seconds": 360000}}`. What it
leaves out is as in the settings; 0 is no limit.
"""

from collections.abc import Mapping
from dataclasses import replace

from services.kit import codec
from services.kit.log import Log
from services.kit.names import is_project
from services.kit.quotas import LimitsOf, Quota
from services.kit.settings import Settings
from sightline.client.transport.reloading import ReloadingFiles

_log = Log(__name__)


class QuotasUnusable(Exception):
    """The file of quotas cannot be used; the message names the setting and the fault."""


def limits_of(settings: Settings) -> LimitsOf:
    """The limits of each project. A file that becomes wrong is logged, and the former one stays; QuotasUnusable."""
    defaults, path = settings.project_limits, settings.project_quotas
    if path is None:
        return lambda _: defaults
    try:
        watched = ReloadingFiles(
            [path], lambda contents: parse(contents[0]), lambda error: _log.error("project_quotas_unusable", error)
        )
    except (OSError, ValueError) as error:
        raise QuotasUnusable(f"SIGHTLINE_PROJECT_QUOTAS: {error}") from None
    return lambda project: replace(defaults, **watched.get().get(project, {}))


def parse(content: bytes) -> Mapping[str, Mapping[str, int]]:
    """What the file sets, by project; ValueError naming the project, the quota and the fault."""
    try:
        found = codec.parse(content, dict[str, dict[str, object]])
    except ValueError as error:
        raise ValueError(f'not JSON like {{"acme": {{"models": 50}}}}: {error}') from None
    return {project: _limits(project, limits) for project, limits in found.items()}


def _limits(project: str, limits: Mapping[str, object]) -> dict[str, int]:
    if not is_project(project):
        raise ValueError(f"{project!r} is no name of a project: lower-case letters, digits and '-', at most 63")
    checked: dict[str, int] = {}
    for name, value in limits.items():
        if name not in set(Quota):
            raise ValueError(f"{project}: there is no quota {name!r}; choose among {', '.join(Quota)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{project}: {name} is {value!r}; it must be a whole number, 0 for no limit")
        checked[name] = value
    return checked
