"""The connection to NATS JetStream, and what its two adapters share: requests, and creating missing streams."""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar
from urllib.parse import urlsplit

import nats.errors
import nats.js.errors
from nats.aio.client import Client, ServerVersion
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from services.infra.nats_access import NatsAccess, client_and_options, explain
from services.infra.nats_expiry import tell_expiries
from services.kit.errors import Unavailable
from services.kit.log import Log
from services.kit.metered import NATS_CONNECTED
from services.kit.tasks import alongside
from services.kit.telemetry import Telemetry
from sightline.local.nats import SYNC_ALWAYS_SINCE

T = TypeVar("T")
RECONNECT_SECONDS = 0.5  # between attempts
CLOSED_SECONDS = 0.5  # between checks whether the connection is closed for good
ANSWER_SECONDS = 1.8  # for a call of an api with all its attempts: it says UNAVAILABLE within two seconds
PATIENT_SECONDS = 5.0  # for a call of a worker, whom nobody waits for
REQUEST_SECONDS = 5.0
PAUSE_SECONDS = 0.2
MAX_FORBIDDEN = 20  # subjects that are logged; more are no news
ATTEMPTS = 5
STREAM_MISSING = {10059, 10014}  # JetStream's codes: no such stream, no such consumer
NAME_IN_USE = 10058
PLAIN = NatsAccess()

log = Log(__name__)


@asynccontextmanager
async def connected(
    url: str, name: str, access: NatsAccess = PLAIN, telemetry: Telemetry | None = None
) -> AsyncGenerator[Client]:
    """A connection for the block, made by `connect`; its state is reported to the telemetry.

    If it is closed for good, as when the server no longer accepts the credentials, the block is cancelled and
    Unavailable raised: a process that can never work again must end, so that it is restarted.
    """
    connection = await connect(url, name, access=access)
    try:
        certificates = {"nats certificates": tell_expiries(url, access, telemetry)} if telemetry else {}
        async with alongside(**{"nats connection": _until_closed(connection, telemetry)}, **certificates):
            yield connection
    finally:
        with suppress(OSError):  # the server may be away
            await connection.close()


async def _until_closed(connection: Client, telemetry: Telemetry | None) -> None:
    while not connection.is_closed:
        if telemetry:
            telemetry.set(NATS_CONNECTED, float(connection.is_connected))
        await asyncio.sleep(CLOSED_SECONDS)
    problem = f"it has closed the connection for good ({connection.last_error})"
    log.error("nats.closed", problem=problem)
    raise Unavailable(what="nats-server", problem=problem)


async def connect(url: str, name: str, *, deadline_seconds: float = 30.0, access: NatsAccess = PLAIN) -> Client:
    """A connection that reconnects by itself until closed; several urls are separated by commas.

    Until the deadline the first attempt is repeated, so that services and nats-server can start in any order; then
    Unavailable, with the last error. Warns if the server cannot flush each record to disk. With `tls://`, or a CA or a
    certificate in `access`, it uses TLS or fails; the files are read again at each attempt.
    """
    connection, options = client_and_options(url, access)
    reports = _Reports(url)
    try:
        async with asyncio.timeout(deadline_seconds):
            await connection.connect(
                servers=url.split(","),
                name=name,
                error_cb=reports.error,
                disconnected_cb=reports.disconnected,
                reconnected_cb=reports.reconnected,
                connect_timeout=2,
                reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]  # annotated int, used as a float
                max_reconnect_attempts=-1,
                ping_interval=10,
                max_outstanding_pings=2,
                **options,
            )
    except (TimeoutError, OSError, nats.errors.Error) as error:
        await connection.close()
        raise Unavailable(what=f"nats-server at {masked(url)}", problem=reports.problem) from error
    warn_of_old_server(connection.connected_server_version)
    return connection


