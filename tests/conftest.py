"""Fixtures for all tests: real servers, and the image sets and weights that the environment names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests share two cores: one thread per process, and none that spins while it waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from tests.support.ceph import CephGateway
from tests.support.servers import NatsServer
from tests.support.wording import errors_watched


@pytest.fixture(autouse=True)
def _errors_have_their_subjects() -> Iterator[None]:
    """Fails a test in whose course an error was made whose message lacks what it is about."""
    with errors_watched() as faults:
        yield
    assert faults == []


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One nats-server with JetStream for the session. Leave it running: to kill one, take `own_nats_server`."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """An empty nats-server for one test, which may stop, kill, pause and restart it."""
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[CephGateway]:
    """One S3 server for the session, without buckets: a test makes its own under its own name."""
    with CephGateway() as server:
        yield server


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real image sets, each with train.json and test.json."""
    return _folder("SIGHTLINE_TEST_DATA", "the real image sets")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder of pretrained weights (*.safetensors)."""
    return _folder("SIGHTLINE_WEIGHTS_DIR", "the pretrained weights")


def _folder(variable: str, what: str) -> Path:
    """The folder that the variable names. Unset skips the test; set to what is not a folder fails it."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"set {variable} to the folder of {what} to run this test")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable} names {value}, which is not a folder")
    return folder.resolve()
