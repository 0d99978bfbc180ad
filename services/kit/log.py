"""Events for the log: a constant name and fields, with the ids of the call or job at hand added by themselves.

Whoever runs the process says where they go (`infra.observe` makes JSON lines of them); without that, they follow
the rules of the standard library's logging.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

FIELDS = "fields"  # The attribute of a log record that holds an event's fields.

request_id: ContextVar[str] = ContextVar("request_id", default="")
resource: ContextVar[str] = ContextVar("resource", default="")
caller: ContextVar[str] = ContextVar("caller", default="")  # who a token says it is


class Log:
    """Where one module's events go. Law: never raises because of a field's name or type."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, /, **fields: object) -> None:
        """For whoever looks into one case."""
        self._logger.debug(event, extra={FIELDS: fields})

    def info(self, event: str, /, **fields: object) -> None:
        """Something happened that belongs to the story of a request or resource."""
        self._logger.info(event, extra={FIELDS: fields})

    def warning(self, event: str, /, **fields: object) -> None:
        """Something went wrong that Sightline deals with by itself."""
        self._logger.warning(event, extra={FIELDS: fields})

    def error(self, event: str, error: BaseException | None = None, /, **fields: object) -> None:
        """Somebody should look; with the error's traceback if it is given."""
        self._logger.error(event, exc_info=error, extra={FIELDS: fields})


@contextmanager
def about(name: str) -> Generator[None]:
    """While it is open, every event of this task says that it is about the resource."""
    token = resource.set(name)
    try:
        yield
    finally:
        resource.reset(token)
