"""Checks nats-server: version, JetStream and its durability, limits and clock."""

import asyncio
import http.client
import json
import secrets
import time
import urllib.request
from datetime import UTC, datetime
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import PersistMode, StorageType, StreamConfig, StreamInfo

from services.infra.findings import Report
from services.infra.jetstream import connect, masked
from services.infra.jetstream_queue import STREAM as JOBS
from services.infra.nats_access import NatsAccess
from services.kit.errors import Unavailable
from services.kit.settings import Settings
from sightline.local.nats import (
    OLDEST,
    RELAXED_SYNC_SINCE,
    SYNC_ALWAYS_SINCE,
    SYNCED_COMPACTION_SINCE,
    dotted,
)
from sightline.local.nats_users import ADMIN, USERS, publishes
from sightline.plurals import counted

RECORDS = "KV_sightline_records"
RECORD_BYTES = 256 * 1024  # the largest record
CONNECT_SECONDS = 5.0
WRITES = 20
NEWER = f"use {dotted(SYNCED_COMPACTION_SINCE)} or later with `sync_interval: always`"
MONITOR = "name the server's monitoring endpoint: --nats-monitor http://HOST:8222"
SYNC = "set `sync_interval: always` in the server's jetstream block, and restart it"


async def check_nats(report: Report, settings: Settings, monitor_url: str = "") -> None:
    """`monitor_url` is the server's monitoring endpoint, the only way to learn how often it flushes to disk."""
    access = NatsAccess.of(settings)
    try:
        connection = await connect(settings.nats_url, "doctor", deadline_seconds=CONNECT_SECONDS, access=access)
    except Unavailable as error:
        remedy = "start nats-server, or correct SIGHTLINE_NATS_URL and the settings SIGHTLINE_NATS_..."
        report.fault(f"nats-server at {masked(settings.nats_url)} cannot be used: {error.metadata['problem']}", remedy)
        return
    try:
        _server(report, connection)
        js = connection.jetstream(timeout=CONNECT_SECONDS)
        limited = settings.nats_user in USERS  # its permissions are for its own work
        if limited or await _jetstream(report, js):
            await _durability(report, connection, monitor_url)
            for stream in (RECORDS, JOBS):
                if not limited or f"$JS.API.STREAM.INFO.{stream}" in publishes(settings.nats_user):
                    await _stream(report, js, stream, settings)
            if not limited:
                await _write(report, js)
                return
            text = f"the user {settings.nats_user} may not create other streams: limits, writes and clock are unchecked"
            report.ok(f"{text}; set SIGHTLINE_NATS_USER={ADMIN} and its password to check them")
    finally:
        await connection.close()


def _version(connection: Client) -> tuple[int, int, int]:
    version = connection.connected_server_version
    return version.major, version.minor, version.patch


def _server(report: Report, connection: Client) -> None:
    found = _version(connection)
    if found < OLDEST:
        report.fault(f"nats-server {dotted(found)} is older than {dotted(OLDEST)}", NEWER)
    else:
        report.ok(f"nats-server {dotted(found)} answers")
    payload = connection.max_payload
    if payload < RECORD_BYTES:
        report.fault(f"max_payload is {payload} bytes: records do not fit", "set `max_payload: 1048576`")
    elif payload < 2**20:
        report.warn(f"max_payload is {payload} bytes", "set `max_payload: 1048576`, the server's own default")
    else:
        report.ok(f"max_payload is {payload} bytes")


async def _jetstream(report: Report, js: JetStreamContext) -> bool:
    try:
        account = await js.account_info()
    except nats.errors.TimeoutError:
        remedy = "give SIGHTLINE_NATS_USER the rights of its process (docs/access.md), or start more of the servers"
        report.fault("JetStream does not answer: the user may not ask, or the cluster has no leader", remedy)
        return False
    except (nats.js.errors.Error, nats.errors.Error) as error:
        remedy = "give nats-server a `jetstream { store_dir: ... }` block, and the account JetStream"
        report.fault(f"JetStream is off ({str(error) or type(error).__name__})", remedy)
        return False
    limits = account.limits
    if 0 <= limits.max_storage < 2**30:
        report.warn(
            f"the account may store {limits.max_storage} bytes", "allow a GiB or more: max_file_store, max_file"
        )
    if limits.max_storage > 0 and account.storage > 0.8 * limits.max_storage:
        report.warn(f"{account.storage} of {limits.max_storage} bytes of file storage are used", "raise the limit")
    if 0 <= limits.max_streams < 2:
        report.fault(f"the account may have {counted(limits.max_streams, 'stream')}", "allow two or more: max_streams")
    elif 0 <= limits.max_consumers < 10:
        report.warn(
            f"the account may have {counted(limits.max_consumers, 'consumer')}", "allow fifty or more: max_consumers"
        )
    else:
        report.ok("JetStream is on, and the account's limits suffice")
    return True


