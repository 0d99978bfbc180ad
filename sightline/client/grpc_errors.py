"""Turns what gRPC raises into errors of `sightline.client.errors`."""

import re
import socket
from collections.abc import Iterator
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as rpc
from google.rpc.status_pb2 import Status

from sightline.client.errors import Details, MessageTooLarge, SightlineError, Unreachable, class_for
from sightline.client.transport.addresses import VARIABLES, Addresses
from sightline.client.transport.channel import DOMAIN, status_of
from sightline.client.transport.connection import connects
from sightline.client.transport.credentials import Credentials
from sightline.client.transport.diagnosis import diagnose, place_of
from sightline.text import shown

CONNECT_SECONDS = 2.0
UNAVAILABLE: int = grpc.StatusCode.UNAVAILABLE.value[0]
UNANSWERED = (UNAVAILABLE, int(grpc.StatusCode.DEADLINE_EXCEEDED.value[0]))
# What gRPC itself answers to a message that is larger than anything the service takes.
_TOO_LARGE = re.compile(r"message larger than max \(\d+ vs\. \d+\)")
UNNAMED = "image"  # how the service refers to image bytes, which have no name

M = TypeVar("M", bound=Message)


def error_of(error: grpc.RpcError, addresses: Addresses, credentials: Credentials) -> SightlineError:
    """The error of a call; if no Sightline service responded, takes a few seconds to find out why."""
    status = status_of(error)
    if status.code in UNANSWERED and not _detail(status, rpc.ErrorInfo):
        targets = [getattr(addresses, name) for name in VARIABLES]
        # gRPC's message is about the last address that it tried, which need not be the one that accepts connections.
        if advice := next(filter(None, (diagnose(address, credentials) for address in targets)), ""):
            return Unreachable(status.message, _details(status), fix=advice)
        if status.code == UNAVAILABLE:
            return _unreachable(status, addresses, credentials)
    return error_from(status)


def error_from(status: Status, resource: str = "") -> SightlineError:
    """The error for a status: of a call, or of the FAILED resource that `resource` names."""
    details = _details(status, resource)
    if not details.reason and _TOO_LARGE.search(status.message):
        return MessageTooLarge(status.message, details)
    return class_for(details.reason, status.code)(status.message, details)


def with_file(status: Status, file: str) -> Status:
    """The status with the file's name where the service, which received only bytes, wrote `image`."""
    file, named = shown(file, ""), Status()
    named.CopyFrom(status)
    if _TOO_LARGE.search(status.message):
        named.message = f"{file}: {status.message}"
    for packed in named.details:
        info = rpc.ErrorInfo()
        if packed.Unpack(info) and info.metadata.get("file") == UNNAMED:
            info.metadata["file"] = file
            packed.Pack(info)
            named.message = f"{file}{named.message.removeprefix(UNNAMED)}"
    return named


def _details(status: Status, resource: str = "") -> Details:
    info = _detail(status, rpc.ErrorInfo) or rpc.ErrorInfo()
    retry = _detail(status, rpc.RetryInfo)
    return Details(
        code=status.code,
        reason=info.reason if info.domain == DOMAIN else "",
        variables=dict(info.metadata),
        faults=tuple(_faults(status)),
        retry_after=retry.retry_delay.ToTimedelta() if retry else None,
        resource=resource,
        status=status.SerializeToString(),
    )


def _faults(status: Status) -> Iterator[str]:
    """The invalid fields and exceeded quotas, except those that the message already reports."""
    bad, quota = _detail(status, rpc.BadRequest), _detail(status, rpc.QuotaFailure)
    found = [(v.field, v.description) for v in bad.field_violations] if bad else []
    found += [(v.subject, v.description) for v in quota.violations] if quota else []
    return (f"{where}: {what}" for where, what in found if what != status.message)


def _detail(status: Status, kind: type[M]) -> M | None:
    """The status's detail of this kind, if it has one."""
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def _unreachable(status: Status, addresses: Addresses, credentials: Credentials) -> SightlineError:
    """Names the services that do not respond, and the variables that set their addresses."""
    targets = {name: getattr(addresses, name) for name in VARIABLES}
    silent = {name: where for name, where in targets.items() if not _responds(where, credentials)}
    if not silent:
        return Unreachable(status.message, _details(status), fix="all services respond now: repeat the command")
    lines = (f"the {name} service does not respond at {where} ({VARIABLES[name]})" for name, where in silent.items())
    fix = "start the suite on this machine with `sightline up`, or set the variable to the service's address"
    return Unreachable("\n".join(lines), _details(status), fix=fix)


def _responds(address: str, credentials: Credentials) -> bool:
    """Whether a gRPC server accepts connections there; assumed of targets other than host:port."""
    place = place_of(address)
    if place is None:
        return True
    try:
        socket.create_connection(place, CONNECT_SECONDS).close()
    except OSError:
        return False
    return connects(address, credentials, CONNECT_SECONDS)  # something else may listen there
