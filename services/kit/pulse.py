"""Signs of life of a long computation, for whoever waits for it.

The loops that do the work call `beat`, and no thread does it for them: when a loop hangs, its pulse stops.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar


def _unheard() -> None:
    """Where nobody listens."""


_listener: ContextVar[Callable[[], None]] = ContextVar("pulse", default=_unheard)


def beat() -> None:
    """Tells the listener, if there is one, that this thread still makes progress; cheap enough for inner loops."""
    _listener.get()()


@contextmanager
def heard(listener: Callable[[], None]) -> Generator[None]:
    """Has the listener hear every beat of this thread within the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
