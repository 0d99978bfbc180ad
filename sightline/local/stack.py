"""The whole suite on one machine: nats-server, the services and their workers as children of this process."""

import asyncio
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sightline.client.addresses import Addresses
from sightline.client.channel import DIRECT
from sightline.local import nats
from sightline.local.ports import HOST, free_ports, is_free
from sightline.local.processes import Child, Died, Program

START_SECONDS = 180.0
GRACE_SECONDS = 15.0  # between SIGTERM and SIGKILL
DEATHS_AT_START = 3  # a program that dies so often before it was ever ready is wrongly set up
POLL_SECONDS = 0.1
BORN_SECONDS = 1.0  # a worker that has lived so long is at work; it has no port that could be asked
SERVICES = ("dataset", "trainer", "predictor")
# The suite stays on loopback, in plain text and without tokens, whatever this shell uses to call another one.
_OF_A_NETWORK = tuple(f"SIGHTLINE_{name}" for name in ("TLS_", "AUTH_", "TOKEN", "NATS_", "INSECURE", "PROBE_PORT"))


class StackError(Exception):
    """The suite cannot run here; the message says why and what to do."""


class Stack:
    """The suite in one folder: `async with Stack(folder, base_port=0) as stack: stack.addresses ...`.

    Law: inside the block every service answers, and a child that dies is started again on the same port. The folder
    holds everything: `nats` (records and queue), `store` (blobs), `logs`; a later Stack on it goes on with what was
    there. Two at once are refused. When the block ends, or this process does, no child is left.

    `base_port` 0 takes free ports. With a `metrics_port` every process of the services has a `/metrics` of its own:
    `metrics_ports` names them, from this one on; 0 takes free ports. `environment` is added to that of the children.
    `tell` hears of deaths.
    """

    def __init__(
        self,
        data: Path,
        *,
        base_port: int = 50051,
        metrics_port: int | None = None,
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
        tell: Callable[[Died], None] = lambda _: None,
    ) -> None:
        self.data = data.resolve()
        self.workers = workers
        self._base_port = base_port
        self._metrics_port = metrics_port
        self.metrics_ports: dict[str, int] = {}
        self._environment = dict(environment or {})
        self._tell = tell
        self._ready: Callable[[str], None] = lambda _: None
        self._children: dict[str, Child] = {}
        self._lock: IO[str] | None = None
        self.addresses = Addresses()
        self.nats_url = ""

    def on_ready(self, hear: Callable[[str], None]) -> None:
        """From now on `hear` is told the name of each child that has started."""
        self._ready = hear

    @property
    def logs(self) -> Path:
        """Where each child's output lies, as `NAME.log`."""
        return self.data / "logs"

    @property
    def names(self) -> tuple[str, ...]:
        """The children in the order of their start."""
        workers = tuple(f"trainer-worker-{number}" for number in range(1, self.workers + 1))
        return ("nats", "dataset", "dataset-worker", "trainer", *workers, "predictor")

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run now, by name; a child between death and restart is not among them."""
        return {name: child.pid for name, child in self._children.items() if child.pid is not None}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts everything; returns when every service answers. StackError if that fails, and nothing is left."""
        program = await asyncio.to_thread(_nats_server)
        self._lock = await asyncio.to_thread(_lock, self.data)
        try:
            await self._start(program)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops predictor and workers, then the services, then nats-server."""
        apis = {"dataset", "trainer"}
        last = {"nats"}
        waves = (
            [n for n in self._children if n not in apis | last],
            [n for n in self._children if n in apis],
            list(last),
        )
        for wave in waves:
            stops = (self._children[name].stop(GRACE_SECONDS) for name in wave if name in self._children)
            await asyncio.gather(*stops)
        self._children.clear()
        if self._lock:
            self._lock.close()
            self._lock = None

    async def _start(self, nats_server: str) -> None:
        ports = await asyncio.to_thread(_service_ports, self._base_port)
        self.metrics_ports = await asyncio.to_thread(self._metrics_ports)
        self.addresses = Addresses(**{name: f"{HOST}:{port}" for name, port in zip(SERVICES, ports, strict=True)})
        nats_port = await asyncio.to_thread(_nats_port, self.data)
        self.nats_url = f"nats://{HOST}:{nats_port}"
        folder = self.data / "nats"
        settings = folder / "nats.conf"
        text = nats.configuration(nats_port, folder / "store", await asyncio.to_thread(nats.version, nats_server))
        await asyncio.to_thread(_write, settings, text)
        records = Program("nats", (nats_server, "-c", str(settings)), partial(nats.greets, nats_port), dict(os.environ))
        await self._run([records])
        await self._run(self._services(ports))

    def _metrics_ports(self) -> dict[str, int]:
        """The services first and then the workers, so that the ports of those do not depend on how many workers run."""
        if self._metrics_port is None:
            return {}
        names = ["dataset", "dataset-worker", "trainer", "predictor"]
        names += [name for name in self.names if name.startswith("trainer-worker")]
        if not self._metrics_port:
            return dict(zip(names, free_ports(len(names)), strict=True))
        return {name: self._metrics_port + number for number, name in enumerate(names)}

    def _services(self, ports: list[int]) -> list[Program]:
        """Every process of the services, in the order of their start."""
        dataset, trainer, predictor = ports
        programs = [
            self._program("dataset", ("dataset", "api"), dataset),
            self._program("dataset-worker", ("dataset", "worker")),
            self._program("trainer", ("trainer", "api"), trainer),
            self._program(
                "predictor", ("predictor",), predictor, SIGHTLINE_MODEL_CACHE_DIRECTORY=str(self.data / "cache")
            ),
        ]
        workers = [name for name in self.names if name.startswith("trainer-worker")]
        threads = str(max(1, (os.cpu_count() or 1) // self.workers))
        return programs + [
            self._program(
                name,
                ("trainer", "worker"),
                SIGHTLINE_WORK_DIR=str(self.data / "work" / name),
                SIGHTLINE_THREADS=threads,
            )
            for name in workers
        ]

    def _program(self, name: str, module_and_role: tuple[str, ...], port: int = 0, **settings: str) -> Program:
        """A process of a service; one with a port is ready when it says so, a worker when it has lived a moment."""
        module, *role = module_and_role
        ready = partial(_serving, f"{HOST}:{port}") if port else _lived(self._children, name)
        command = (sys.executable, "-m", f"services.{module}", *role)
        metrics = {"SIGHTLINE_METRICS_PORT": str(self.metrics_ports.get(name, 0))}
        return Program(name, command, ready, self._child_environment(port, {**metrics, **settings}))

    def _child_environment(self, port: int, settings: Mapping[str, str]) -> dict[str, str]:
        """What a service finds in its environment; what this process's environment says of threads stays."""
        threads = str(max(1, (os.cpu_count() or 1) // self.workers))
        return {
            "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait cost others their core
            "OMP_NUM_THREADS": threads,
            **{name: value for name, value in os.environ.items() if not name.startswith(_OF_A_NETWORK)},
            **self.addresses.environment(),
            "SIGHTLINE_HOST": HOST,
            "SIGHTLINE_PORT": str(port),
            "SIGHTLINE_NATS_URL": self.nats_url,
            "SIGHTLINE_STORE_DIRECTORY": str(self.data / "store"),
            "SIGHTLINE_DRAIN_SECONDS": "0.1",  # no balancer has to hear of it
            "SIGHTLINE_GRACE_SECONDS": "5",
            **settings,
            **self._environment,
        }

    async def _run(self, programs: list[Program]) -> None:
        """Starts the programs at once and waits for all of them."""
        for program in programs:
            child = Child(program, self.logs / f"{program.name}.log", self._tell)
            self._children[program.name] = child
            await child.start()
        async with asyncio.TaskGroup() as tasks:
            waits = [tasks.create_task(self._await(program.name)) for program in programs]
        problem = next((said for wait in waits if (said := wait.result())), "")
        if problem:
            raise StackError(problem)

    async def _await(self, name: str) -> str:
        """Returns nothing when the child works, or why it does not."""
        child, deadline = self._children[name], time.monotonic() + START_SECONDS
        while not await child.program.ready():
            if child.deaths >= DEATHS_AT_START:
                return f"{name} does not start; the end of {child.log}:\n{child.last_words()}"
            if time.monotonic() > deadline:
                return (
                    f"{name} was not ready after {START_SECONDS:.0f} s; the end of {child.log}:\n{child.last_words()}"
                )
            await asyncio.sleep(POLL_SECONDS)
        self._ready(name)
        return ""


async def _serving(address: str) -> bool:
    """Whether the service at the address says that it is SERVING."""
    async with grpc.aio.insecure_channel(address, options=DIRECT) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            answer = await stub.Check(request, timeout=2.0)  # pyright: ignore[reportAttributeAccessIssue] - set by __init__
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _lived(children: Mapping[str, Child], name: str) -> Callable[[], Awaitable[bool]]:
    """Whether the child's present process has lived for a moment."""
    seen: dict[int, float] = {}

    async def ready() -> bool:
        pid = children[name].pid
        return pid is not None and time.monotonic() - seen.setdefault(pid, time.monotonic()) >= BORN_SECONDS

    return ready


def _nats_server() -> str:
    try:
        return nats.find()
    except nats.NatsMissing as error:
        raise StackError(str(error)) from error


def _lock(data: Path) -> IO[str]:
    """Holds the folder for this process until the file is closed; StackError if another process holds it."""
    data.mkdir(parents=True, exist_ok=True)
    file = (data / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise StackError(
            f"the suite runs on {data} already (process {holder}); stop that one, or choose another folder with --data"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _service_ports(base_port: int) -> list[int]:
    """The ports of the three services; StackError that names those that are in use."""
    if not base_port:
        return free_ports(len(SERVICES))
    ports = [base_port + number for number in range(len(SERVICES))]
    deadline = time.monotonic() + 3.0  # children of a stack that was killed may need a moment to vanish
    while busy := [port for port in ports if not is_free(port)]:
        if time.monotonic() > deadline:
            listed = ", ".join(f"{port} ({SERVICES[ports.index(port)]})" for port in busy)
            raise StackError(f"in use already: port {listed}; choose others with --base-port")
        time.sleep(0.1)
    return ports


def _nats_port(data: Path) -> int:
    """The port that the folder's nats-server had before, if it is free; otherwise a new one, remembered."""
    file = data / "nats" / "port"
    with contextlib.suppress(OSError, ValueError):
        port = int(file.read_text())
        if is_free(port):
            return port
    port = free_ports(1)[0]
    _write(file, f"{port}\n")
    return port


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
