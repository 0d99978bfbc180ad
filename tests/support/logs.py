"""Captures the JSON log of this process."""

import json
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from io import StringIO
from typing import Any

from services.infra.observe import configure_logging


@contextmanager
def captured_log(service: str = "test", level: str = "DEBUG") -> Generator[StringIO]:
    """Configures logging into the stream for the block, and restores the previous configuration."""
    root, show_warning = logging.getLogger(), warnings.showwarning
    handlers, previous_level = root.handlers[:], root.level
    stream = StringIO()
    configure_logging(service, level, stream)
    try:
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(previous_level)
        warnings.showwarning = show_warning


def lines(stream: StringIO) -> list[dict[str, Any]]:
    """The captured lines."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def events(stream: StringIO, event: str) -> list[dict[str, Any]]:
    """The captured lines of one event."""
    return [line for line in lines(stream) if line["event"] == event]
