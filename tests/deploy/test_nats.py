"""The configuration of NATS in deploy/k8s, tried with real servers: three of them, plain and with TLS."""

import asyncio
import os
import re
import subprocess
from collections.abc import Generator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from nats.aio.client import ServerVersion

from services.infra.jetstream import connected, knows_sync_interval
from services.infra.jetstream_queue import STREAM, JetStreamQueue
from services.infra.nats_access import NatsAccess
from sightline.nats import find, version
from sightline.ports import free_ports
from tests.support.certificates import Authority
from tests.support.manifests import K8S
from tests.support.servers import stop

SERVERS = 3
PLACES = {"plain": K8S / "base" / "nats.conf", "tls": K8S / "components" / "tls" / "nats.conf"}


@pytest.fixture(params=PLACES)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[tuple[str, NatsAccess]]:
    """Its urls, and how to get in."""
    access = NatsAccess()
    if request.param == "tls":
        authority = Authority()
        certificate, key = authority.pair().write(tmp_path / "tls", "tls")
        access = NatsAccess(authority.write(tmp_path / "tls"), certificate, key)
    ports = free_ports(3 * SERVERS)
    with ExitStack() as stack:
        for number in range(SERVERS):
            config = tmp_path / f"nats-{number}.conf"
            config.write_text(_here(PLACES[request.param].read_text(), number, ports, tmp_path))
            log = stack.enter_context((tmp_path / f"nats-{number}.log").open("wb"))
            environment = os.environ | {"POD_NAME": f"nats-{number}"}
            command = [find(), "--config", str(config)]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(stop, process)
        yield ",".join(f"nats://127.0.0.1:{port}" for port in ports[:SERVERS]), access


def _here(config: str, number: int, ports: list[int], folder: Path) -> str:
    """The configuration of one server, for this machine: names become ports, and an old server hears of no sync."""
    clients, routes, monitors = (ports[i * SERVERS : (i + 1) * SERVERS] for i in range(3))
    for other in range(SERVERS):
        config = config.replace(f"nats-{other}.nats:6222", f"127.0.0.1:{routes[other]}")
    for old, mine in (("0.0.0.0:4222", clients), ("0.0.0.0:6222", routes), ("0.0.0.0:8222", monitors)):
        assert old in config
        config = config.replace(old, f"127.0.0.1:{mine[number]}")
    config = config.replace("/data", str(folder / f"data-{number}")).replace("/tmp/nats.pid", str(folder / "pid"))
    config = config.replace("/etc/nats-tls", str(folder / "tls"))
    major, minor, patch = version(find())
    knows = knows_sync_interval(ServerVersion(f"{major}.{minor}.{patch}"))
    return config if knows else re.sub(r" *sync_interval: always\n", "", config)


async def test_three_servers_find_one_another_and_keep_each_stream_thrice(cluster: tuple[str, NatsAccess]) -> None:
    url, access = cluster
    async with asyncio.timeout(60), connected(url, "test", access) as connection:
        queue = JetStreamQueue(connection, replicas=SERVERS)
        await _published(queue)
        info = await connection.jetstream().stream_info(STREAM)
        assert info.config.num_replicas == SERVERS
        assert info.cluster is not None
        assert len(info.cluster.replicas or []) == SERVERS - 1
        delivery = await queue.fetch("trainer", timedelta(seconds=20))
        assert delivery is not None
        assert delivery.body == b"work"


async def _published(queue: JetStreamQueue) -> None:
    """Until the servers have elected a leader, none of them takes anything."""
    while True:
        try:
            return await queue.publish("trainer", b"work")
        except Exception:  # noqa: BLE001 - whatever it says, the test's deadline ends it
            await asyncio.sleep(0.2)
