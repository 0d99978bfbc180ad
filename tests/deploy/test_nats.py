"""The configuration of NATS in deploy/k8s, on three real servers, with and without TLS."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from services.infra.jetstream import connected
from services.infra.jetstream_queue import STREAM, JetStreamQueue
from services.infra.jetstream_records import JetStreamRecords
from services.infra.nats_access import NatsAccess
from services.infra.nats_expiry import shown
from services.kit.errors import RecordExists, Unavailable
from services.kit.queue import Queue
from services.trainer.reconcile import jobs
from sightline.local.nats import find
from sightline.local.nats_users import ADMIN, USERS, WRITES, password_variable
from sightline.local.ports import free_ports
from tests.support.certificates import HOUR, Authority
from tests.support.manifests import K8S, of_kind, template
from tests.support.servers import ACK_WAIT, stop

SERVERS = 3
PASSWORD = "p1e5"  # as the documented command makes them
CONFIGURATION = ("nats.conf", "tls.conf", "users.conf", "cluster.conf")
PLACES = {"plain": K8S / "base" / "tls.conf", "tls": K8S / "components" / "tls" / "tls.conf"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Three servers' addresses, and how to authenticate to them."""

    url: str
    access: NatsAccess
    monitors: list[str]
    authority: Authority


@pytest.fixture(params=PLACES)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Cluster]:
    """Three servers with the configuration."""
    access, authority = NatsAccess(user=ADMIN, password=PASSWORD), Authority()
    if request.param == "tls":
        certificate, key = authority.pair().write(tmp_path / "tls", "tls")
        access = replace(access, ca=authority.write(tmp_path / "tls"), certificate=certificate, key=key)
    ports = free_ports(3 * SERVERS)
    with ExitStack() as stack:
        for number in range(SERVERS):
            config = _localised(PLACES[request.param], number, ports, tmp_path)
            log = stack.enter_context((tmp_path / f"nats-{number}.log").open("wb"))
            environment = os.environ | passwords() | {"POD_NAME": f"nats-{number}"}
            command = [find(), "--config", str(config)]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(stop, process)
        clients, monitors = ports[:SERVERS], ports[2 * SERVERS :]
        url = ",".join(f"nats://127.0.0.1:{port}" for port in clients)
        yield Cluster(url, access, [f"http://127.0.0.1:{port}" for port in monitors], authority)


def passwords() -> dict[str, str]:
    """The servers' environment; NATS reads a value as configuration, where digits first would be a number."""
    return {password_variable(user): PASSWORD for user in (*USERS, ADMIN)}


def _localised(tls: Path, number: int, ports: list[int], folder: Path) -> Path:
    """One server's configuration for this machine, where names are ports."""
    made = shutil.copytree(K8S / "base", folder / f"nats-{number}", ignore=lambda _, names: {*names} - {*CONFIGURATION})
    shutil.copy(tls, made)
    clients, routes, monitors = (ports[i * SERVERS : (i + 1) * SERVERS] for i in range(3))
    words = {f"nats-{other}.nats:6222": f"127.0.0.1:{routes[other]}" for other in range(SERVERS)}
    listening = (("0.0.0.0:4222", clients), ("0.0.0.0:6222", routes), ("0.0.0.0:8222", monitors))
    words |= {old: f"127.0.0.1:{own[number]}" for old, own in listening}
    words |= {"/data": str(folder / f"data-{number}"), "/tmp/nats.pid": str(folder / f"pid-{number}")}
    words |= {"/etc/nats-tls": str(folder / "tls")}
    texts = {path: path.read_text() for path in made.iterdir()}
    assert all(any(old in text for text in texts.values()) for old, _ in listening)
    for path, text in texts.items():
        path.write_text(re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text))
    return made / "nats.conf"


async def test_three_servers_form_a_cluster_and_keep_three_copies_of_each_stream(cluster: Cluster) -> None:
    async with asyncio.timeout(60), connected(cluster.url, "test", cluster.access) as connection:
        queue = JetStreamQueue(connection, ACK_WAIT, replicas=SERVERS)
        await _publish(queue, "trainer")
        info = await connection.jetstream().stream_info(STREAM)
        assert info.config.num_replicas == SERVERS
        assert info.cluster is not None
        assert len(info.cluster.replicas or []) == SERVERS - 1
        delivery = await queue.fetch("trainer", timedelta(seconds=20))
        assert delivery is not None
        assert delivery.body == b"work"


async def test_processes_log_in_with_their_own_passwords_and_write_their_records_only(cluster: Cluster) -> None:
    async with asyncio.TaskGroup() as group:
        for user in WRITES:
            group.create_task(_writes_its_records_only(cluster, user))


