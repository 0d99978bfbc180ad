"""Published clients of Azure's retired services work with the gateway, pointed at it by their endpoint alone.

Each runs in a process of its own, over https with our CA, with a key of ours; `make setup` installs them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sightline.client import keys
from sightline.client.stubs import Stubs
from sightline.client.transport.addresses import Addresses
from sightline.client.uploads import files_of
from sightline.local.ports import free_ports
from sightline.local.stack import Stack
from tests.support.certificates import Authority

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = Path(os.environ.get("SIGHTLINE_AZURE_CLIENTS", str(Path(sys.prefix) / "azure-clients")))
BLOBS = "https://photos.blob.core.windows.net/sets"
START_SECONDS = 240.0


@dataclass(frozen=True)
class Gateway:
    """A gateway with TLS and keys, in front of a suite."""

    endpoint: str
    key: str
    ca: Path
    folder: Path  # of the image sets
    log: Path

    def python(self, script: str, *words: object) -> Any:
        """What a script prints that uses published Python clients."""
        program = CLIENTS / "bin/python"
        assert program.exists(), f"{program} is missing: run `make setup`"
        return self._run(program, script, *words)

    def node(self, script: str, *words: object) -> Any:
        """What a script prints that uses published npm clients."""
        program = shutil.which("node")
        assert program, "node is not installed: run `make setup`"
        return self._run(program, script, *words)

    def _run(self, program: str | Path, script: str, *words: object) -> Any:
        trust = {name: str(self.ca) for name in ("REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")}
        environment = {**os.environ, **trust, "PYTHONPATH": "", "NO_PROXY": "localhost"}
        command = [program, ROOT / "tests/e2e/azure" / script, self.endpoint, self.key, *map(str, words)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def gateway(
    suite: Stack, test_data: Path, weights_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A replica over https, which takes one key, with the image sets in the store where blob URIs lead."""
    folder = tmp_path_factory.mktemp("gateway")
    authority = Authority()
    certificate, private = authority.pair().write(folder)
    ca = authority.write(folder)
    token, line = keys.make("migrated", "admin")
    (folder / "keys").write_text(f"{line}\n")
    uploaded = upload(suite.addresses, test_data)
    (port,) = free_ports(1)
    settings = {
        "SIGHTLINE_PORT": str(port),
        "SIGHTLINE_TLS_CERTIFICATE": str(certificate),
        "SIGHTLINE_TLS_KEY": str(private),
        "SIGHTLINE_AUTH_KEYS": str(folder / "keys"),
        "SIGHTLINE_BLOB_PREFIXES": f"{BLOBS}={uploaded}",
        "SIGHTLINE_DEFAULT_CLASSIFIER": "trees",
        "SIGHTLINE_QUICK_TRAINING_SECONDS": "40",
        "SIGHTLINE_DRAIN_SECONDS": "0",
    }
    environment = {**os.environ, **suite.addresses.environment(), **settings}
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "services.gateway"], env=environment, stdout=log, stderr=log)
    try:
        until_ready(port, process, folder)
        yield Gateway(f"https://localhost:{port}", token, ca, test_data, folder / "gateway.log")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert "internal_error" not in (folder / "gateway.log").read_text()


def upload(addresses: Addresses, test_data: Path) -> str:
    """Puts the sets into the store; returns the uri of the folder that they are in."""
    with Stubs(addresses) as stubs:
        for name in ("hemlock_cherry", "fork_scissors"):
            files = {
                f"{name}/{file.path}": file
                for part in ("train", "test")
                for file in files_of(test_data / name / f"{part}.json")
            }
            uris = stubs.upload_files([replace(file, path=path) for path, file in files.items()], upload_id="blobs")
    return next(iter(uris.values())).partition("/blobs/")[0] + "/blobs/"


