"""The processes of a suite as in a cluster: replicas, links to NATS and to the store, and someone who restarts them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from sightline.local import die_with_parent
from sightline.local.programs import is_serving
from tests.chaos.campaign.broker import SERVERS, Broker
from tests.chaos.campaign.links import Network
from tests.support.s3 import S3Server
from tests.support.servers import ServerFailed, free_port, tail

LEASE_SECONDS = 3.0
RESTART_SECONDS = 0.3  # between a death and the next start
LOOK_SECONDS = 0.05
APIS = {
    "dataset": ("services.dataset", "api"),
    "trainer": ("services.trainer", "api"),
    "predictor": ("services.predictor", "api"),
}
WORKERS = {
    "dataset-worker": ("services.dataset", "worker"),
    "trainer-worker": ("tests.chaos.campaign.trainer_worker", "worker"),
    "predictor-worker": ("services.predictor", "worker"),
}
QUICK = {
    "SIGHTLINE_LEASE_SECONDS": str(LEASE_SECONDS),
    "SIGHTLINE_HEARTBEAT_SECONDS": "0.5",
    "SIGHTLINE_CHECKPOINT_SECONDS": "0.5",
    "SIGHTLINE_ACK_WAIT_SECONDS": "4",
    "SIGHTLINE_STALL_SECONDS": "3",
    "SIGHTLINE_RECONCILE_SECONDS": "1",
    "SIGHTLINE_BATCH_LEASE_SECONDS": str(LEASE_SECONDS),
    "SIGHTLINE_BATCH_STALL_SECONDS": "3",
    "SIGHTLINE_BATCH_RECONCILE_SECONDS": "1",
    "SIGHTLINE_BATCH_HEARTBEAT_SECONDS": "0.5",
    "SIGHTLINE_MODEL_SWEEP_SECONDS": "2",
    "SIGHTLINE_INGEST_THREADS": "1",
    "SIGHTLINE_DECODE_THREADS": "1",
    "SIGHTLINE_THREADS": "1",
    "SIGHTLINE_INSTALLED_WEIGHTS": "false",
    "SIGHTLINE_DOWNLOAD_WEIGHTS": "false",
    "SIGHTLINE_DRAIN_SECONDS": "0.1",
    "SIGHTLINE_GRACE_SECONDS": "3",
    "SIGHTLINE_CALLER_RATE": "0",
    "SIGHTLINE_PROJECT_RATE": "0",
    "SIGHTLINE_AUDIT": "none",
    "SIGHTLINE_NATS_REPLICAS": str(SERVERS),
    "OMP_NUM_THREADS": "1",
}


class Member:
    """One process of the suite, which keeps its ports and its name."""

    def __init__(self, name: str, module: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._module, self._environment = module, environment
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = 0.0  # when it was last found dead

    @property
    def alive(self) -> bool:
        """Whether it runs, or is frozen."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts it."""
        command = [
            sys.executable,
            "-S",
            die_with_parent.__file__,
            str(os.getpid()),
            sys.executable,
            "-m",
            *self._module,
        ]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=self._environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        if self.process and self.alive:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class Installation:
    """All processes: `with Installation(...) as suite: suite.addresses`; those that die are started again."""

    lease_seconds = LEASE_SECONDS

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        store: S3Server,
        network: Network,
        *,
        replicas: int,
        environment: Mapping[str, str],
    ) -> None:
        self.members: dict[str, Member] = {}
        self.restarts: Counter[str] = Counter()
        self.ports = {f"{service}-{number}": free_port() for service in APIS for number in range(1, replicas + 1)}
        self._held = threading.Event()
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        common = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")},
            **QUICK,
            "SIGHTLINE_S3_ACCESS_KEY": store.access_key,
            "SIGHTLINE_S3_SECRET_KEY": store.secret_key,
            "SIGHTLINE_S3_SECURE": "false",
            **{f"SIGHTLINE_{service.upper()}_ADDRESS": self.address(service) for service in APIS},
            **environment,
        }
        programs = [
            (f"{kind}-{number}", module)
            for kind, module in (APIS | WORKERS).items()
            for number in range(1, replicas + 1)
        ]
        for name, module in programs:
            nats = [network.link(f"{name}/nats-{n}", server.port) for n, server in enumerate(broker.servers)]
            endpoint = network.link(f"{name}/store", store.port)
            own = {
                "SIGHTLINE_NATS_URL": ",".join(f"nats://127.0.0.1:{port}" for port in nats),
                "SIGHTLINE_S3_ENDPOINT": f"127.0.0.1:{endpoint}",
                "SIGHTLINE_PORT": str(self.ports.get(name, 0)),
                "SIGHTLINE_WORK_DIR": str(folder / "work" / name),
                "SIGHTLINE_MODEL_CACHE_DIRECTORY": str(folder / "cache" / name),
            }
            self.members[name] = Member(name, module, common | own, folder)

    def address(self, service: str) -> str:
        """Where all replicas of a service are, for gRPC."""
        return "ipv4:" + ",".join(
            f"127.0.0.1:{port}" for name, port in self.ports.items() if name.startswith(f"{service}-")
        )

    @property
    def names(self) -> list[str]:
        """Of all processes."""
        return list(self.members)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.members[name].signal(signal.SIGKILL)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self.members[name].signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.members[name].signal(signal.SIGCONT)

    def pid(self, name: str) -> int:
        """The process id; ProcessLookupError if it does not run."""
        member = self.members[name]
        if not member.process or not member.alive:
            raise ProcessLookupError(name)
        return member.process.pid

    def hold_back(self) -> None:
        """Nothing is started until `let_go`."""
        self._held.set()

    def let_go(self) -> None:
        """What has ended is started again."""
        self._held.clear()

    def __enter__(self) -> Self:
        for member in self.members.values():
            member.start()
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._keeper.join()
        for number in (signal.SIGCONT, signal.SIGKILL):
            for member in self.members.values():
                member.signal(number)
        for member in self.members.values():
            if member.process:
                member.process.wait()

    def wait(self, seconds: float) -> None:
        """Returns once every api serves; ServerFailed."""
        deadline = time.monotonic() + seconds
        for name, port in self.ports.items():
            while not asyncio.run(is_serving(f"127.0.0.1:{port}")):
                if time.monotonic() > deadline:
                    raise ServerFailed(f"{name} does not serve after {seconds:.0f} s:\n{tail(self.members[name].log)}")
                time.sleep(0.2)

    def _keep(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            now = time.monotonic()
            for member in self.members.values():
                if member.alive:
                    member.ended = 0.0
                elif not member.ended:
                    member.ended = now
                elif now - member.ended >= RESTART_SECONDS and not self._held.is_set():
                    self.restarts[member.name] += 1
                    member.start()