async def _writes_its_records_only(cluster: Cluster, user: str) -> None:
    access = replace(cluster.access, user=user)
    async with asyncio.timeout(60), connected(cluster.url, "test", access) as connection:
        records = JetStreamRecords(connection, replicas=SERVERS)
        mine, foreign = f"models/{user}/trials/t", f"datasets/{user}"
        if user.startswith("dataset"):
            mine, foreign = foreign, mine
        if user.startswith("predictor"):
            mine = f"batchPredictions/{user}"
        while True:
            try:
                await records.create(mine, b"1")
                break
            except RecordExists:  # an answer was lost
                break
            except Unavailable:  # the servers accept nothing until they have elected a leader
                await asyncio.sleep(0.2)
        with pytest.raises(Unavailable, match=r"no answer|timeout"):
            await records.create(foreign, b"1")


async def test_the_autoscaler_reads_the_number_of_trainings_before_the_first_worker_starts(cluster: Cluster) -> None:
    (scaled,) = of_kind("autoscaling", "ScaledJob")
    trigger = scaled["spec"]["triggers"][0]["metadata"]
    async with asyncio.timeout(60), connected(cluster.url, "test", cluster.access) as connection:
        queue = JetStreamQueue(connection, ACK_WAIT, replicas=SERVERS)
        await _publish(queue, "other")  # without a consumer KEDA counts the whole stream
        assert await queue.depth(jobs.KIND) == 0  # the trainer api asks this every five seconds
        await _until_reported(cluster, trigger, 0)
        await queue.publish(jobs.KIND, b"1")
        await queue.publish(jobs.KIND, b"2")
        assert await queue.fetch(jobs.KIND, timedelta(seconds=20))
        await _until_reported(cluster, trigger, 2)


@pytest.mark.parametrize("cluster", ["tls"], indirect=True)
async def test_servers_present_a_renewed_certificate_and_open_connections_stay(
    cluster: Cluster, tmp_path: Path
) -> None:
    (nats,) = of_kind("tls", "StatefulSet")
    (reloader,) = template(nats)["spec"]["initContainers"]
    (script,) = reloader["args"]
    path = passwords() | {"PATH": f"{Path(find()).parent}:{os.environ['PATH']}"}
    async with asyncio.timeout(60), connected(cluster.url, "test", cluster.access) as connection:
        with ExitStack() as stack:
            for number in range(SERVERS):
                pid = str(tmp_path / f"pid-{number}")
                here = script.replace("/tmp/nats.pid", pid).replace("/etc/nats-tls", str(tmp_path / "tls"))
                command = [*reloader["command"], here.replace("sleep 10", "sleep 0.2")]
                stack.callback(stop, _start(command, path))
            for hours in (5, 7):
                renewed = cluster.authority.pair(valid=(-HOUR, hours * HOUR))
                renewed.write(tmp_path / "tls", "tls")
                end = x509.load_pem_x509_certificate(renewed.certificate).not_valid_after_utc
                await _until_shown(cluster, [end] * SERVERS)
        assert connection.is_connected
        assert connection.stats["reconnects"] == 0
        async with connected(cluster.url, "another", cluster.access):
            pass


def _start(command: list[str], path: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=os.environ | path)


async def _until_shown(cluster: Cluster, ends: list[datetime]) -> None:
    """Returns once every server presents a certificate with this expiry."""
    while True:
        if await shown(cluster.url, cluster.access) == ends:
            return
        await asyncio.sleep(0.2)


async def _until_reported(cluster: Cluster, trigger: dict[str, str], number: int) -> None:
    """Returns once a monitoring endpoint reports the number, by KEDA's query: KEDA asks the consumer's leader."""
    query = f"/jsz?acc={trigger['account']}&consumers=true&config=true"
    while True:
        for position, monitor in enumerate(cluster.monitors):
            reported = await asyncio.to_thread(_get_json, monitor + query)
            if number in _job_counts(reported, trigger, f"nats-{position}"):
                return
        await asyncio.sleep(0.2)


def _job_counts(reported: dict[str, Any], trigger: dict[str, str], leader: str) -> list[int]:
    return [
        consumer["num_pending"] + consumer["num_ack_pending"]
        for account in reported.get("account_details", [])
        if account["name"] == trigger["account"]
        for stream in account.get("stream_detail", [])
        if stream["name"] == trigger["stream"]
        for consumer in stream.get("consumer_detail", [])
        if (consumer["name"], consumer["cluster"].get("leader")) == (trigger["consumer"], leader)
    ]


def _get_json(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return dict(json.load(answer))


async def _publish(queue: Queue, kind: str) -> None:
    """Publishes a job; repeats it, as the servers accept nothing until they have elected a leader."""
    while True:
        try:
            return await queue.publish(kind, b"work")
        except Exception:  # noqa: BLE001 - any error is retried until the test's deadline
            await asyncio.sleep(0.2)