def until_ready(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, (folder / "gateway.log").read_text()
        assert time.monotonic() < deadline
        try:
            opener.open(f"https://localhost:{port}/readyz", timeout=5)
        except OSError:
            time.sleep(0.1)
        else:
            return


@pytest.fixture(scope="module")
def trees(gateway: Gateway) -> dict[str, Any]:
    """What the customization samples got; it leaves the classifier `trees`."""
    return gateway.python("customization_samples.py", BLOBS, gateway.folder)


def test_the_customization_samples_train_evaluate_and_predict(trees: dict[str, Any]) -> None:
    assert trees["status"] == "succeeded"
    assert trees["given_up"] == "cancelled"
    assert trees["minutes"] >= 1
    assert trees["performance"]["tagPerformance"].keys() == {"Hemlock", "Japanese_Cherry"}
    assert trees["evaluated"]["accuracyTop1"] == pytest.approx(trees["performance"]["accuracyTop1"])
    assert trees["right"] >= 0.75 * trees["images"]


@pytest.mark.long
def test_irisml_trains_a_detector_and_gets_boxes_as_tensors(gateway: Gateway, trees: dict[str, Any]) -> None:
    found = gateway.python("irisml_tasks.py", BLOBS, gateway.folder)
    assert found["status"] == "succeeded"
    assert found["performance"]["meanAveragePrecision50"] > 0.3
    assert sum(found["boxes"]) > 0
    assert found["inside"]
    assert set(found["tags"][0]) == {"Hemlock", "Japanese_Cherry"}


@pytest.mark.parametrize("language", ["py", "js"])
def test_the_image_analysis_sdk_predicts_with_a_custom_model(
    gateway: Gateway, trees: dict[str, Any], language: str
) -> None:
    run = gateway.python if language == "py" else gateway.node
    image = gateway.folder / "hemlock_cherry/images/0014.jpg"
    found = run(f"image_analysis.{language}", "trees", image, f"{BLOBS}/hemlock_cherry/images/0014.jpg?sig=secret")
    assert found["bytes"] == found["url"]
    assert sum(tag["confidence"] for tag in found["bytes"]) == pytest.approx(1.0, abs=0.01)
    assert found["width"] > 0
    assert found["refusal"][:2] == [400, "InvalidImageFormat"]
    if language == "py":
        assert found["default"] == [[tag["name"], tag["confidence"]] for tag in found["bytes"]]


@pytest.fixture(scope="module")
def projects(gateway: Gateway) -> dict[str, Any]:
    """What the Custom Vision SDK got; it leaves a project with an iteration published as `live`."""
    return gateway.python("custom_vision.py", BLOBS, gateway.folder)


def test_the_custom_vision_sdk_trains_publishes_and_classifies(projects: dict[str, Any]) -> None:
    found = projects["classify"]
    assert found["projects"] == ["trees"]
    assert found["again"] == "OKDuplicate"
    assert (found["tagged"], found["tags"]) == (12, {"Hemlock": 6, "Japanese_Cherry": 6})
    assert found["repeated"] == "BadRequestTrainingNotNeeded"
    assert found["multilabel"] == "BadRequestNotSupported"
    assert found["renamed"], "predictions have the ids of the tags, which were renamed before the training"
    assert len(found["quick"]) == 2
    assert found["published"] == "live"
    assert found["right"] >= 0.75 * found["images"]
    assert found["by_url"] == 2
    assert found["same_ids"]
    assert len(found["precision"]) == 2


def test_the_custom_vision_sdk_trains_on_regions_and_finds_objects(projects: dict[str, Any]) -> None:
    found = projects["detect"]
    named, inside = zip(*found["best"], strict=True)
    assert sum(named) >= 0.5 * len(named)
    assert all(inside)
    assert found["regions"] == 1, "the region that was added is removed again"
    assert found["left"] == ["trees"], "a project that was deleted is gone"


def test_the_custom_vision_sdk_of_node_predicts(gateway: Gateway, projects: dict[str, Any]) -> None:
    image = gateway.folder / "hemlock_cherry/images/0014.jpg"
    project = projects["classify"]["project"]
    found = gateway.node("custom_vision.js", project, image, f"{BLOBS}/hemlock_cherry/images/0014.jpg")
    assert found["bytes"] == found["url"]
    assert {name for name, _ in found["bytes"]} == {"Hemlock", "Japanese_Cherry"}
    assert found["project"] == project
    assert found["refusal"] == [404, "NotFoundIteration"]


def test_neither_a_key_nor_a_sas_token_is_in_the_log(
    gateway: Gateway, trees: dict[str, Any], projects: dict[str, Any]
) -> None:
    log = gateway.log.read_text()
    assert '"path": "/computervision/models/trees"' in log
    assert '"caller": "key:migrated"' in log
    assert gateway.key not in log
    assert "secret" not in log