class _Reports:
    """What the client reports of a connection: logged, and the last problem kept."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._answered = False
        self.problem = "no answer"
        self._forbidden = set[str]()

    async def error(self, error: Exception) -> None:
        fault = explain(error)
        if "permissions violation" in fault.lower():
            self._tell_forbidden(fault)
        log.debug("nats.error", problem=fault)  # twice a second while the server is away
        said = not isinstance(error, OSError) or isinstance(error, ssl.SSLError)
        if not self._answered or said:  # what the server said matters more than how the socket closed
            self.problem, self._answered = fault, said

    def _tell_forbidden(self, problem: str) -> None:
        """Once for each subject: whoever uses it hears only that nobody answers."""
        if problem not in self._forbidden and len(self._forbidden) < MAX_FORBIDDEN:
            self._forbidden.add(problem)
            log.error("nats.forbidden", problem=problem, remedy="give SIGHTLINE_NATS_USER the rights of its process")

    async def disconnected(self) -> None:
        log.warning("nats.disconnected")

    async def reconnected(self) -> None:
        log.info("nats.reconnected", url=masked(self._url))


def masked(url: str) -> str:
    """The url without its user and password."""
    parts = [urlsplit(one) for one in url.split(",")]
    return ",".join(f"{one.scheme}://{one.netloc.rpartition('@')[2]}" for one in parts)


def knows_sync_interval(version: ServerVersion) -> bool:
    """Whether the server can flush each write to disk."""
    return (version.major, version.minor) >= SYNC_ALWAYS_SINCE


def warn_of_old_server(version: ServerVersion) -> None:
    """Warns of what a server before 2.10 does not guarantee."""
    if not knows_sync_interval(version):
        found = f"{version.major}.{version.minor}.{version.patch}"
        remedy = "a power failure may lose its last two minutes of writes; use 2.10 or later with sync_interval: always"
        log.warning("nats.no_sync_interval", version=found, remedy=remedy)


async def is_back(connection: Client, seconds: float) -> bool:
    """Whether the connection is up, now or within `seconds`."""
    deadline = time.monotonic() + seconds
    while not connection.is_connected:
        if connection.is_closed or time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def ask(
    connection: Client,
    what: str,
    call: Callable[[], Awaitable[T]],
    restore: Callable[[], Awaitable[object]],
    seconds: float = ANSWER_SECONDS,
) -> T:
    """What the call returns; a stream or consumer that is missing is restored first, and the call repeated.

    Unavailable when there is no connection or, after `seconds`, no answer, and then the call may have had its effect.
    Other errors of JetStream (a wrong sequence, a message not found) pass as they are.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _ask(connection, what, call, restore, seconds)
    except TimeoutError:
        raise Unavailable(what=what, problem=f"there was no answer within {seconds:g} s") from None


async def _ask(
    connection: Client,
    what: str,
    call: Callable[[], Awaitable[T]],
    restore: Callable[[], Awaitable[object]],
    seconds: float,
) -> T:
    problem = "it is missing and cannot be created"
    for _ in range(ATTEMPTS):
        if not await is_back(connection, seconds - PAUSE_SECONDS):
            raise Unavailable(what=what, problem="there is no connection to nats-server")
        try:
            return await call()
        except nats.js.errors.Error as error:
            if not is_missing(error):
                raise
        except nats.errors.MaxPayloadError:
            raise  # the caller's fault: retrying does not make it smaller
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(what=what, problem=explain(error)) from error
        try:
            await restore()
        except (nats.errors.Error, OSError) as error:  # JetStream itself may still be starting
            problem = explain(error)
            await asyncio.sleep(PAUSE_SECONDS)
    raise Unavailable(what=what, problem=problem)


def is_missing(error: nats.js.errors.Error) -> bool:
    """Whether the error says that the stream or the consumer is missing."""
    if isinstance(error, nats.js.errors.APIError):
        return isinstance(error, nats.js.errors.ServiceUnavailableError) or error.err_code in STREAM_MISSING
    return isinstance(error, nats.js.errors.NoStreamResponseError)


async def ensure_stream(js: JetStreamContext, config: StreamConfig) -> None:
    """Creates the stream if it is missing; an existing one keeps its operator's configuration."""
    assert config.name is not None
    try:
        await js.stream_info(config.name)
    except nats.js.errors.NotFoundError:
        try:
            await js.add_stream(config)
        except nats.js.errors.BadRequestError as error:
            if error.err_code != NAME_IN_USE:  # another process was faster
                raise
        else:
            log.warning("nats.stream_made", stream=config.name)  # unexpected, except at the first start
