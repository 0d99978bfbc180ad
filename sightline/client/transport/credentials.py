"""A caller's credentials: the CA it trusts, its client certificate, its token, and the project that it acts in."""

import ipaddress
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from sightline.client.errors import CredentialsError
from sightline.client.transport.reloading import ReloadingFiles

SYSTEM = "system"  # instead of a file: the root certificates that ship with gRPC
VARIABLES = {
    "ca": "SIGHTLINE_CA",
    "certificate": "SIGHTLINE_CLIENT_CERTIFICATE",
    "key": "SIGHTLINE_CLIENT_KEY",
    "token": "SIGHTLINE_TOKEN",
    "token_file": "SIGHTLINE_TOKEN_FILE",
    "insecure": "SIGHTLINE_INSECURE",
    "project": "SIGHTLINE_PROJECT",
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a caller reaches the services: in plain text without `ca`. `names` are the variables that errors mention."""

    ca: str = ""  # a PEM file, or SYSTEM
    certificate: str = ""
    key: str = ""
    token: str = ""
    token_file: str = ""
    insecure: bool = False  # whether a token may be sent to another machine in plain text
    names: Mapping[str, str] | None = None
    project: str = ""  # that calls act in; empty: the token's only one, or `default`

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The credentials in the variables."""
        found = {field: environment.get(variable, "") for field, variable in VARIABLES.items()}
        insecure = found["insecure"].lower() in ("1", "true", "yes", "on")
        return cls(
            found["ca"],
            found["certificate"],
            found["key"],
            found["token"],
            found["token_file"],
            insecure,
            project=found["project"],
        )

    def __repr__(self) -> str:
        return f"Credentials(ca={self.ca!r}, certificate={self.certificate!r}, has_token={self.has_token})"

    @property
    def has_token(self) -> bool:
        """Whether calls carry a token."""
        return bool(self.token or self.token_file)

    def name_of(self, field: str) -> str:
        """The variable that sets the field."""
        return (self.names or {}).get(field, VARIABLES[field])

    def check(self, address: str) -> None:
        """CredentialsError if they are contradictory, or a token would cross a network in plain text."""
        if bool(self.certificate) != bool(self.key):
            raise CredentialsError(f"set both {self.name_of('certificate')} and {self.name_of('key')}, or neither")
        if self.certificate and not self.ca:
            raise CredentialsError(f"{self.name_of('certificate')} needs TLS: set {self.name_of('ca')} too")
        if self.has_token and not self.ca and not self.insecure and not is_loopback(address):
            raise CredentialsError(
                f"the token would be sent to {address} in plain text: set {self.name_of('ca')} to the services' CA"
                f" (or to `{SYSTEM}`), or {self.name_of('insecure')}=true if something else encrypts the connection"
            )

    def watch_channel(self, on_error: Callable[[Exception], None]) -> ReloadingFiles[grpc.ChannelCredentials]:
        """The TLS credentials, reloaded when their files change; CredentialsError if they are unusable."""
        fields = [field for field in ("ca", "certificate", "key") if getattr(self, field)]
        paths = {field: Path(getattr(self, field)) for field in fields if getattr(self, field) != SYSTEM}

        def load(contents: list[bytes]) -> grpc.ChannelCredentials:
            found = dict(zip(paths, contents, strict=True))
            if "ca" in found:
                check_ca(paths["ca"], found["ca"])
            if "certificate" in found:
                check_pair(paths["certificate"], paths["key"])
            return grpc.ssl_channel_credentials(found.get("ca"), found.get("key"), found.get("certificate"))

        try:
            return ReloadingFiles(list(paths.values()), load, on_error)
        except (OSError, ValueError) as error:
            variables = ", ".join(self.name_of(field) for field in paths)
            raise CredentialsError(f"{error}; see {variables}") from error

    def watch_token(self, on_error: Callable[[Exception], None]) -> Callable[[], str]:
        """A function that returns the current token; CredentialsError if the file cannot be read or holds no token."""
        try:
            if self.token_file:
                return ReloadingFiles(
                    [Path(self.token_file)], lambda contents: _token(contents[0].decode("latin-1")), on_error
                ).get
            token = _token(self.token) if self.token else ""
        except (OSError, ValueError) as error:
            variable = self.name_of("token_file" if self.token_file else "token")
            raise CredentialsError(f"{error}; see {variable}") from error
        return lambda: token


def _token(text: str) -> str:
    token = text.strip()
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("expected a token, which is one word of ASCII")
    return token


def check_ca(path: Path, content: bytes) -> None:
    """ValueError unless the file holds certificates."""
    try:
        ssl.create_default_context(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{path} holds no CA certificate ({error})") from None


def check_pair(certificate: Path, key: Path) -> None:
    """ValueError unless the files hold a certificate and its private key."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise ValueError(f"{certificate} and {key} are not a certificate and its private key ({error})") from None


def _no_password() -> str:
    raise ValueError("the private key is encrypted: use one without a password")


def is_loopback(address: str) -> bool:
    """Whether the address (`host`, `host:port`, or a unix socket) is on this machine."""
    if address.startswith("unix"):
        return True
    host = host_of(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_of(address: str) -> str:
    """The host of a gRPC target, without brackets."""
    host = re.sub(r"^(dns|ipv4|ipv6):", "", address).rpartition("/")[2]
    if host.count(":") == 1 or host.startswith("["):
        host = host.rpartition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return host.strip("[]")
