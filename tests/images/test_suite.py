"""The four images together, run as an overlay runs them, as closely as possible without a cluster."""

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sightline.client import keys
from sightline.client.transport.addresses import Addresses
from sightline.demo import digits
from sightline.local.nats_users import ADMIN, USERS, authorization
from sightline.local.ports import free_ports
from tests.e2e.conftest import Command
from tests.support.certificates import Authority
from tests.support.containers import Container
from tests.support.manifests import APIS, GATEWAY, OURS, SERVERS, environment, template, workloads
from tests.support.s3 import S3Server
from tests.support.servers import NatsServer

USER_ID = 10001
START_SECONDS = 300.0
# Set by the test: on a cluster each pod has its own address, and the store has TLS.
TEST_VARIABLES = {"SIGHTLINE_PORT", "SIGHTLINE_BUCKET", "SIGHTLINE_S3_SECURE"}

pytestmark = pytest.mark.timeout(3600)


class Pods:
    """A process for each workload, with the image, arguments, settings and volumes of its manifest."""

    def __init__(self, overlay: str, images: Callable[[str], Container], folder: Path, here: dict[str, str]) -> None:
        self._overlay = overlay
        self._images = images
        self._folder = folder
        ports = iter(free_ports(2 * len(OURS) + len(SERVERS)))
        served = {name: next(ports) for name in sorted(APIS)}
        dataset, predictor, trainer = (f"127.0.0.1:{port}" for port in served.values())
        self.addresses = Addresses(dataset, trainer, predictor)
        served[GATEWAY] = next(ports)
        self._settings = {
            name: here
            | self.addresses.environment()
            | {"SIGHTLINE_PORT": str(served.get(name, 0))}
            | {variable: str(next(ports)) for variable in ("SIGHTLINE_PROBE_PORT", "SIGHTLINE_METRICS_PORT")}
            for name in OURS
        }

    def command(self, name: str, *words: str) -> list[str]:
        """The command that runs the words, or the pod's own command, in its container."""
        (workload,) = [one for one in workloads(self._overlay) if one["metadata"]["name"] == name]
        pod = template(workload)["spec"]
        (spec,) = pod["containers"]
        container = self._images(spec["image"].partition(":")[0].removeprefix("sightline-"))
        secrets = {one["name"]: one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
        kept = {
            one["name"]: self._folder / secrets[one["name"]] if one["name"] in secrets else None
            for one in pod["volumes"]
        }
        mounts = {one["mountPath"]: kept[one["name"]] for one in spec["volumeMounts"]}
        values = environment(self._overlay, name)
        values |= {key: value for key, value in self._settings[name].items() if key in values or key in TEST_VARIABLES}
        words = words or (*container.config["Entrypoint"], *spec.get("args", []))
        return container.command(*words, environment=values, mounts=mounts)

    @contextlib.contextmanager
    def running(self, name: str) -> Generator[subprocess.Popen[bytes]]:
        """Runs the pod for the block; then terminates it, which must exit with status 0."""
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(self.command(name), stdout=log, stderr=log)
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 0, self.log(name)
        finally:
            process.kill()
            process.wait()

    def until_ready(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Returns once the pod is ready: by its health as kubelet does, or by a worker's metrics."""
        deadline = time.monotonic() + START_SECONDS
        while not self._ready(name):
            assert process.poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.5)

    def _ready(self, name: str) -> bool:
        probe, metrics = (self._settings[name][f"SIGHTLINE_{one}_PORT"] for one in ("PROBE", "METRICS"))
        with contextlib.suppress(OSError, grpc.RpcError):
            if name in APIS:
                with grpc.insecure_channel(f"127.0.0.1:{probe}") as channel:
                    stub: Any = health_pb2_grpc.HealthStub(channel)
                    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
                    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
            asked = f"{probe}/readyz" if name == GATEWAY else f"{metrics}/metrics"
            with urllib.request.urlopen(f"http://127.0.0.1:{asked}", timeout=5) as answer:
                return bool(answer.status == 200)
        return False

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-4000:]


@pytest.fixture(params=["local", "cpu"])
def pods(
    request: pytest.FixtureRequest,
    images: Callable[[str], Container],
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Generator[Pods]:
    """The pods of an overlay with their secrets and servers, and the caller's credentials."""
    authority, tls = Authority(), tmp_path / "sightline-tls"
    certificate, key = authority.pair().write(tls, "tls")
    ca = authority.write(tls)
    files = {"sightline-s3/access-key": s3_server.access_key, "sightline-s3/secret-key": s3_server.secret_key}
    files["sightline-nats/password"] = "of every user"
    files["sightline-token/token"], services = keys.make("services", "viewer")
    token, administrator = keys.make("administrator", "admin")
    files["sightline-auth/keys"] = f"{services}\n{administrator}\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for file in (certificate, key, ca, *(tmp_path / name for name in files)):
        file.chmod(0o440)
        os.chown(file, 0, USER_ID)
    config = authorization(dict.fromkeys((*USERS, ADMIN), files["sightline-nats/password"]))
    if request.param != "local":
        monkeypatch.setenv("SIGHTLINE_CA", str(ca))
        monkeypatch.setenv("SIGHTLINE_TOKEN", token)
        config += f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{ca}", verify: true }}'
    with NatsServer(tmp_path / "nats", config=config) as nats:
        here = {
            "SIGHTLINE_NATS_URL": nats.url,
            "SIGHTLINE_NATS_REPLICAS": "1",
            "SIGHTLINE_S3_ENDPOINT": s3_server.endpoint,
            "SIGHTLINE_S3_SECURE": "false",
            "SIGHTLINE_BUCKET": f"images-{request.param}",
            "SIGHTLINE_THREADS": "1",
            "SIGHTLINE_INGEST_THREADS": "1",
        }
        yield Pods(f"overlay {request.param}", images, tmp_path, here)


def test_the_images_train_a_model_and_predict_with_it(pods: Pods, tmp_path: Path) -> None:
    training, test = digits.write(tmp_path / "digits", digits=3, per_digit=20)
    sightline = Command(pods.addresses, tmp_path)
    with ExitStack() as stack:
        started = {name: stack.enter_context(pods.running(name)) for name in OURS}
        for name, process in started.items():
            pods.until_ready(name, process)
        doctor = pods.command("trainer-worker", "python", "-m", "services.infra.doctor")
        found = subprocess.run(doctor, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        for name, made in (("train", training), ("test", test)):
            sightline("datasets", "create", name, "--kind", "classification", "--coco", made.coco, "--wait")
        words = ("--dataset", "train", "--test-dataset", "test", "--budget", "60s", "--watch", "--json")
        model = sightline("models", "train", "digits", *words).json
        assert model["state"] == "SUCCEEDED", pods.log("trainer-worker")
        answer = sightline("predict", "digits", next(iter(test.truth)), "--json").json
        assert answer["modelVersion"] == model["modelVersion"]
