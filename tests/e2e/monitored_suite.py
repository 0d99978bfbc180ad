"""A suite monitored by a real Prometheus, and the faults that tests inject into it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from msgspec.structs import replace

from services.infra import jetstream
from services.infra.jetstream_records import JetStreamRecords
from services.kit.records import Table
from services.trainer.domain import Model, Trial
from sightline.client.stubs import Stubs
from sightline.local.stack import Stack
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import CreateDatasetRequest, GetDatasetRequest
from tests.e2e.conftest import Command, RunningStack
from tests.support.processes import training_children
from tests.support.prometheus import RULES, Prometheus, with_thresholds
from tests.support.servers import free_port, stop

JOBS = {
    "dataset": "dataset-api",
    "dataset-worker": "dataset-worker",
    "trainer": "trainer-api",
    "trainer-worker-1": "trainer-worker",
    "trainer-worker-2": "trainer-worker",
    "predictor": "predictor",
    "gateway": "gateway",
    "predictor-worker": "predictor-worker",
}
FETCH_SECONDS = 3.0  # after which a frozen worker no longer waits for a job that it would keep
# Replaces thresholds of hours and dozens in tests of seconds. Otherwise the rules are those that are deployed.
THRESHOLDS = {
    "SightlineWorkWaits": "3600 -> 2",
    "SightlineNoWorkerTakesWork": "300 -> 2",
    "SightlineWorkersNotReady": "< 0.5 -> < 0.99, 300 -> 2",  # the suite's own workers are ready
    "SightlineIngestStalled": "300 -> 2",
    "SightlineBatchesStalled": "600 -> 2, [2m] -> [10s]",  # all images were predicted just before
    "SightlineLeasesLost": "> 3 -> > 0",
    "SightlineModelLoadSlow": "> 20 -> > 0.01",
    "SightlinePredictionsSlow": "> 2 -> > 0.001, > 10 -> > 1",
    "SightlinePredictionsRefused": "> 0.05 -> > 0",
    "SightlineErrorsHigh": "> 3 -> > 0",
    "SightlineErrorBudgetBurnsFast": "[6h:5m] -> [2m], > 10 -> > 0",
    "SightlineErrorBudgetBurnsSlowly": "[3d:5m] -> [2m], > 30 -> > 0",
    "SightlineGatewayErrorsHigh": "> 3 -> > 0",
    "SightlineModelCacheThrashing": "> 1 -> > 0",
    "SightlineTrialsFailing": "> 0.5 -> > 0.2",  # earlier tests count too
    "SightlineTrainingsFail": "> 2 -> > 0, > 0.5 -> > 0.1",
}
ENVIRONMENT = {
    "SIGHTLINE_WEIGHTS_DIR": "",  # the same models whether this machine has weights or not
    "SIGHTLINE_DOWNLOAD_WEIGHTS": "false",
    "SIGHTLINE_INSTALLED_WEIGHTS": "false",
    "SIGHTLINE_LEASE_SECONDS": "3",
    "SIGHTLINE_HEARTBEAT_SECONDS": "0.5",
    "SIGHTLINE_STALL_SECONDS": "3",
    "SIGHTLINE_RECONCILE_SECONDS": "1",
    "SIGHTLINE_MAX_REQUESTS": "2",
}


@dataclass(frozen=True)
class MonitoredSuite:
    """The suite, the Prometheus that monitors it, and the command against it."""

    stack: Stack
    prometheus: Prometheus
    command: Command
    spare_port: int  # scraped as the job `spare`

    @contextmanager
    def frozen(self, *names: str) -> Generator[None]:
        """Freezes these processes for the block: their connections stay open, nothing answers."""
        pids = [self.stack.pids[name] for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            while not _is_stopped(pid):  # on a busy machine the signal may take a while
                time.sleep(0.01)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def without(self, name: str) -> Generator[None]:
        """Replaces this folder of the suite by a file for the block."""
        folder = self.stack.data / name
        away = folder.rename(folder.with_name(f"{name}-away"))
        folder.write_text("not a folder")
        try:
            yield
        finally:
            folder.unlink()
            away.rename(folder)

    @contextmanager
    def damaged(self, model: str) -> Generator[None]:
        """Changes one byte of the weights in each of the model's bundles in the store for the block."""
        files = list((self.stack.data / "store").glob(f"**/models/{model}/**/weights.safetensors"))
        assert files
        whole = {file: file.read_bytes() for file in files}
        try:
            for file, content in whole.items():
                file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            yield
        finally:
            for file, content in whole.items():
                file.write_bytes(content)

    @contextmanager
    def overcharged(self, trial: str, seconds: float) -> Generator[None]:
        """Adds `seconds` to the charged time in the trial's record for the block."""
        asyncio.run(self._charge(trial, seconds))
        try:
            yield
        finally:
            asyncio.run(self._charge(trial, -seconds))

    async def _charge(self, trial: str, seconds: float) -> None:
        def more(now: Trial) -> Trial:
            *others, last = now.work.segments
            charged = replace(last, duration=last.duration + timedelta(seconds=seconds))
            return replace(now, work=replace(now.work, segments=(*others, charged)))

        async with jetstream.connected(self.stack.nats_url, "tests") as connection:
            await Table(JetStreamRecords(connection), Trial).change(trial, more)

    @contextmanager
    def signature_of(self, model: str, other: str) -> Generator[None]:
        """Gives the model's record the signature of another model's bundle for the block."""
        own = asyncio.run(self._sign(f"models/{model}", other))
        try:
            yield
        finally:
            asyncio.run(self._sign(f"models/{model}", own))

    async def _sign(self, model: str, signature: str) -> str:
        """Stores a signature, or that of the model of this name, in the record; returns the one before."""
        async with jetstream.connected(self.stack.nats_url, "tests") as connection:
            table = Table(JetStreamRecords(connection), Model)
            served = (await table.get(model)).value.served
            assert served is not None
            if signature.startswith("models/"):
                others = (await table.get(signature)).value.served
                assert others is not None
                signature = others.bundle_signature
            changed = dataclasses.replace(served, bundle_signature=signature)
            await table.change(model, lambda now: replace(now, served=changed))
            return served.bundle_signature

    @contextmanager
    def another_dataset_api(self, certificate: Path, key: Path) -> Generator[None]:
        """A second dataset api, with TLS."""
        files = {"SIGHTLINE_TLS_CERTIFICATE": str(certificate), "SIGHTLINE_TLS_KEY": str(key)}
        with self._another("services.dataset", "api", SIGHTLINE_PORT=str(free_port()), **files):
            yield

    @contextmanager
    def another_worker_without_its_gpu(self) -> Generator[None]:
        """A trainer worker that requires a GPU and has none; it exits by itself."""
        with self._another("services.trainer", "worker", SIGHTLINE_DEVICE="cuda", CUDA_VISIBLE_DEVICES=""):
            yield

    @contextmanager
    def only_a_worker_whose_children_die(self) -> Generator[None]:
        """Freezes all trainer workers but a new one, whose training processes end as soon as they have their tasks."""
        with self.frozen(*(name for name in JOBS if name.startswith("trainer-worker"))):
            time.sleep(FETCH_SECONDS)
            with self._another("tests.e2e.doomed_worker", "worker"):
                yield

    @contextmanager
    def _another(self, *words: str, **settings: str) -> Generator[None]:
        environment = {
            **os.environ,
            "SIGHTLINE_NATS_URL": self.stack.nats_url,
            "SIGHTLINE_STORE_DIRECTORY": str(self.stack.data / "store"),
            "SIGHTLINE_METRICS_PORT": str(self.spare_port),
            **settings,
        }
        process = subprocess.Popen([sys.executable, "-m", *words], env=environment)
        try:
            yield
        finally:
            stop(process)

    @contextmanager
    def children_frozen(self) -> Generator[None]:
        """Freezes every training process, so that running work never ends."""
        over = threading.Event()

        def freeze() -> None:
            while not over.wait(0.1):
                self._send(signal.SIGSTOP)

        thread = threading.Thread(target=freeze, name="freezes children", daemon=True)
        self._send(signal.SIGSTOP)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        for pid in self._children():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def register(self, *names: str, like: str) -> None:
        """Registers more datasets with the files of `like`, without uploading anything."""
        with Stubs(self.stack.addresses) as client:
            source = client.datasets.GetDataset(GetDatasetRequest(name=f"datasets/{like}"))
            described = Dataset(
                annotation_kind=source.annotation_kind, annotation_file_uris=source.annotation_file_uris
            )
            for name in names:
                client.datasets.CreateDataset(CreateDatasetRequest(dataset_id=name, dataset=described))

    def failing_call(self, dataset: str) -> None:
        """A call that is retried until its deadline and fails."""
        with Stubs(self.stack.addresses) as client, pytest.raises(grpc.RpcError):
            client.datasets.GetDataset(GetDatasetRequest(name=f"datasets/{dataset}"), timeout=15)

    def status_from_gateway(self, model: str, image: Path) -> int:
        """How the gateway answers a request to predict an image."""
        query = f"api-version=2023-04-01-preview&model-name={model}"
        url = f"{self.stack.gateway}/computervision/imageanalysis:analyze?{query}"
        headers = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(url, image.read_bytes(), headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def metrics(self, name: str) -> bytes:
        """The process's metrics as a scrape returns them."""
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
        """Those that run their own program: a worker cannot be frozen while one that is being started is."""
        workers = [pid for name, pid in self.stack.pids.items() if name.startswith("trainer-worker")]
        return [pid for worker in workers for pid in training_children(worker)]


@contextmanager
def monitored_suite(folder: Path, environment: dict[str, str]) -> Generator[MonitoredSuite]:
    """The suite with two trainer workers, and Prometheus with the adapted rules."""
    suite, spare_port = folder / "suite", free_port()
    (suite / "scratch").mkdir(parents=True)
    environment = {**ENVIRONMENT, "SIGHTLINE_SCRATCH_DIRECTORY": str(suite / "scratch"), **environment}
    with RunningStack(suite, metrics_port=0, workers=2, environment=environment) as running:
        targets: dict[str, list[int]] = {"spare": [spare_port]}
        for name, port in running.stack.metrics_ports.items():
            targets.setdefault(JOBS[name], []).append(port)
        rules = with_thresholds(RULES.read_text(), THRESHOLDS)
        with Prometheus(folder / "prometheus", targets, rules) as prometheus:
            yield MonitoredSuite(running.stack, prometheus, Command(running.stack.addresses, folder), spare_port)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
