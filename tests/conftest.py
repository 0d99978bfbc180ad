"""Fixtures for all tests: real servers, and the image sets and weights that the environment names."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Tests share two cores: one thread per process, and none that spins while it waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["SIGHTLINE_AUDIT"] = "none"  # or the entries of servers in this process would be on its standard output

from sightline.client.transport import channel, retries
from tests.support.ceph import CephGateway
from tests.support.error_messages import collect_gaps
from tests.support.juicefs import MinioGateway
from tests.support.s3 import S3Server, S3ServerWithKeys
from tests.support.seaweed import SeaweedCluster, SeaweedServer
from tests.support.servers import NatsServer, ServerMissing, oldest_nats

# Torch describes each step of tracing, with its stack, to whoever listens to this logger, as pytest does to all that
# pass nothing on: tracing took several times as long, and gigabytes.
logging.getLogger("torch.__trace").addHandler = lambda hdlr: None

# No property test fails because the machine is busy.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _error_messages_have_no_gaps() -> Iterator[None]:
    """Fails a test during which an error was created whose message has a gap."""
    with collect_gaps() as faults:
        yield
    assert faults == []


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One nats-server with JetStream for the session. Tests that stop theirs use `own_nats_server`."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="session")
def oldest_nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One nats-server of the oldest supported version; without one on this machine, the test is skipped."""
    with NatsServer(tmp_path_factory.mktemp("nats"), program=oldest_nats()) as server:
        yield server


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """An empty nats-server for one test, which may stop, kill, pause and restart it."""
    with NatsServer(tmp_path / "nats") as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives time to the first test that needs graphs, whichever it is: on a slow machine tracing takes minutes."""
    for item in items:
        if isinstance(item, pytest.Function) and "graphs" in item.fixturenames:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs of small networks: those of `make setup`, and more, traced as it does, in a process of its own.

    The first of the processes that run tests makes them for all.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, complete = shared / "graphs", shared / "graphs.complete"
    with (shared / "graphs.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not complete.exists():
            made = Path(sys.prefix) / "share" / "sightline" / "graphs"
            if made.exists():
                shutil.copytree(made, folder, dirs_exist_ok=True)
            networks = ("squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "yolox_nano")
            subprocess.run([sys.executable, "-m", "services.vision.graph_tracing", folder, *networks], check=True)
            complete.touch()
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3ServerWithKeys]:
    """One S3 server for the session, without buckets: each test creates its own."""
    with MinioGateway() as server:
        yield server


@pytest.fixture(scope="session")
def seaweed_server() -> Iterator[S3Server]:
    """SeaweedFS; the test is skipped where it is not installed."""
    yield from _where_installed(SeaweedServer())


@pytest.fixture(scope="session")
def seaweed_cluster() -> Iterator[S3Server]:
    """SeaweedFS as deploy/k8s runs it: three servers, two copies of each blob."""
    yield from _where_installed(SeaweedCluster())


@pytest.fixture(scope="session")
def ceph_server() -> Iterator[S3Server]:
    """Ceph's gateway; the test is skipped where it is not installed."""
    yield from _where_installed(CephGateway())


def _where_installed(server: S3Server) -> Iterator[S3Server]:
    try:
        server.start()
    except ServerMissing as missing:
        pytest.skip(str(missing))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real image sets, each with train.json and test.json."""
    return _folder("SIGHTLINE_TEST_DATA", "the real image sets")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder of pretrained weights (*.safetensors)."""
    return _folder("SIGHTLINE_WEIGHTS_DIR", "the pretrained weights")


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients in this process retry as often as usual, but with short pauses."""
    config = channel.service_config().replace('"0.2s"', '"0.01s"').replace('"3s"', '"0.05s"')
    assert config != channel.service_config()
    monkeypatch.setattr(channel, "OPTIONS", tuple((dict(channel.OPTIONS) | {"grpc.service_config": config}).items()))
    monkeypatch.setattr(retries, "PAUSE_SECONDS", (0.01, 0.05))


def _folder(variable: str, what: str) -> Path:
    """The folder that the variable names. Skips the test if it is unset, fails it if it names no folder."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"set {variable} to the folder of {what} to run this test")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable} names {value}, which is not a folder")
    return folder.resolve()
