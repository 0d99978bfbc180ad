"""Free ports of this machine."""

import contextlib
import socket

HOST = "127.0.0.1"
GATEWAY = "gateway"  # the services' caller, over HTTP, on the port after theirs


def free_ports(count: int) -> list[int]:
    """`count` different ports on which nothing listens."""
    with contextlib.ExitStack() as open_sockets:
        probes = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def is_free(port: int) -> bool:
    """Whether nothing listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
