"""Why a connection failed, if TLS or a proxy is to blame: from gRPC's message, or by trying to connect."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path

from sightline.client.transport import proxies
from sightline.client.transport.connection import connects
from sightline.client.transport.credentials import SYSTEM, VARIABLES, Credentials

SECONDS = 2.0  # for one attempt
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

# Phrases of OpenSSL and gRPC about a failed connection, and what they mean; the more specific ones first.
_UNVERIFIED = (
    (("certificate has expired",), "the service's certificate has expired: the operator must renew it"),
    (("Hostname Verification", "Hostname mismatch", "IP address mismatch", "not valid for"),
     "the service's certificate does not name this host: connect by a name that it contains"),
    (("CERTIFICATE_VERIFY_FAILED",),
     "the service's certificate is not signed by the trusted CA: set {ca} to the right one"),
)  # fmt: skip
_MEANINGS = (
    *_UNVERIFIED,
    (("WRONG_VERSION_NUMBER",), "the service does not use TLS: unset {ca}, or give the service a certificate"),
    (("CERTIFICATE_REQUIRED", "ALERT_CERTIFICATE", "ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "PEER_DID_NOT_RETURN"),
     "the service rejects the client certificate: set {certificate} and {key} to a valid pair that it accepts"),
)  # fmt: skip
_CLOSED = "Socket closed"
_SILENT = (_CLOSED, "Connection reset", "SETTINGS frame", "Broken pipe", "End of TCP stream", "GOAWAY")


def explain(message: str, credentials: Credentials, address: str) -> str:
    """What to change after a failed connection, by gRPC's message; empty if neither TLS nor a proxy is to blame."""
    names = {field: credentials.name_of(field) for field in VARIABLES}
    for words, meaning in _MEANINGS:
        if any(word in message for word in words):
            return meaning.format(**names)
    if advice := proxies.advice(address):
        return advice
    if not any(word in message for word in _SILENT):
        return ""
    if not credentials.ca:
        return f"if the service uses TLS, set {names['ca']} to the CA of its certificate"
    if not credentials.certificate:
        return f"if the service requires client certificates, set {names['certificate']} and {names['key']}"
    return f"check that {names['certificate']} is valid and signed by a CA that the service trusts"


def unverified(message: str, ca: str) -> str:
    """Why a server's certificate failed verification; empty if that is not the cause. `ca` is the CA's setting."""
    return next((meaning.format(ca=ca) for words, meaning in _UNVERIFIED if any(word in message for word in words)), "")


def place_of(address: str) -> tuple[str, int] | None:
    """Host and port of a target; None if it has another form."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return None
    return host.rpartition("/")[2].strip("[]"), int(port)


def diagnose(address: str, credentials: Credentials) -> str:
    """What to change so that calls get through, found by connecting; empty if neither a proxy nor TLS is to blame."""
    if advice := proxies.advice(address):
        return "" if connects(address, credentials, SECONDS) else advice
    place = place_of(address)
    if place is None:
        return ""
    message = _attempt(place, _context(credentials))
    if credentials.ca:
        return explain(message, credentials, address) if message else ""
    # Without a CA the call was plain text: TLS is to blame if the service understands it.
    understood = message in ("", _CLOSED) or "CERTIFICATE" in message.upper()
    return f"the service uses TLS: set {credentials.name_of('ca')} to the CA of its certificate" if understood else ""


def _context(credentials: Credentials) -> ssl.SSLContext:
    if not credentials.ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it only has to use TLS
    else:
        context = ssl.create_default_context(cafile=None if credentials.ca == SYSTEM else credentials.ca)
        if credentials.certificate:
            context.load_cert_chain(Path(credentials.certificate), Path(credentials.key))
    context.set_alpn_protocols(["h2"])
    return context


def _attempt(place: tuple[str, int], context: ssl.SSLContext) -> str:
    """What went wrong, if anything. Reads too, as a server rejects a client certificate only after the handshake."""
    try:
        with (
            socket.create_connection(place, SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=place[0]) as encrypted,
        ):
            encrypted.sendall(_PREFACE)
            with suppress(TimeoutError):
                return "" if encrypted.recv(1) else _CLOSED
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""
