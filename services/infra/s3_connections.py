"""Connections to an S3 server: TLS, retries, and how long the server may be silent."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from urllib3 import PoolManager, Retry, Timeout, exceptions
from urllib3.response import BaseHTTPResponse

from services.kit.errors import StoreRefused
from services.kit.settings import Settings
from sightline.client.transport.credentials import check_ca
from sightline.client.transport.diagnosis import unverified

CONNECTIONS = 16
CONNECT_SECONDS = 3.0
PATIENT_SECONDS = 30.0  # of a call for which nobody waits, and between two pieces of a file
PAUSES = 0.0, 0.4, 0.8  # before each retry, in seconds
BLOCK_BYTES = 256 * 1024  # of a body: the server may take its time for each
_BUSY = {500, 502, 503, 504}


class Silence(exceptions.HTTPError):
    """The server has been silent for too long, or nobody waits for it any more."""


class Wait:
    """How long a call still waits for the server, over all its attempts.

    Law: the server has `first` seconds until it answers or takes the first block of a request, and `then` seconds from
    each such progress to the next. After `end` it has none: the thread stops at the next piece or attempt.
    """

    def __init__(self, first: float, then: float) -> None:
        self.then = then
        self._seconds, self._until, self._ended = first, time.monotonic() + first, False

    def progress(self) -> None:
        """The server has said or taken something; Silence after `end`."""
        if self._ended:
            raise Silence("nobody waits for the answer")
        self._seconds, self._until = self.then, time.monotonic() + self.then

    def end(self) -> None:
        """Nobody waits any more."""
        self._ended = True

    @property
    def left(self) -> float:
        """Seconds; none or less once it is over."""
        return 0.0 if self._ended else self._until - time.monotonic()

    @property
    def silence(self) -> Silence:
        """The error to raise once it is over."""
        return Silence(f"there was no answer within {self._seconds:g} s")


_wait: ContextVar[Wait | None] = ContextVar("wait", default=None)


@contextmanager
def waiting(wait: Wait) -> Generator[None]:
    """Requests of this thread wait as `wait` says; those outside such a block wait patiently."""
    before = _wait.set(wait)
    try:
        yield
    finally:
        _wait.reset(before)


def current() -> Wait:
    """That of this thread."""
    return _wait.get() or patient()


def patient() -> Wait:
    """One that lets the server take its time."""
    return Wait(PATIENT_SECONDS, PATIENT_SECONDS)


def pieces(response: BaseHTTPResponse) -> Iterator[bytes]:
    """The body as it arrives, to its end; an error of urllib3 if the server falls silent before."""
    wait = current()
    while data := response.read1(BLOCK_BYTES):
        wait.progress()
        yield data


class Connections(PoolManager):
    """A pool whose requests are repeated after a lost connection or a 5xx, as long as the thread's `Wait` allows."""

    def __init__(self, retries: int, **options: Any) -> None:
        super().__init__(maxsize=CONNECTIONS, **options)
        self._pauses = PAUSES[:retries]

    def urlopen(self, method: str, url: str, redirect: bool = True, **options: Any) -> BaseHTTPResponse:
        wait, body = current(), options.pop("body", None)
        for pause in (*self._pauses, None):
            if wait.left <= 0:
                raise wait.silence
            try:
                answer = super().urlopen(method, url, redirect, **options, **_once(wait, body))
            except exceptions.HTTPError as error:
                if wait.left <= 0 and isinstance(getattr(error, "reason", error), exceptions.TimeoutError):
                    raise wait.silence from error
                if pause is None or pause >= wait.left:
                    raise
            else:
                wait.progress()
                if pause is None or pause >= wait.left or answer.status not in _BUSY:
                    return _patient(answer, wait.then)
                answer.drain_conn()
            time.sleep(pause)
        raise AssertionError  # the last attempt has returned or raised


def _once(wait: Wait, body: bytes | None) -> dict[str, Any]:
    """The options of one attempt. A redirect is followed; nothing else is urllib3's to repeat.

    The time to connect is also that for each block of a body.
    """
    connect = wait.left if body else min(CONNECT_SECONDS, wait.left)
    repeat = Retry(total=None, connect=0, read=0, status=0, other=0, redirect=3, raise_on_status=False)
    timeout = Timeout(connect=max(connect, 0.001), read=max(wait.left, 0.001))
    return {"body": _blocks(body, wait) if body else body, "timeout": timeout, "retries": repeat}


def _blocks(body: bytes, wait: Wait) -> Iterator[memoryview]:
    """The body in blocks: a socket's timeout is for all that it is given at once."""
    for start in range(0, len(body), BLOCK_BYTES):
        if start:
            wait.progress()
        yield memoryview(body)[start : start + BLOCK_BYTES]


def _patient(answer: BaseHTTPResponse, seconds: float) -> BaseHTTPResponse:
    """The answer, each piece of whose body may take so many seconds."""
    socket: Any = getattr(answer.connection, "sock", None)  # none if the server closes it after this answer
    if socket:
        socket.settimeout(seconds)
    return answer


def connections(settings: Settings, retries: int = len(PAUSES)) -> Connections:
    """Connections to the settings' server.

    With `s3_ca` they trust only servers of that CA, reading the file at each new one; StoreRefused if it is unusable.
    """
    ca = settings.s3_ca
    if ca:
        try:
            check_ca(ca, ca.read_bytes())
        except (OSError, ValueError) as error:
            raise StoreRefused(what=settings.s3_endpoint, code=f"{error}; see SIGHTLINE_S3_CA") from None
    return Connections(retries, ca_certs=str(ca) if ca else None)


def brief(error: Exception) -> str:
    """The error's first line; the client's message may contain a whole response."""
    if fault := unverified(str(error), "SIGHTLINE_S3_CA"):
        return fault
    if "WRONG_VERSION_NUMBER" in str(error):
        return "it does not speak TLS there; set SIGHTLINE_S3_SECURE=false if that is meant"
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
