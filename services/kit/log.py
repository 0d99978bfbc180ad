"""Log events: a constant name and fields; the ids of the current call or job are added automatically.

The process decides where they go (`infra.observe` writes JSON lines); by default they follow the standard library's
logging.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

FIELDS = "fields"  # the attribute of a log record that holds an event's fields

request_id: ContextVar[str] = ContextVar("request_id", default="")
resource: ContextVar[str] = ContextVar("resource", default="")
caller: ContextVar[str] = ContextVar("caller", default="")  # as the token names it


class Log:
    """One module's logger. Law: never raises because of a field's name or type."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, /, **fields: object) -> None:
        """For debugging a single case."""
        self._logger.debug(event, extra={FIELDS: fields})

    def info(self, event: str, /, **fields: object) -> None:
        """Part of the history of a request or resource."""
        self._logger.info(event, extra={FIELDS: fields})

    def warning(self, event: str, /, **fields: object) -> None:
        """Something went wrong that Sightline handles by itself."""
        self._logger.warning(event, extra={FIELDS: fields})

    def error(self, event: str, error: BaseException | None = None, /, **fields: object) -> None:
        """Needs attention; logs the error's traceback if one is given."""
        self._logger.error(event, exc_info=error, extra={FIELDS: fields})


@contextmanager
def about(name: str) -> Generator[None]:
    """In its context, every event of this task carries the resource's name."""
    token = resource.set(name)
    try:
        yield
    finally:
        resource.reset(token)
