"""Fixtures of the service tests."""

from collections.abc import Iterator
from io import StringIO

import pytest

from tests.support.logs import captured_log


@pytest.fixture
def log_stream() -> Iterator[StringIO]:
    """The process's log from now on, as JSON lines."""
    with captured_log() as stream:
        yield stream
