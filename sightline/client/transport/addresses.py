"""The addresses of the three services: `SIGHTLINE_<SERVICE>_ADDRESS`, by default where `sightline up` serves them."""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from sightline.client.errors import AddressError

VARIABLES = {
    "dataset": "SIGHTLINE_DATASET_ADDRESS",
    "trainer": "SIGHTLINE_TRAINER_ADDRESS",
    "predictor": "SIGHTLINE_PREDICTOR_ADDRESS",
}
MAX_PORT = 65535
_EXPECTED = "expected host:port, such as sightline.example:50051 or [::1]:50051"
_OTHER_TARGETS = ("unix:", "unix-abstract:", "ipv4:", "ipv6:", "xds:")  # gRPC's own forms, which it checks itself
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NEVER = "/?#@\\\"'`,;"
_ENDPOINT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[^:]*))?")


@dataclass(frozen=True, slots=True)
class Addresses:
    """One gRPC target (`host:port`) per service; AddressError for an invalid one."""

    dataset: str = "localhost:50051"
    trainer: str = "localhost:50052"
    predictor: str = "localhost:50053"

    def __post_init__(self) -> None:
        _check(asdict(self))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The addresses in the variables; the default for each that is not set. Raises AddressError."""
        named = {name: value for name, variable in VARIABLES.items() if (value := environment.get(variable))}
        _check({VARIABLES[name]: value for name, value in named.items()})
        return cls(**named)

    def environment(self) -> dict[str, str]:
        """The variables that set these addresses."""
        return {variable: str(getattr(self, name)) for name, variable in VARIABLES.items()}


def _check(addresses: Mapping[str, str]) -> None:
    """Raises AddressError, which lists every invalid address under its name."""
    if faults := [f"{name}: {fault}" for name, value in addresses.items() if (fault := fault_of(value))]:
        raise AddressError("\n  ".join(faults))


def fault_of(address: str) -> str:
    """What is wrong with a gRPC target, and what is expected; empty if a channel can be opened to it."""
    if address.startswith(_OTHER_TARGETS):
        return ""
    endpoint = address.rpartition("/")[2] if address.startswith("dns:") else address
    fault = fault_of_endpoint(endpoint.removeprefix("dns:"))
    return f"{_shown(address)} {fault}; {_EXPECTED}" if fault else ""


def fault_of_endpoint(endpoint: str, *, needs_port: bool = True) -> str:
    """What is wrong with a `host:port`, as a predicate; empty if nothing is."""
    if scheme := _SCHEME.match(endpoint):
        return f"begins with {scheme.group()}"
    if any(character.isspace() for character in endpoint):
        return "contains a space"
    if odd := next((character for character in endpoint if character in _NEVER), ""):
        return f"contains {odd}"
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None:
        return "has misplaced colons or brackets (write an IPv6 address in brackets)"
    if match["ipv6"] is not None and not _is_ipv6(match["ipv6"]):
        return "has brackets around something other than an IPv6 address"
    if match["name"] == "":
        return "has no host"
    port = match["port"]
    if port is None:
        return "has no port" if needs_port else ""
    if not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= MAX_PORT):
        return f"has no port from 1 to {MAX_PORT} after the colon"
    return ""


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _shown(address: str) -> str:
    """The address without a password that it may contain."""
    _, at, rest = address.rpartition("@")
    return repr(f"***@{rest}" if at else address)
