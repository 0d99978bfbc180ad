"""Layouts of a suite on this machine, for tests that start none."""

from collections.abc import Mapping
from pathlib import Path

from sightline.client.transport.addresses import Addresses
from sightline.local.programs import Layout


def layout_of(
    data: Path, nats_passwords: Mapping[str, str], *, workers: int = 1, environment: Mapping[str, str] | None = None
) -> Layout:
    """At the default ports, without metrics."""
    return Layout(
        data=data,
        workers=workers,
        addresses=Addresses(),
        gateway_port=50054,
        nats_port=4222,
        nats_passwords=nats_passwords,
        metrics_ports={},
        environment=environment or {},
    )
