"""A suite under a real Prometheus, and the ways in which tests break it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sightline.stack import Stack
from tests.e2e.conftest import Command, RunningStack
from tests.support.prometheus import RULES, Prometheus, hastened

JOBS = {
    "dataset": "dataset-api",
    "dataset-worker": "dataset-worker",
    "trainer": "trainer-api",
    "trainer-worker-1": "trainer-worker",
    "trainer-worker-2": "trainer-worker",
    "predictor": "predictor",
}
# What stands for hours and dozens in a test of seconds. The rules are those that are deployed otherwise.
PATIENCE = {
    "SightlineWorkWaits": "3600 -> 2",
    "SightlineNoWorkerTakesWork": "300 -> 2",
    "SightlineIngestStalled": "300 -> 2",
    "SightlineLeasesLost": "> 3 -> > 0",
    "SightlineModelLoadSlow": "> 20 -> > 0.01",
    "SightlinePredictionsSlow": "> 2 -> > 0.001",
    "SightlineModelCacheThrashing": "> 1 -> > 0",
    "SightlineTrialsFailing": "> 0.5 -> > 0.2",  # those of the tests before count too
}
ENVIRONMENT = {
    "SIGHTLINE_DOWNLOAD_WEIGHTS": "false",
    "SIGHTLINE_LEASE_SECONDS": "3",
    "SIGHTLINE_HEARTBEAT_SECONDS": "0.5",
    "SIGHTLINE_STALL_SECONDS": "3",
    "SIGHTLINE_RECONCILE_SECONDS": "1",
    "SIGHTLINE_MAX_REQUESTS": "2",
}


@dataclass(frozen=True)
class Watched:
    """The suite, the Prometheus that watches it, and the command against it."""

    stack: Stack
    prometheus: Prometheus
    command: Command

    @contextmanager
    def frozen(self, *names: str) -> Generator[None]:
        """These processes stand still within the block: they hold their connections and answer nothing."""
        pids = [self.stack.pids[name] for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def without_store(self) -> Generator[None]:
        """In the place of the store's folder there is something that is no folder."""
        store = self.stack.data / "store"
        away = store.rename(store.with_name("store-away"))
        store.write_text("not a folder")
        try:
            yield
        finally:
            store.unlink()
            away.rename(store)

    @contextmanager
    def deadly(self) -> Generator[None]:
        """Every training process is killed as soon as it appears."""
        over = threading.Event()

        def kill() -> None:
            while not over.wait(0.2):
                for pid in self._children():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

        thread = threading.Thread(target=kill, name="killer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def metrics(self, name: str) -> bytes:
        """What a scrape of the process brings."""
        port = self.stack.metrics_ports[name]
        return subprocess.run(
            ["curl", "--silent", "--fail", f"http://127.0.0.1:{port}/metrics"], capture_output=True, check=True
        ).stdout

    def model_in(self, name: str, state: str, seconds: float = 30.0) -> None:
        """Returns once the model has a trial in the state."""
        deadline = time.monotonic() + seconds
        while state not in {trial["state"] for trial in self.trials(name)}:
            assert time.monotonic() < deadline, self.trials(name)
            time.sleep(0.2)

    def trials(self, name: str) -> list[dict[str, str]]:
        """The model's trials as a caller sees them."""
        found: list[dict[str, str]] = self.command("models", "trials", name, "--json").json.get("trials", [])
        return found

    def _children(self) -> list[int]:
        workers = {pid for name, pid in self.stack.pids.items() if name.startswith("trainer-worker")}
        found: list[int] = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in workers:
                    found.append(int(folder.name))
        return found


@contextmanager
def watching(folder: Path, environment: dict[str, str]) -> Generator[Watched]:
    """The suite with two trainer workers, and Prometheus with the hastened rules."""
    options = {"metrics_port": 0, "workers": 2, "environment": ENVIRONMENT | environment}
    with RunningStack(folder / "suite", **options) as running:
        targets: dict[str, list[int]] = {}
        for name, port in running.stack.metrics_ports.items():
            targets.setdefault(JOBS[name], []).append(port)
        rules = hastened(RULES.read_text(), PATIENCE)
        with Prometheus(folder / "prometheus", targets, rules) as prometheus:
            yield Watched(running.stack, prometheus, Command(running.stack.addresses, folder))
