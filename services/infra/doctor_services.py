"""Checks the three services and the gateway from outside: whether they answer and report that they serve."""

import asyncio
import contextlib
import ssl
import urllib.error
import urllib.request
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.infra import tls
from services.infra.findings import Report
from services.kit.settings import Settings
from sightline.client.transport.addresses import VARIABLES, AddressError, Addresses
from sightline.client.transport.connection import open_channel
from sightline.client.transport.credentials import Credentials, CredentialsError
from sightline.client.transport.diagnosis import explain

SECONDS = 5.0
GATEWAY = "http://127.0.0.1:50054"


async def check_services(report: Report, settings: Settings) -> None:
    """Calls them as another service would, or as a client if only a client's variables are set."""
    credentials = tls.caller(settings)
    if not credentials.ca and Credentials.from_environment().ca:
        credentials = Credentials.from_environment()
    try:
        addresses = Addresses.from_environment()
    except AddressError as error:
        report.fault(f"the services cannot be called: {error}", "fix what the message names")
        return
    for service, variable in VARIABLES.items():
        address = str(getattr(addresses, service))
        try:
            serving = await asyncio.to_thread(_serving, address, credentials)
        except CredentialsError as error:
            report.fault(f"the {service} service cannot be called: {error}", "fix what the message names")
        except grpc.RpcError as error:
            said = error.details() if isinstance(error, grpc.Call) else str(error)
            _unreachable(report, service, address, variable, said or "no answer", credentials)
        else:
            if serving:
                report.ok(f"the {service} service serves at {address}")
            else:
                remedy = "see its log: nats-server or the store is down, or it is just starting or stopping"
                report.fault(f"the {service} service answers at {address}, but does not serve", remedy)


def _serving(address: str, credentials: Credentials) -> bool:
    channel, close = open_channel(address, credentials)
    with contextlib.ExitStack() as stack:
        stack.callback(close)
        request = health_pb2.HealthCheckRequest()
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(request, timeout=SECONDS)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _unreachable(
    report: Report, service: str, address: str, variable: str, said: str, credentials: Credentials
) -> None:
    advice = explain(said, credentials, address)
    remedy = advice or f"start it, free its port if something else listens there, or correct {variable}"
    report.fault(f"the {service} service does not answer at {address} ({said[:200]})", remedy)


async def check_gateway(report: Report, url: str, authority: str) -> None:
    """Asks whether it is ready; `authority` as in SIGHTLINE_TLS_CA. A suite may do without, unless its URL is set."""
    place = (url or GATEWAY).rstrip("/")
    try:
        await asyncio.to_thread(_ready, place, authority)
    except urllib.error.HTTPError as error:
        error.close()
        report.fault(f"the gateway answers at {place}, but is not ready ({error.code})", "see its log")
    except (OSError, ValueError) as error:
        text = f"the gateway does not answer at {place} ({error})"
        if url:
            report.fault(
                text, "start it, or correct SIGHTLINE_GATEWAY_URL, and SIGHTLINE_TLS_CA if it is about a certificate"
            )
        else:
            report.warn(text, "set SIGHTLINE_GATEWAY_URL if there is one; gRPC needs none")
    else:
        report.ok(f"the gateway is ready at {place}")


def _ready(url: str, authority: str) -> None:
    """HTTPError, OSError or ValueError unless it is."""
    trusted = ssl.create_default_context(cafile=authority if authority not in ("", "system") else None)
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
    with urllib.request.build_opener(*handlers).open(f"{url}/readyz", timeout=SECONDS):
        pass
