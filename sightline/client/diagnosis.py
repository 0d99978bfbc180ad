"""Why a connection failed, where TLS or a proxy is to blame: by what gRPC said, or by trying it out."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path

from sightline.client import proxies
from sightline.client.connection import connects
from sightline.client.credentials import SYSTEM, VARIABLES, Credentials

SECONDS = 2.0  # for one attempt
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

# What is said of a connection that failed, and what it means; the closer one first. The words are OpenSSL's and gRPC's.
_UNVERIFIED = (
    (("certificate has expired",), "the service's certificate has expired: its operator must renew it"),
    (("Hostname Verification", "Hostname mismatch", "IP address mismatch", "not valid for"),
     "the service's certificate does not name this host: reach it by a name that it has"),
    (("CERTIFICATE_VERIFY_FAILED",),
     "the service's certificate is not signed by the CA that is trusted here: set {ca} to the right one"),
)  # fmt: skip
_MEANINGS = (
    *_UNVERIFIED,
    (("WRONG_VERSION_NUMBER",), "the service does not speak TLS there: leave out {ca}, or give it a certificate"),
    (("CERTIFICATE_REQUIRED", "ALERT_CERTIFICATE", "ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "PEER_DID_NOT_RETURN"),
     "the service refuses the caller's certificate: set {certificate} and {key} to a valid pair that it accepts"),
)  # fmt: skip
_CLOSED = "Socket closed"
_SILENT = (_CLOSED, "Connection reset", "SETTINGS frame", "Broken pipe", "End of TCP stream", "GOAWAY")


def explain(said: str, credentials: Credentials, address: str) -> str:
    """What to change about a connection that failed, by what gRPC said; empty where that is neither TLS nor a proxy."""
    names = {field: credentials.name_of(field) for field in VARIABLES}
    for words, meaning in _MEANINGS:
        if any(word in said for word in words):
            return meaning.format(**names)
    if advice := proxies.advice(address):
        return advice
    if not any(word in said for word in _SILENT):
        return ""
    if not credentials.ca:
        return f"if the service speaks TLS, set {names['ca']} to the CA of its certificate"
    if not credentials.certificate:
        return f"if the service asks for certificates, set {names['certificate']} and {names['key']}"
    return f"if it refuses the certificate, see whether {names['certificate']} is valid and of a CA that it trusts"


def unverified(said: str, ca: str) -> str:
    """Why a server's certificate was not believed, where that is the fault; `ca` is the setting that names its CA."""
    return next((meaning.format(ca=ca) for words, meaning in _UNVERIFIED if any(word in said for word in words)), "")


def place_of(address: str) -> tuple[str, int] | None:
    """Host and port of a target; None for one of another form."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return None
    return host.rpartition("/")[2].strip("[]"), int(port)


def diagnose(address: str, credentials: Credentials) -> str:
    """What to set so that a call gets there, found by trying; empty where neither a proxy nor TLS is the fault."""
    if advice := proxies.advice(address):
        return "" if connects(address, credentials, SECONDS) else advice
    place = place_of(address)
    if place is None:
        return ""
    said = _attempt(place, _context(credentials))
    if credentials.ca:
        return explain(said, credentials, address) if said else ""
    # Without a CA plain text was spoken: the fault is TLS if TLS would have been understood.
    understood = said in ("", _CLOSED) or "CERTIFICATE" in said.upper()
    return f"the service speaks TLS: set {credentials.name_of('ca')} to the CA of its certificate" if understood else ""


def _context(credentials: Credentials) -> ssl.SSLContext:
    if not credentials.ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only asked whether it speaks TLS
    else:
        context = ssl.create_default_context(cafile=None if credentials.ca == SYSTEM else credentials.ca)
        if credentials.certificate:
            context.load_cert_chain(Path(credentials.certificate), Path(credentials.key))
    context.set_alpn_protocols(["h2"])
    return context


def _attempt(place: tuple[str, int], context: ssl.SSLContext) -> str:
    """What went wrong; a server refuses a certificate only after the handshake. Empty where nothing did."""
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
