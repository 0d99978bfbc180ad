"""The proxy through which gRPC sends calls, by the environment, and what to do if it is in the way."""

import ipaddress
import os
from collections.abc import Mapping

from sightline.client.transport.credentials import host_of, is_loopback

# gRPC uses the first of each that is set, even if it is empty, and ignores the upper-case variants.
VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")  # gRPC does not know the last, nor `*` in the others


def variable_for(address: str, environment: Mapping[str, str] = os.environ) -> str:
    """The variable whose proxy is used for calls to the address; empty if they go there directly.

    Our channels use no proxy for this machine; see `sightline.client.transport.channel.options_for`.
    """
    variable = next((name for name in VARIABLES if name in environment), "")
    if not environment.get(variable) or is_loopback(address) or is_excepted(address, environment):
        return ""
    return variable


def is_excepted(address: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment says that no proxy is used for the address, in any form that other programs know."""
    listed = environment.get(_exceptions(environment), "").split(",")
    return any(_covers(entry.strip(), host_of(address)) for entry in listed if entry.strip())


def advice(address: str, environment: Mapping[str, str] = os.environ) -> str:
    """What to change after a failed call to the address, if a proxy may be the cause; empty if none is used."""
    variable = variable_for(address, environment)
    if not variable:
        return ""
    host, proxy = host_of(address), environment[variable].rpartition("@")[2]  # without a password
    return (
        f"{variable} sends calls to {host} through the proxy {proxy}: if the proxy is not needed,"
        f" add {host} to {_exceptions(environment)}, or unset {variable}"
    )


def _exceptions(environment: Mapping[str, str]) -> str:
    return next((name for name in EXCEPTIONS if name in environment), "no_proxy")


def _covers(entry: str, host: str) -> bool:
    """Whether an entry of no_proxy covers the host: as a suffix of its name, or as a network with its address.

    `*` is every host, `*.example` is `.example`, and `host:443` is `host`.
    """
    if entry.count(":") == 1:
        entry = entry.partition(":")[0]
    entry = entry.removeprefix("*")
    if host.lower().endswith(entry.lower()):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
