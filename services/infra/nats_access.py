"""How a process authenticates to nats-server, and which servers it trusts."""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import nats.errors
from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg

from services.kit.errors import Unavailable
from services.kit.log import Log
from services.kit.settings import Settings
from sightline.client.transport.credentials import check_ca, check_pair
from sightline.client.transport.diagnosis import unverified
from sightline.client.transport.reloading import ReloadingFiles

# A TLS alert, which the server sends: `tlsv1 alert unknown ca`, `sslv3 alert certificate expired`.
REFUSED = re.compile(r"alert.*(certificate|unknown ca)", re.IGNORECASE)
DENIED = re.compile(r"authorization violation|authentication (error|expired|revoked|timeout)", re.IGNORECASE)
NO_JETSTREAM = re.compile(r"ServiceUnavailableError|no responders", re.IGNORECASE)

T = TypeVar("T")
_log = Log(__name__)


async def heeding_cancellation(call: Callable[[], Awaitable[T]]) -> T:
    """What the call returns; CancelledError if this task was cancelled meanwhile, even if the call hid it.

    The client waits for replies with `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that
    coincides with the reply: the task would never end, nor would whoever waits for it.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        return await call()
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """The settings' part of it; without any, the connection is as its url says."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    credentials: str = ""
    credentials_file: Path | None = None
    user: str = ""
    password: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """From `SIGHTLINE_NATS_…`."""
        credentials = settings.nats_credentials.get_secret_value(), settings.nats_credentials_file
        login = settings.nats_user, settings.nats_password.get_secret_value()
        return cls(settings.nats_ca, settings.nats_certificate, settings.nats_key, *credentials, *login)

    def __repr__(self) -> str:
        return f"NatsAccess(ca={self.ca}, certificate={self.certificate})"


class HeedingClient(Client):
    """A cancellation that coincides with a server's answer ends the task that asked, too."""

    async def request(self, *args: Any, **options: Any) -> Msg:
        return await heeding_cancellation(partial(super().request, *args, **options))


class EncryptedClient(HeedingClient):
    """Each handshake uses the current files; unusable ones are ignored.

    It never authenticates to a server that offers no TLS: an attacker in between could have removed the offer.
    """

    def __init__(self, access: NatsAccess) -> None:
        """Unavailable if the files cannot be used."""
        super().__init__()
        paths = [path for path in (access.ca, access.certificate, access.key) if path]
        try:
            self._contexts = ReloadingFiles(paths, lambda _: _context(access), _tell)
        except (OSError, ValueError) as error:
            problem = f"{error}; see SIGHTLINE_NATS_CA, SIGHTLINE_NATS_CERTIFICATE and SIGHTLINE_NATS_KEY"
            raise Unavailable(what="nats-server", problem=problem) from None

    @property
    def ssl_context(self) -> ssl.SSLContext:
        return self._contexts.get()

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            asked = "SIGHTLINE_NATS_CA or `tls://` asks"
            raise nats.errors.Error(f"it offers no TLS, which {asked} for; give it a `tls` block")
        return super()._connect_command()


class CredentialsFile(RawCredentials):
    """The contents of a `.creds` file at each login; if the file becomes unusable, its last contents."""

    def __init__(self, path: Path) -> None:
        """Unavailable if the file cannot be used."""
        try:
            self._watched = ReloadingFiles(
                [path], _credentials, lambda error: _log.error("nats_credentials_unusable", error)
            )
        except (OSError, ValueError) as error:
            problem = f"{error}; see SIGHTLINE_NATS_CREDENTIALS_FILE"
            raise Unavailable(what="nats-server", problem=problem) from None

    @property
    def data(self) -> str:  # type: ignore[override]  # a property where the base has a field
        return self._watched.get()


def _credentials(contents: list[bytes]) -> str:
    """Checked here, as nats-py would search forever for what a file lacks."""
    content = contents[0].decode("utf-8")
    if "BEGIN NATS USER JWT" not in content or "BEGIN USER NKEY SEED" not in content:
        raise ValueError("it lacks the user's JWT or the seed of the user's key; a .creds file has both")
    return content


def _context(access: NatsAccess) -> ssl.SSLContext:
    """Trusts only the CA, or the system's if there is none."""
    if access.ca:
        check_ca(access.ca, access.ca.read_bytes())
    context = ssl.create_default_context(cafile=access.ca)
    if access.certificate and access.key:
        check_pair(access.certificate, access.key)
        context.load_cert_chain(access.certificate, access.key)
    return context


def _tell(error: Exception) -> None:
    _log.error("nats_certificate_unusable", error)


def is_encrypted(url: str, access: NatsAccess) -> bool:
    """Whether the connection must use TLS."""
    return bool(access.ca or access.certificate) or "tls://" in url


def client_and_options(url: str, access: NatsAccess) -> tuple[Client, dict[str, Any]]:
    """The client to connect, and further options for `connect`."""
    options: dict[str, Any] = {}
    if access.credentials_file:
        options["user_credentials"] = CredentialsFile(access.credentials_file)
    elif access.credentials:
        options["user_credentials"] = RawCredentials(access.credentials)
    if access.user:  # nobody else may hear its answers, see sightline.local.nats_users
        prefix = f"_INBOX_{access.user}".encode()
        options |= {"user": access.user, "password": access.password, "inbox_prefix": prefix}
    return EncryptedClient(access) if is_encrypted(url, access) else HeedingClient(), options


def explain(error: Exception) -> str:
    """What to set, judged by the error; what it says, or its type, if no setting is known to be its cause."""
    problem = str(error) or type(error).__name__
    if fault := unverified(problem, "SIGHTLINE_NATS_CA"):
        return fault
    if REFUSED.search(problem):
        return "it asks for a certificate; set SIGHTLINE_NATS_CERTIFICATE and SIGHTLINE_NATS_KEY to one that it accepts"
    if DENIED.search(problem):
        return f"it does not let the process in ({problem}); see SIGHTLINE_NATS_USER and _PASSWORD, or _CREDENTIALS"
    if NO_JETSTREAM.search(problem):
        return f"JetStream does not answer ({problem}); give nats-server a `jetstream` block, and the account JetStream"
    return problem
