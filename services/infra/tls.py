"""TLS of the gRPC servers, and the credentials with which a service calls another."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import grpc
from cryptography import x509

from services.kit.log import Log
from services.kit.settings import Settings
from services.kit.telemetry import Metric, MetricKind, Telemetry
from sightline.client.transport.credentials import Credentials, check_ca, check_pair
from sightline.client.transport.reloading import ReloadingFiles

EXPIRY = Metric(
    "sightline_tls_certificate_expiry_timestamp_seconds",
    MetricKind.GAUGE,
    "When a certificate expires, in seconds since 1970: the process's own as a server, as a client of other services"
    " and of NATS, and the one that nats-server presents to new connections.",
    ("certificate",),
    values=(("server", "client", "nats_client", "nats_server"),),
)
LOOK_SECONDS = 60.0
CALLER_NAMES = {
    "ca": "SIGHTLINE_TLS_CA",
    "certificate": "SIGHTLINE_TLS_CLIENT_CERTIFICATE",
    "key": "SIGHTLINE_TLS_CLIENT_KEY",
    "token": "SIGHTLINE_TOKEN",
    "token_file": "SIGHTLINE_TOKEN_FILE",
    "insecure": "SIGHTLINE_INSECURE",
}

_log = Log(__name__)


class TlsUnusable(Exception):
    """The server's certificate, key or client CA cannot be used; the message names the setting."""


def server_credentials(settings: Settings, telemetry: Telemetry) -> grpc.ServerCredentials | None:
    """The server's TLS credentials; None if the settings ask for plain text. TlsUnusable.

    The files are checked on each new connection. A pair that does not match (yet), has expired or is not valid yet is
    logged and ignored in favour of the previous one. Open connections keep what they were opened with.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    pair = settings.tls_certificate, settings.tls_key
    files = [*pair, *([settings.tls_client_ca] if settings.tls_client_ca else [])]

    def load(contents: list[bytes]) -> grpc.ServerCertificateConfiguration:
        check_pair(*pair)
        expiry = check_times(pair[0], contents[0])
        ca = None
        if settings.tls_client_ca:
            ca = contents[2]
            check_ca(settings.tls_client_ca, ca)
        telemetry.set(EXPIRY, expiry.timestamp(), certificate="server")
        _log.info("tls_certificate_loaded", expires=expiry.isoformat(), certificate=str(pair[0]))
        return grpc.ssl_server_certificate_configuration([(contents[1], contents[0])], ca)

    try:
        watched = ReloadingFiles(files, load, lambda error: _log.error("tls_certificate_unusable", error))
    except (OSError, ValueError) as error:
        names = "SIGHTLINE_TLS_CERTIFICATE, SIGHTLINE_TLS_KEY" + (", SIGHTLINE_TLS_CLIENT_CA" if files[2:] else "")
        raise TlsUnusable(f"{error}; see {names}") from error
    shown = [watched.get()]

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """What to present from now on, if it has changed; called in gRPC's own threads."""
        now = watched.get()
        if now is shown[0]:
            return None
        shown[0] = now
        return now

    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", changed)  # None is allowed, though not annotated
    return grpc.dynamic_ssl_server_credentials(shown[0], fetch, settings.tls_client_ca is not None)


def check_times(path: Path, content: bytes) -> datetime:
    """When the file's first certificate expires; ValueError if it is not valid now."""
    certificate = x509.load_pem_x509_certificates(content)[0]
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc <= now:
        raise ValueError(f"{path} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if certificate.not_valid_before_utc > now:
        raise ValueError(f"{path} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    return certificate.not_valid_after_utc


def tell_expiry(telemetry: Telemetry, certificate: str, files: tuple[Path | None, Path | None]) -> None:
    """Sets the gauge of a certificate from its pair of files; unchanged if they are unset or unusable."""
    path, key = files
    if path is None or key is None:
        return
    try:
        check_pair(path, key)
        expiry = x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc
    except (OSError, ValueError):
        return  # logged where the certificate is used
    telemetry.set(EXPIRY, expiry.timestamp(), certificate=certificate)


async def tell_expiries(settings: Settings, telemetry: Telemetry) -> None:
    """Keeps the gauges current of the certificates that a service presents to callers and other services."""
    while True:
        tell_expiry(telemetry, "server", (settings.tls_certificate, settings.tls_key))
        tell_expiry(telemetry, "client", (settings.tls_client_certificate, settings.tls_client_key))
        await asyncio.sleep(LOOK_SECONDS)


def caller(settings: Settings) -> Credentials:
    """The credentials with which this service calls others, and whom it trusts."""
    token_file = str(settings.token_file or "")
    return Credentials(
        ca=settings.tls_ca,
        certificate=str(settings.tls_client_certificate or ""),
        key=str(settings.tls_client_key or ""),
        token=settings.token.get_secret_value(),
        token_file=token_file,
        insecure=settings.insecure,
        names=CALLER_NAMES,
    )
