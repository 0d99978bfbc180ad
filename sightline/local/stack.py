"""The whole suite on one machine: nats-server, the services and their workers as children of this process."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Self

from sightline.client.transport.addresses import Addresses
from sightline.local import claims, nats, nats_users, signing
from sightline.local.claims import StackError
from sightline.local.ports import GATEWAY, HOST
from sightline.local.processes import Child, Died, Program
from sightline.local.programs import SERVICES, Layout, nats_program, service_programs, worker_names

START_SECONDS = 180.0
GRACE_SECONDS = 15.0  # between SIGTERM and SIGKILL
DEATHS_AT_START = 3  # a program that dies this often before it was ever ready is misconfigured
POLL_SECONDS = 0.1
APIS = ("dataset", "trainer")  # stopped after their callers


class Stack:
    """The suite in one folder: `async with Stack(folder, base_port=0) as stack: stack.addresses ...`.

    Law: inside the block every service responds, and a child that dies is restarted on the same port. The folder
    holds everything: `nats` (records and queue), `store` (blobs), `keys` (which sign models), `logs`; a later Stack on
    it continues from there.
    Other users of this machine can neither read it nor log in to its nats-server; `nats_url` has the admin's password.
    Only one can run on a folder at a time. When the block or this process ends, no child is left.

    `base_port` 0 takes free ports. With a `metrics_port`, each process of the services serves its own `/metrics`, on
    consecutive ports from this one on, or on free ports if it is 0; `metrics_ports` has them by name. `environment`
    is added to that of the services. `on_death` is called when a child dies. Without `with_services`, only nats-server
    runs, for who writes records that no service may see half of.
    """

    def __init__(
        self,
        data: Path,
        *,
        base_port: int = 50051,
        metrics_port: int | None = None,
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
        on_death: Callable[[Died], None] = lambda _: None,
        with_services: bool = True,
    ) -> None:
        self.data = data.resolve()
        self.workers = workers
        self._base_port = base_port
        self._metrics_port = metrics_port
        self.metrics_ports: Mapping[str, int] = {}
        self._environment = dict(environment or {})
        self._on_death = on_death
        self._with_services = with_services
        self._on_ready: Callable[[str], None] = lambda _: None
        self._children: dict[str, Child] = {}
        self._lock: IO[str] | None = None
        self.addresses = Addresses()
        self.gateway = ""  # its URL
        self.nats_url = ""

    def on_ready(self, callback: Callable[[str], None]) -> None:
        """Sets what is called with the name of each child that becomes ready."""
        self._on_ready = callback

    @property
    def logs(self) -> Path:
        """The folder with each child's output, as `NAME.log`."""
        return self.data / "logs"

    @property
    def names(self) -> tuple[str, ...]:
        """The children in the order of their start."""
        services = "dataset", "dataset-worker", "trainer", "predictor", GATEWAY, "predictor-worker"
        return ("nats", *services, *worker_names(self.workers))

    @property
    def pids(self) -> dict[str, int]:
        """The running processes, by name; without a child that is waiting to be restarted."""
        return {name: child.pid for name, child in self._children.items() if child.pid is not None}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts everything; returns when every service responds. If that fails, StackError, and nothing is left."""
        try:
            server = await asyncio.to_thread(nats.find)
        except nats.NatsMissing as error:
            raise StackError(str(error)) from error
        self._lock = await asyncio.to_thread(claims.lock_folder, self.data)
        try:
            layout = await asyncio.to_thread(self._claim)
            settings = await asyncio.to_thread(_configure_nats, layout, server)
            await self._run([nats_program(layout, server, settings)])
            if self._with_services:
                await self._run(service_programs(layout, lambda name: self._children[name].pid))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops the gateway, then predictor and workers, then the other services, then nats-server."""
        callers = [name for name in self._children if name not in (*APIS, GATEWAY, "nats")]
        for wave in ((GATEWAY,), callers, APIS, ("nats",)):
            stops = (self._children[name].stop(GRACE_SECONDS) for name in wave if name in self._children)
            await asyncio.gather(*stops)
        self._children.clear()
        if self._lock:
            self._lock.close()
            self._lock = None

    def _claim(self) -> Layout:
        """Chooses the ports."""
        *ports, gateway_port = claims.service_ports(self._base_port, (*SERVICES, GATEWAY))
        claims.make_private(self.data, with_store="SIGHTLINE_STORE_DIRECTORY" not in self._environment)
        passwords = self.data / "nats" / nats_users.FILE
        signing.keep(self.data, used_before=passwords.exists())
        self.addresses = Addresses(**{name: f"{HOST}:{port}" for name, port in zip(SERVICES, ports, strict=True)})
        self.gateway = f"http://{HOST}:{gateway_port}"
        # The services before the trainer's workers, so that their ports do not depend on the number of workers.
        processes = self.names[1:]
        self.metrics_ports = claims.metrics_ports(self._metrics_port, processes)
        layout = Layout(
            data=self.data,
            workers=self.workers,
            addresses=self.addresses,
            gateway_port=gateway_port,
            nats_port=claims.nats_port(self.data),
            nats_passwords=nats_users.kept_passwords(passwords),
            metrics_ports=self.metrics_ports,
            environment=self._environment,
        )
        self.nats_url = layout.nats_url
        return layout

    async def _run(self, programs: list[Program]) -> None:
        """Starts the programs at the same time and waits until all are ready; StackError if one does not start."""
        for program in programs:
            child = Child(program, self.logs / f"{program.name}.log", self._on_death)
            self._children[program.name] = child
            await child.start()
        async with asyncio.TaskGroup() as tasks:
            waits = [tasks.create_task(self._wait(program.name)) for program in programs]
        if problem := next((problem for wait in waits if (problem := wait.result())), ""):
            raise StackError(problem)

    async def _wait(self, name: str) -> str:
        """Returns when the child is ready, or why it is not."""
        child, deadline = self._children[name], time.monotonic() + START_SECONDS
        while not await child.program.ready():
            if child.deaths >= DEATHS_AT_START:
                return f"{name} does not start; the end of {child.log}:\n{child.log_tail()}"
            if time.monotonic() > deadline:
                return f"{name} was not ready after {START_SECONDS:.0f} s; the end of {child.log}:\n{child.log_tail()}"
            await asyncio.sleep(POLL_SECONDS)
        self._on_ready(name)
        return ""


def _configure_nats(layout: Layout, server: str) -> Path:
    """Writes nats-server's configuration; returns the file."""
    folder = layout.data / "nats"
    users = nats_users.authorization(layout.nats_passwords)
    text = nats.configuration(layout.nats_port, nats.version(server), users)
    claims.write(folder / "nats.conf", text)
    return folder / "nats.conf"
