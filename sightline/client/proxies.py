"""The proxy that gRPC sends calls through, as the environment says, and what to do where it is in the way."""

import ipaddress
import os
from collections.abc import Mapping

from sightline.client.credentials import host_of, is_loopback

# gRPC takes the first of each that is set, even if it is empty, and reads none of them in capitals.
VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def variable_for(address: str, environment: Mapping[str, str] = os.environ) -> str:
    """The variable whose proxy calls to the address go through; empty where they go there directly.

    Our channels use no proxy for this machine itself, see `sightline.client.channel.options_for`.
    """
    variable = next((name for name in VARIABLES if name in environment), "")
    if not environment.get(variable) or is_loopback(address):
        return ""
    exceptions = environment.get(_exceptions(environment), "")
    host = host_of(address)
    listed = [entry.strip() for entry in exceptions.split(",") if entry]
    return "" if any(_covers(entry, host) for entry in listed) else variable


def advice(address: str, environment: Mapping[str, str] = os.environ) -> str:
    """What to change where a call to the address failed and a proxy may be why; empty where none is used."""
    variable = variable_for(address, environment)
    if not variable:
        return ""
    host, proxy = host_of(address), environment[variable].rpartition("@")[2]  # without a password
    return (
        f"{variable} sends calls to {host} through the proxy {proxy}: if it can be reached without,"
        f" add {host} to {_exceptions(environment)}, or unset {variable}"
    )


def _exceptions(environment: Mapping[str, str]) -> str:
    return next((name for name in EXCEPTIONS if name in environment), EXCEPTIONS[-1])


def _covers(entry: str, host: str) -> bool:
    """Whether an entry of no_proxy covers the host: as the end of its name, or as a network of its address."""
    if host.lower().endswith(entry.lower()):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
