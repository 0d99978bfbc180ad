"""What a process says of settings with which it cannot work: one line that names the setting."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from services.infra import observe
from services.infra.jetstream import connect
from services.infra.jetstream_queue import JetStreamQueue
from services.infra.jetstream_records import JetStreamRecords
from services.infra.nats_access import NatsAccess
from services.infra.ports import PortUnusable
from services.infra.store import open_blobs
from services.kit.errors import StoreRefused, Unavailable
from services.kit.memory import MemoryRecords
from services.kit.records import Change
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry
from services.kit.views import View
from tests.support.logs import captured_log, events
from tests.support.runtime import serving
from tests.support.servers import ACK_WAIT, NatsServer
from tests.support.waiting import eventually

NATS_USERS = """
accounts {
  none { users: [{user: without, password: p}] }
  some { jetstream: enabled, users: [{user: unable, password: p, permissions: {publish: "_INBOX.>"}}] }
}
"""


@pytest.fixture
def port() -> Generator[int]:
    """A port in use."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield int(taken.getsockname()[1])


@pytest.mark.parametrize("setting", ["port", "probe_port"])
async def test_a_port_in_use_is_named_with_its_setting(port: int, setting: str) -> None:
    wrong: dict[str, Any] = {setting: port}
    with pytest.raises(PortUnusable, match=f"SIGHTLINE_{setting.upper()}: nothing can listen on port {port}"):
        async with serving(**wrong):
            pass


async def test_a_metrics_port_in_use_is_named_with_its_setting(port: int) -> None:
    with (
        pytest.raises(PortUnusable, match=r"SIGHTLINE_METRICS_PORT: .*\(Address already in use\)"),
        observe.measured("test", Settings(metrics_port=port)),
    ):
        pass


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        (("services.dataset", "api"), "SIGHTLINE_SCRATCH_DIRECTORY"),
        (("services.dataset", "worker"), "SIGHTLINE_SCRATCH_DIRECTORY"),
        (("services.trainer", "worker"), "SIGHTLINE_WORK_DIR"),
        (("services.predictor",), "SIGHTLINE_MODEL_CACHE_DIRECTORY"),
    ],
)
def test_a_folder_that_cannot_be_written_ends_the_process_and_is_named(
    tmp_path: Path, command: tuple[str, ...], setting: str
) -> None:
    (tmp_path / "file").touch()
    paths = {"SIGHTLINE_STORE_DIRECTORY": str(tmp_path / "store"), setting: str(tmp_path / "file" / "folder")}
    arguments = [sys.executable, "-m", *command]
    done = subprocess.run(
        arguments, env={**os.environ, **paths}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    (failed,) = [json.loads(line) for line in done.stderr.splitlines() if '"process_failed"' in line]
    assert failed["setting"] == setting


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"bucket": "My Bucket"}, "invalid bucket name My Bucket; see SIGHTLINE_BUCKET"),
        ({"s3_region": "not a region"}, "invalid region not a region; see .*SIGHTLINE_S3_REGION"),
        ({"s3_secret_key": SecretStr("")}, "Secret key must not be empty; see .*SIGHTLINE_S3_SECRET_KEY"),
    ],
)
async def test_what_the_s3_client_refuses_is_named_with_the_settings(wrong: dict[str, object], problem: str) -> None:
    right = {"s3_endpoint": "127.0.0.1:9", "s3_access_key": SecretStr("a"), "s3_secret_key": SecretStr("b")}
    with pytest.raises(StoreRefused, match=problem):
        await open_blobs(Settings.model_validate(right | wrong), MemoryTelemetry())


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats"), config=NATS_USERS) as server:
        yield server


async def test_a_user_whom_nats_refuses_is_told_which_settings_name_it(nats: NatsServer) -> None:
    with pytest.raises(Unavailable, match=r"Authorization Violation.*; see SIGHTLINE_NATS_USER"):
        await connect(nats.url, "test", deadline_seconds=1.0, access=NatsAccess(user="without", password="wrong"))


@pytest.mark.parametrize(
    ("user", "event", "problem"),
    [
        ("without", "queue.unavailable", "JetStream does not answer"),
        ("unable", "nats.forbidden", "$js.api.stream.info"),
    ],
)
async def test_a_worker_that_gets_no_jobs_says_why_and_says_it_once(
    nats: NatsServer, user: str, event: str, problem: str
) -> None:
    with captured_log() as log:
        connection = await connect(nats.url, "test", access=NatsAccess(user=user, password="p"))
        queue = JetStreamQueue(connection, ACK_WAIT)
        for _ in range(2):
            assert await queue.fetch("check", timedelta(seconds=1)) is None
        await eventually(lambda: bool(events(log, event)))
        await connection.close()
    assert problem in events(log, event)[0]["problem"]
    assert len({line["problem"] for line in events(log, event)}) == len(events(log, event))


async def test_a_service_that_cannot_read_records_says_why(nats: NatsServer) -> None:
    with captured_log() as log:
        connection = await connect(nats.url, "test", access=NatsAccess(user="without", password="p"))
        view = asyncio.create_task(View(JetStreamRecords(connection), dict, "models").run())
        await eventually(lambda: bool(events(log, "records_unavailable")))
        view.cancel()
        await connection.close()
    assert "give nats-server a `jetstream` block" in events(log, "records_unavailable")[0]["problem"]


class DownRecords(MemoryRecords):
    """Records that cannot be watched."""

    async def watch(self, *collections: str) -> AsyncGenerator[Change]:
        raise Unavailable(what="The records", problem="a test")
        yield  # pyright: ignore[reportUnreachable] - it makes this a generator


async def test_a_view_says_once_why_it_has_nothing() -> None:
    with captured_log() as log:
        view = asyncio.create_task(View(DownRecords(), dict, "models", retry_seconds=0.0).run())
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(view), 0.1)
        view.cancel()
    (line,) = events(log, "records_unavailable")
    assert "a test" in line["problem"]