async def _durability(report: Report, connection: Client, monitor_url: str) -> None:
    """What a power failure could lose."""
    found = _version(connection)
    if found < SYNC_ALWAYS_SINCE:
        text = "this server writes to disk every two minutes: a power failure may lose what it had confirmed"
        report.warn(text, NEWER)
        return
    if found < SYNCED_COMPACTION_SINCE:
        text = "this server may not flush the files that it compacts: a power failure may lose what it had confirmed"
        report.warn(text, NEWER)
    if not monitor_url:
        text = "unknown whether each write goes to disk (sync_interval): NATS itself does not say"
        report.warn(text, MONITOR)
        return
    try:
        told = await asyncio.to_thread(_monitored, monitor_url)
    except (OSError, ValueError, http.client.HTTPException) as error:
        report.fault(f"the monitoring endpoint {monitor_url} cannot be read: {error}", MONITOR)
        return
    config = told.get("jetstream", {}).get("config") or {}
    if config.get("sync_always"):
        what = "each write" if found < RELAXED_SYNC_SINCE else "each write (of a replicated stream, each Raft entry)"
        report.ok(f"{what} goes to disk before it is confirmed (sync_interval: always)")
    else:
        every = config.get("sync_interval", 120e9) / 1e9
        report.warn(f"writes go to disk every {every:.0f} s: a power failure may lose as much", SYNC)


def _monitored(url: str) -> dict[str, Any]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as the services connect to NATS
    with direct.open(f"{url.rstrip('/')}/varz", timeout=CONNECT_SECONDS) as answer:
        return json.loads(answer.read())


async def _stream(report: Report, js: JetStreamContext, name: str, settings: Settings) -> None:
    try:
        info = await js.stream_info(name)
    except nats.js.errors.NotFoundError:
        report.ok(f"the stream {name} is not there yet; the services make it when they first start")
        return
    config = info.config
    if config.storage != StorageType.FILE:
        report.fault(
            f"the stream {name} is kept in memory: a restart loses it",
            "delete it, so that it is created again with file storage",
        )
    elif config.persist_mode == PersistMode.ASYNC:
        report.fault(
            f"the stream {name} confirms writes before they are stored (persist_mode: async): a crash loses them",
            "copy it to a stream with `persist_mode: default`: the mode of a stream cannot be changed",
        )
    elif faults := _replication(info, settings.nats_replicas):
        report.warn(
            f"the stream {name} {faults}", "see `nats stream cluster`, or set its replicas with `nats stream edit`"
        )
    else:
        copies = config.num_replicas or 1
        report.ok(f"the stream {name} is kept in files, in {counted(copies, 'copy', 'copies')}")


def _replication(info: StreamInfo, wanted: int) -> str:
    """What is wrong with the replicas."""
    cluster, copies = info.cluster, info.config.num_replicas or 1
    if copies < wanted:
        return f"has {counted(copies, 'replica')}, where SIGHTLINE_NATS_REPLICAS asks for {wanted}"
    if cluster is None or not cluster.name:
        return ""
    away = [peer.name or "?" for peer in cluster.replicas or [] if peer.offline or not peer.current]
    if away:
        return f"has copies that lag behind or are offline: {', '.join(away)}"
    return "" if copies > 1 else "has one copy only, though the server is in a cluster"


async def _write(report: Report, js: JetStreamContext) -> None:
    """Writes, reads and removes a stream of our own, and compares the server's clock."""
    name = f"SIGHTLINE_DOCTOR_{secrets.token_hex(4)}"
    subject = f"sightline.doctor.{name}"
    try:
        before = datetime.now(UTC)
        await js.add_stream(StreamConfig(name=name, subjects=[subject], storage=StorageType.FILE))
    except (nats.js.errors.Error, nats.errors.Error) as error:
        remedy = "allow the user `$JS.API.>`, or raise the account's limits"
        report.fault(f"a stream cannot be created ({error})", remedy)
        return
    try:
        seconds = await _timed_writes(js, subject)
        kept = await js.get_msg(name, subject=subject)
        if kept.data != b"%d" % (WRITES - 1):
            report.fault("the server confirms writes but returns different data", "check its log and its disk")
        else:
            report.ok(f"writes are confirmed and read back, in {1000 * seconds:.1f} ms each")
        if kept.time is not None:
            now = datetime.now(UTC)
            report.skew("nats-server", _outside(kept.time, before, now))
    finally:
        await js.delete_stream(name)


async def _timed_writes(js: JetStreamContext, subject: str) -> float:
    began = time.monotonic()
    for number in range(WRITES):
        await js.publish(subject, b"%d" % number)
    return (time.monotonic() - began) / WRITES


def _outside(moment: datetime, earliest: datetime, latest: datetime) -> float:
    """How many seconds our clock is ahead of the moment; 0 if the moment is between the two."""
    if moment < earliest:
        return (earliest - moment).total_seconds()
    return min(0.0, (latest - moment).total_seconds())
