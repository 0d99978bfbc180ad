"""Who calls: what a token says about its bearer, and the caller of the call that the current task answers."""

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from services.kit.roles import Role

KEYS = "key"  # the issuer of static keys
DEFAULT_PROJECT = "default"
ALL_PROJECTS = "*"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller, according to the token.

    Law: two callers are the same only if issuer and subject are: whoever signs tokens for the subject `admin` does not
    become the owner of the key `admin`.
    """

    subject: str
    roles: frozenset[Role]
    issuer: str = KEYS
    projects: frozenset[str] = frozenset({DEFAULT_PROJECT})  # where the roles hold; ALL_PROJECTS for everywhere
    project: str = DEFAULT_PROJECT  # where this call acts
    expires: datetime | None = None  # None: as long as the key is in the file

    @property
    def name(self) -> str:
        """As logs, errors and limits name it."""
        return f"{self.issuer}:{self.subject}"


# None for calls that need no token.
current: ContextVar[Caller | None] = ContextVar("caller", default=None)

_project: ContextVar[str] = ContextVar("project", default=DEFAULT_PROJECT)


def act_in(project: str) -> None:
    """The current call, and the tasks that it starts from now on, act in the project."""
    _project.set(project)


def acting_project() -> str:
    """The project that the current call acts in."""
    return _project.get()
