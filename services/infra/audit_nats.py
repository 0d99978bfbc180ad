"""The audit in a JetStream stream, whose entries no service can change or remove."""

import asyncio
import itertools
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from datetime import timedelta

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, Header, RetentionPolicy, StorageType, StreamConfig

from services.infra.jetstream import REQUEST_SECONDS, ask, connect, ensure_stream
from services.infra.nats_access import NatsAccess
from services.kit.errors import SightlineError
from services.kit.log import Log
from services.kit.settings import Settings

STREAM, SUBJECTS = "SIGHTLINE_AUDIT", "audit"
CONNECT_SECONDS = 5.0
RETRY_SECONDS = 1.0
TOGETHER = 64  # entries that are sent before the first is confirmed

_log = Log(__name__)


def stream_config(settings: Settings) -> StreamConfig:
    """The stream as the first service makes it; the oldest entries make room for new ones."""
    return StreamConfig(
        name=STREAM,
        description="Who asked Sightline for what",
        subjects=[f"{SUBJECTS}.*"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=timedelta(days=settings.audit_days).total_seconds(),
        max_bytes=settings.audit_bytes,
        num_replicas=settings.nats_replicas,
        duplicate_window=120,
        deny_delete=True,
        deny_purge=True,
    )


class NatsSink:
    """Publishes to `audit.{service}`, over a connection and an event loop of its own.

    Law: a write returns once the server has confirmed each line. While there is no server it waits, and says so in the
    log, until `close`.
    """

    name = "nats"

    def __init__(self, service: str, settings: Settings) -> None:
        self._settings, self._service = settings, service
        self._ids = (
            f"{self._service}-{run}-{number}" for run in [secrets.token_hex(8)] for number in itertools.count()
        )
        self._connection: Client | None = None
        self._writing: Future[None] | None = None
        self._closed = False
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="audit nats loop", daemon=True).start()

    def write(self, lines: Sequence[bytes]) -> None:
        if self._closed:
            raise OSError("the connection is closed")
        self._writing = asyncio.run_coroutine_threadsafe(self._deliver(lines), self._loop)
        try:
            self._writing.result()
        except CancelledError:
            raise OSError("nats-server did not confirm them in time") from None

    def close(self) -> None:
        self._closed = True
        if self._writing:
            self._writing.cancel()
        asyncio.run_coroutine_threadsafe(self._close(), self._loop)

    async def _close(self) -> None:
        if self._connection:
            await self._connection.close()
        self._loop.stop()

    async def _deliver(self, lines: Sequence[bytes]) -> None:
        waiting = dict(zip(self._ids, lines, strict=False))  # by the id by which the server knows a repetition
        warned = False
        while waiting:
            try:
                await self._publish(waiting)
            except (SightlineError, nats.errors.Error, OSError, TimeoutError) as error:
                if not warned:
                    _log.warning("audit_waits", problem=str(error) or type(error).__name__, count=len(waiting))
                    warned = True
                await asyncio.sleep(RETRY_SECONDS)

    async def _publish(self, waiting: dict[str, bytes]) -> None:
        """Removes from `waiting` what the server has confirmed."""
        connection = await self._connected()
        js = connection.jetstream(timeout=REQUEST_SECONDS)
        while waiting:
            some = list(itertools.islice(waiting.items(), TOGETHER))
            results = await asyncio.gather(
                *(self._send(connection, js, id_, line) for id_, line in some), return_exceptions=True
            )
            for (id_, _), result in zip(some, results, strict=True):
                if isinstance(result, BaseException):
                    raise result
                del waiting[id_]

    async def _send(self, connection: Client, js: JetStreamContext, id_: str, line: bytes) -> None:
        subject, headers = f"{SUBJECTS}.{self._service}", {Header.MSG_ID.value: id_}
        await ask(
            connection,
            "The audit",
            lambda: js.publish(subject, line, headers=dict(headers)),
            lambda: ensure_stream(js, stream_config(self._settings)),
        )

    async def _connected(self) -> Client:
        if self._connection is None or self._connection.is_closed:
            name, access = f"{self._service}-audit", NatsAccess.of(self._settings)
            url = self._settings.nats_url
            self._connection = await connect(url, name, deadline_seconds=CONNECT_SECONDS, access=access)
        return self._connection
