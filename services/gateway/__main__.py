"""Runs a gateway replica: `python -m services.gateway`, or prints its settings with `--settings`."""

import asyncio
import sys
from functools import partial

from services.gateway import apis
from services.gateway.asgi import Gateway
from services.gateway.front import Front
from services.gateway.settings import GatewaySettings, refuse_plain_tokens
from services.gateway.studio.app import Studio
from services.gateway.studio.cookies import PREFIX
from services.gateway.upstream import Services
from services.infra import http_metrics, observe, processes
from services.infra.auth import guard_of
from services.infra.http_calls import HttpCalls
from services.infra.http_server import HttpServer
from services.infra.limits import Limits
from services.kit.settings import load, refuse_exposure
from services.vision import decode_metrics
from services.vision.decode_pool import DecodePool
from services.vision.thumbnail import thumbnail
from sightline.client.stubs_aio import AsyncStubs


def main() -> None:
    """Serves until SIGTERM or SIGINT, then finishes the requests in flight."""
    settings = load(GatewaySettings)
    if "--settings" in sys.argv[1:]:
        sys.stdout.write(settings.masked() + "\n")
        return
    refuse_exposure(settings)
    refuse_plain_tokens(settings)
    observe.configure_logging("gateway", settings.log_level)
    processes.run(lambda stop: serve(settings, stop))


async def serve(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Runs the server, ready as soon as it listens: it reports by itself which service does not respond."""
    with observe.measured("gateway", settings, (*http_metrics.ALL, *decode_metrics.ALL)) as telemetry:
        async with (
            AsyncStubs(settings.addresses, settings.credentials) as stubs,
            DecodePool.running(settings.decode_limits, telemetry) as decoders,
        ):
            services = services_of(stubs)
            studio = Studio(services, settings, partial(thumbnail, decoders))
            front = Front(Gateway(services, settings, apis.served()), studio, PREFIX, settings.hosts)
            calls = HttpCalls("gateway", front, front, telemetry, Limits.of(settings, {}), guard_of(settings))
            server = HttpServer(settings, telemetry, calls)
            await server.start()
            await server.run_until(stop)


def services_of(stubs: AsyncStubs) -> Services:
    """The services as the gateway calls them."""
    return Services(
        datasets=stubs.datasets,
        models=stubs.models,
        aliases=stubs.aliases,
        evaluations=stubs.evaluations,
        predictions=stubs.predictions,
        projects=stubs.projects,
        audit=stubs.audit,
    )


if __name__ == "__main__":
    main()
