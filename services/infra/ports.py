"""Which setting is to blame for a port on which nothing can listen."""

from collections.abc import Generator
from contextlib import contextmanager


class PortUnusable(Exception):
    """Nothing can listen there; the message names the settings."""


@contextmanager
def listening(setting: str, host: str, port: int) -> Generator[None]:
    """PortUnusable if the block cannot listen at the port, of which gRPC and sockets do not say what it is for."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        problem = f"{setting}: nothing can listen on port {port} of {host}{reason}"
        raise PortUnusable(
            f"{problem}; choose a free port from 1024 on, and for SIGHTLINE_HOST an address of this machine"
        ) from error
