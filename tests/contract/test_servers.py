"""The servers that other tests use are real, and stop when asked."""

from __future__ import annotations

import io
import os
import uuid
from pathlib import Path

import nats
import pytest
from minio import Minio, S3Error

from tests.support import servers
from tests.support.s3 import S3Server
from tests.support.servers import NatsServer, ServerFailed, ServerMissing


async def test_acknowledged_writes_survive_a_killed_nats_server(own_nats_server: NatsServer) -> None:
    connection = await nats.connect(own_nats_server.url)
    bucket = await connection.jetstream().create_key_value(bucket="kept")
    revision = await bucket.create("key", b"value")
    await connection.close()

    own_nats_server.kill()
    own_nats_server.start()

    connection = await nats.connect(own_nats_server.url)
    entry = await (await connection.jetstream().key_value("kept")).get("key")
    await connection.close()
    assert (entry.value, entry.revision) == (b"value", revision)


def test_a_stopped_nats_server_leaves_no_process(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ServerFailed, match="not running"):
        _ = server.pid


def test_a_nats_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="no_such_setting"):
        NatsServer(tmp_path, config="no_such_setting: 1").start()


def test_a_missing_server_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.shutil, "which", lambda *_args, **_named: None)
    with pytest.raises(ServerMissing, match=r"make setup.*apt-get install prometheus"):
        servers.find_program("promtool", "prometheus")


def test_the_s3_server_keeps_objects_and_refuses_a_wrong_secret(s3_server: S3Server) -> None:
    bucket = f"servers-{uuid.uuid4().hex[:8]}"
    client = Minio(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, secure=False)
    client.make_bucket(bucket)
    client.put_object(bucket, "a/b", io.BytesIO(b"content"), 7)
    assert client.get_object(bucket, "a/b", offset=3).read() == b"tent"

    stranger = Minio(s3_server.endpoint, s3_server.access_key, "wrong", secure=False)
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        list(stranger.list_objects(bucket))
