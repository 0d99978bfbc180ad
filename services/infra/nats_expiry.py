"""When the certificates of NATS expire: ours, and those that its servers present."""

import asyncio
import socket
import ssl
from contextlib import closing
from datetime import datetime
from urllib.parse import urlsplit

from cryptography import x509

from services.infra.nats_access import NatsAccess, is_encrypted
from services.infra.tls import EXPIRY, tell_expiry
from services.kit.log import Log
from services.kit.telemetry import Telemetry

LOOK_SECONDS = 300.0
ANSWER_SECONDS = 5.0
DEFAULT_PORT = 4222

_log = Log(__name__)


async def tell_expiries(url: str, access: NatsAccess, telemetry: Telemetry) -> None:
    """Keeps the gauges current, if the connection uses TLS.

    An open connection only knows the certificate that it started with, which may have been renewed since: so each
    server is asked on a separate connection, which ends after the handshake.
    """
    while is_encrypted(url, access):
        tell_expiry(telemetry, "nats_client", (access.certificate, access.key))
        if expiries := await shown(url, access):
            telemetry.set(EXPIRY, min(expiries).timestamp(), certificate="nats_server")
        await asyncio.sleep(LOOK_SECONDS)


async def shown(url: str, access: NatsAccess) -> list[datetime]:
    """When the certificate presented to new connections expires, at every address of every server that answers."""
    found: list[datetime] = []
    for server in url.split(","):
        parts = urlsplit(server)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORT
        try:
            addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            _log.debug("nats_expiry_unknown", server=host, problem=str(error))
            continue
        for address in {each[4][0] for each in addresses}:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    found.append(await _shown_at(str(address), port, host, access))
            except Exception as error:  # noqa: BLE001 - a missing gauge must not end the process
                _log.debug("nats_expiry_unknown", server=str(address), problem=str(error))
    return found


async def _shown_at(address: str, port: int, host: str, access: NatsAccess) -> datetime:
    """Only the handshake takes place, so the certificate can be read without being trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if access.certificate and access.key:
        context.load_cert_chain(access.certificate, access.key)
    reader, writer = await asyncio.open_connection(address, port)
    with closing(writer):
        await reader.readuntil(b"\r\n")  # INFO, which each server sends first
        await writer.start_tls(context, server_hostname=host)
        shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = shown.getpeercert(binary_form=True)
    if certificate is None:
        raise ValueError("it shows no certificate")
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc
