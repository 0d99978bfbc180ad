"""How a process shows itself to nats-server, and whom it trusts to be one."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import nats.errors
from nats.aio.client import Client, RawCredentials

from services.kit.errors import Unavailable
from services.kit.log import Log
from services.kit.settings import Settings
from sightline.credentials import check_pair
from sightline.watched import Watched

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """What the settings say; without any of it the connection is plain, as its url says."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    credentials: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """From `SIGHTLINE_NATS_…`."""
        credentials = settings.nats_credentials.get_secret_value()
        return cls(settings.nats_ca, settings.nats_certificate, settings.nats_key, credentials)

    def __repr__(self) -> str:
        return f"NatsAccess(ca={self.ca}, certificate={self.certificate})"


class Tls:
    """The TLS of one connection. Law: each new handshake is by the files as they are; unusable ones are left aside."""

    def __init__(self, access: NatsAccess) -> None:
        """Unavailable if the files cannot be used."""
        self._access = access
        self.context = ssl.create_default_context(cafile=None)
        paths = [path for path in (access.ca, access.certificate, access.key) if path]
        try:
            self._files = Watched(paths, self._load, lambda error: _log.error("nats_certificate_unusable", error))
        except (OSError, ValueError) as error:
            problem = f"{error}; see SIGHTLINE_NATS_CA, SIGHTLINE_NATS_CERTIFICATE and SIGHTLINE_NATS_KEY"
            raise Unavailable(what="nats-server", problem=problem) from None

    def renew(self) -> None:
        """Before a connection is tried again."""
        self._files.get()

    def _load(self, _contents: list[bytes]) -> None:
        """Into the one context that the client keeps."""
        access = self._access
        try:
            if access.ca:
                self.context.load_verify_locations(access.ca)
        except ssl.SSLError as error:
            raise ValueError(f"{access.ca} holds no certificate of a CA ({error})") from None
        if access.certificate and access.key:
            check_pair(access.certificate, access.key)
            self.context.load_cert_chain(access.certificate, access.key)


class EncryptedClient(Client):
    """Never says who it is to a server that offers no TLS: somebody between could have taken the offer away."""

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise nats.errors.Error("it offers no TLS, which SIGHTLINE_NATS_CA asks for; give it a `tls` block")
        return super()._connect_command()


def client_and_options(access: NatsAccess) -> tuple[Client, Tls | None, dict[str, Any]]:
    """The client to connect, the TLS to renew, and what `connect` is told of both."""
    options: dict[str, Any] = {}
    if access.credentials:
        options["user_credentials"] = RawCredentials(access.credentials)
    if not (access.ca or access.certificate):
        return Client(), None, options
    tls = Tls(access)
    return EncryptedClient(), tls, {**options, "tls": tls.context}


def explain(problem: str) -> str:
    """What the connection lacks, by what failed; the problem itself where TLS has no part in it."""
    if "CERTIFICATE_VERIFY_FAILED" in problem:
        return "its certificate is not one of a CA that is trusted here; set SIGHTLINE_NATS_CA to its CA"
    if "certificate required" in problem.lower() or "bad certificate" in problem.lower():
        return "it asks for a certificate; set SIGHTLINE_NATS_CERTIFICATE and SIGHTLINE_NATS_KEY to one that it accepts"
    return problem
