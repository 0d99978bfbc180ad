"""The programs of a suite: their commands and environments, and how to tell that each is ready."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sightline.client.transport.addresses import Addresses
from sightline.client.transport.channel import DIRECT
from sightline.local import nats, signing
from sightline.local.nats_users import ADMIN, USERS
from sightline.local.ports import GATEWAY, HOST
from sightline.local.processes import Program

SERVICES = ("dataset", "trainer", "predictor")
WORKER_SECONDS = 1.0  # a worker that has run this long counts as ready: it has no port to probe
# A local suite listens on loopback, in plain text and without tokens, whatever this shell is set up to call.
_REMOTE = tuple(f"SIGHTLINE_{name}" for name in ("TLS_", "AUTH_", "TOKEN", "NATS_", "INSECURE", "PROBE_PORT"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the processes of a suite listen, and where they keep their data."""

    data: Path
    workers: int
    addresses: Addresses
    gateway_port: int
    nats_port: int
    nats_passwords: Mapping[str, str]  # by user
    metrics_ports: Mapping[str, int]  # by process; empty for no metrics
    environment: Mapping[str, str]  # added to that of the services

    @property
    def nats_url(self) -> str:
        """Where people reach NATS, with the password of its admin."""
        return f"nats://{ADMIN}:{self.nats_passwords[ADMIN]}@{HOST}:{self.nats_port}"


def worker_names(workers: int) -> tuple[str, ...]:
    """The names of the trainer's workers."""
    return tuple(f"trainer-worker-{number}" for number in range(1, workers + 1))


def nats_program(layout: Layout, server: str, settings: Path) -> Program:
    """nats-server with a configuration file."""
    command = nats.command(server, settings, settings.with_name("store"))
    return Program("nats", command, partial(nats.greets, layout.nats_port), dict(os.environ))


def service_programs(layout: Layout, pid_of: Callable[[str], int | None]) -> list[Program]:
    """The processes of the services, in the order of their start; `pid_of` gives the running process of a name."""
    api, worker = partial(_api, layout), partial(_worker, layout, pid_of)
    threads = str(_threads(layout))
    own = signing.chosen(layout.environment)
    checks, signs = ({} if own else signing.variables(layout.data, signs=signs) for signs in (False, True))
    return [
        api("dataset", "dataset", "api"),
        worker("dataset-worker", "dataset", "worker"),
        api("trainer", "trainer", "api"),
        api("predictor", "predictor", SIGHTLINE_MODEL_CACHE_DIRECTORY=str(layout.data / "cache"), **checks),
        _gateway(layout),
        worker(
            "predictor-worker",
            "predictor",
            "worker",
            SIGHTLINE_MODEL_CACHE_DIRECTORY=str(layout.data / "work" / "predictor-worker"),
            **checks,
        ),
        *(
            worker(
                name,
                "trainer",
                "worker",
                SIGHTLINE_WORK_DIR=str(layout.data / "work" / name),
                SIGHTLINE_THREADS=threads,
                **signs,
            )
            for name in worker_names(layout.workers)
        ),
    ]


def _api(layout: Layout, name: str, module: str, *role: str, **settings: str) -> Program:
    """A process with a port, which is ready when its health check says so."""
    address = str(getattr(layout.addresses, name))
    settings |= {
        "SIGHTLINE_PORT": address.rpartition(":")[2],
        "SIGHTLINE_AUDIT": f"{layout.data / 'audit' / name}.jsonl".replace(",", r"\,") + ",nats",
    }
    return Program(name, _command(module, *role), partial(is_serving, address), environment(layout, name, settings))


def _gateway(layout: Layout) -> Program:
    """The gateway, which needs neither NATS nor the store."""
    settings = {"SIGHTLINE_PORT": str(layout.gateway_port), "SIGHTLINE_ALLOWED_HOSTS": "localhost,127.0.0.1"}
    ready = partial(is_ready, layout.gateway_port)
    return Program(GATEWAY, _command("gateway"), ready, environment(layout, GATEWAY, settings))


def _worker(
    layout: Layout, pid_of: Callable[[str], int | None], name: str, module: str, *role: str, **settings: str
) -> Program:
    """A process without a port, which is ready when it has run for a moment."""
    settings["SIGHTLINE_PORT"] = "0"
    ready = _has_run(partial(pid_of, name))
    return Program(name, _command(module, *role), ready, environment(layout, name, settings))


def _command(module: str, *role: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"services.{module}", *role)


def environment(layout: Layout, name: str, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service's process; this process's settings for threads take precedence."""
    return {
        "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait take a core from others
        "OMP_NUM_THREADS": str(_threads(layout)),
        **{name: value for name, value in os.environ.items() if not name.startswith(_REMOTE)},
        **layout.addresses.environment(),
        "SIGHTLINE_HOST": HOST,
        **({} if name == GATEWAY else _nats_environment(layout, name)),
        "SIGHTLINE_STORE_DIRECTORY": str(layout.data / "store"),
        "SIGHTLINE_METRICS_PORT": str(layout.metrics_ports.get(name, 0)),
        "SIGHTLINE_DRAIN_SECONDS": "0.1",  # there is no load balancer to notify
        "SIGHTLINE_GRACE_SECONDS": "5",
        **settings,
        **layout.environment,
    }


def _nats_environment(layout: Layout, name: str) -> dict[str, str]:
    """Where a process reaches NATS, and as whom."""
    user = user_of(name)
    return {
        "SIGHTLINE_NATS_URL": f"nats://{HOST}:{layout.nats_port}",
        "SIGHTLINE_NATS_USER": user,
        "SIGHTLINE_NATS_PASSWORD": layout.nats_passwords[user],
    }


def user_of(name: str) -> str:
    """The user that a process of a suite is, as in deploy/: `dataset-api` is the process `dataset`."""
    user = name.rstrip("-0123456789")
    return user if user in USERS else f"{user}-api"


def _threads(layout: Layout) -> int:
    return max(1, (os.cpu_count() or 1) // layout.workers)


async def is_serving(address: str) -> bool:
    """Whether the health check of the service at the address says SERVING."""
    async with grpc.aio.insecure_channel(address, options=DIRECT) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            response = await stub.Check(request, timeout=2.0)  # pyright: ignore[reportAttributeAccessIssue] - set by __init__
        except grpc.aio.AioRpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


async def is_ready(port: int) -> bool:
    """Whether the HTTP server at the port takes requests."""
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            status = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in status


def _has_run(pid_of: Callable[[], int | None]) -> Callable[[], Awaitable[bool]]:
    """Whether the current process has run for WORKER_SECONDS."""
    seen: dict[int, float] = {}

    async def ready() -> bool:
        pid = pid_of()
        return pid is not None and time.monotonic() - seen.setdefault(pid, time.monotonic()) >= WORKER_SECONDS

    return ready
