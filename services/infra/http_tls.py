"""TLS of an HTTP server: its certificate, key and client CA, loaded again when their files change."""

import asyncio
import ssl
from pathlib import Path

from services.infra.tls import EXPIRY, TlsUnusable, check_times
from services.kit.log import Log
from services.kit.settings import Settings
from services.kit.telemetry import Telemetry
from sightline.client.transport.credentials import check_ca, check_pair
from sightline.client.transport.reloading import ReloadingFiles

LOOK_SECONDS = 5.0

_log = Log(__name__)


class HttpTls:
    """The context of new connections; open ones keep what they were opened with. TlsUnusable.

    A pair that does not match (yet), has expired or is not valid yet is logged, and the previous one stays in use.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        assert settings.tls_certificate
        assert settings.tls_key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._pair = settings.tls_certificate, settings.tls_key
        self._client_ca, self._telemetry = settings.tls_client_ca, telemetry
        if self._client_ca:
            self.context.verify_mode = ssl.CERT_REQUIRED
        files = [*self._pair, *([self._client_ca] if self._client_ca else [])]
        try:
            self._watched = ReloadingFiles(
                files, self._load, lambda error: _log.error("tls_certificate_unusable", error)
            )
        except (OSError, ValueError) as error:
            names = "SIGHTLINE_TLS_CERTIFICATE, SIGHTLINE_TLS_KEY" + (", SIGHTLINE_TLS_CLIENT_CA" if files[2:] else "")
            raise TlsUnusable(f"{error}; see {names}") from error

    async def follow(self) -> None:
        """Keeps the context in step with the files until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self._watched.get)

    def _load(self, contents: list[bytes]) -> None:
        certificate, key = self._pair
        check_pair(certificate, key)
        expiry = check_times(certificate, contents[0])
        if self._client_ca:
            check_ca(self._client_ca, contents[2])
            self.context.load_verify_locations(cadata=contents[2].decode("ascii"))
        self.context.load_cert_chain(certificate, key)
        self._telemetry.set(EXPIRY, expiry.timestamp(), certificate="server")
        _log.info("tls_certificate_loaded", expires=expiry.isoformat(), certificate=str(Path(certificate)))


def http_tls(settings: Settings, telemetry: Telemetry) -> HttpTls | None:
    """The server's TLS; None if the settings ask for plain text. TlsUnusable."""
    return HttpTls(settings, telemetry) if settings.tls_certificate and settings.tls_key else None
