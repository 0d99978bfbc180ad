"""A training child without network and with little memory: it trains, downloads published weights, and nothing else."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

import services
from services.kit import landlock
from services.trainer.engine.confine import confine
from services.trainer.messages import Failed, Message, Result, TrainTask
from services.trainer.settings import TrainerSettings
from services.trainer.worker.child_pool import COMMAND, Child, ChildPool
from services.trainer.worker.workspace import cleared
from tests.support.logs import captured_log, events
from tests.support.processes import children, is_alive
from tests.support.waiting import eventually
from tests.unit.trainer.engine.shapes import linear_recipe, task_for, tuning_recipe, write_snapshot

MODULE = "services.trainer.engine.confine"
BODY = bytes(range(256)) * 9_000  # more than a chunk


async def taken(*limits: str) -> Child:
    """A real child with these limits."""
    return await ChildPool(1, (*COMMAND, "cpu", "1", *limits)).take()


def require_isolation(child: Child) -> None:
    if child.ready.network == "refused":
        pytest.skip("this system allows no network of one's own")


def _network(process: int | str) -> str:
    return str(Path(f"/proc/{process}/ns/net").readlink())


async def test_a_child_without_network_and_secrets_trains_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SIGHTLINE_S3_SECRET_KEY", "SIGHTLINE_SIGNING_KEY_FILE", "SIGHTLINE_NATS_PASSWORD"):
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("SIGHTLINE_NATS_URL", "nats://me:hush@localhost")
    with captured_log() as stream:
        child = await taken("none", "0")
    try:
        require_isolation(child)
        of = Path(f"/proc/{child.pid}")
        assert b"hush" not in (of / "environ").read_bytes()
        assert _network(child.pid) != _network("self")
        (limit,) = re.findall(r"Max data size +(\d+)", (of / "limits").read_text())
        assert int(limit) == child.ready.memory_limit_bytes > 0
        (helper,) = children(child.pid)
        assert _network(helper) == _network("self")
        task = task_for(write_snapshot(tmp_path / "snapshot"), linear_recipe())
        last = [message async for message in _until_its_end(child, task)][-1]
        assert isinstance(last, Result)
        (told,) = events(stream, "training_child_confined")
        assert (told["network"], told["memory_limit_bytes"]) == ("none", int(limit))
    finally:
        await child.end()
    await eventually(lambda: not is_alive(helper))


@pytest.mark.skipif(not landlock.supported(), reason="this system has no Landlock")
@pytest.mark.parametrize("kind", ["linear", "tuning"])
async def test_a_child_that_keeps_to_its_files_trains_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, graphs: Path
) -> None:
    """With nothing to read but what a worker gives it, not even its user's HOME and the folder it was started in."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    monkeypatch.setenv("PYTHONPATH", str(Path(services.__file__).parents[1]))
    command = *COMMAND, "cpu", "1", "none", "0", str(work), str(graphs)
    with captured_log() as stream:
        child = await ChildPool(1, command, temporary=cleared(work)).take()
    try:
        assert child.ready.files == "own"
        recipe = linear_recipe() if kind == "linear" else tuning_recipe()
        task = task_for(write_snapshot(work / "snapshot"), recipe, graphs_directory=str(graphs))
        last = [message async for message in _until_its_end(child, task)][-1]
        assert isinstance(last, Result), last
        (told,) = events(stream, "training_child_confined")
        assert told["files"] == "own"
    finally:
        await child.end()
    assert list(home.iterdir()) == []


@pytest.mark.skipif(not landlock.supported(), reason="this system has no Landlock")
async def test_a_child_that_is_given_a_folder_outside_fails_and_names_it(tmp_path: Path) -> None:
    command = *COMMAND, "cpu", "1", "none", "0", str(tmp_path / "work")
    child = await ChildPool(1, command, temporary=cleared(tmp_path / "work")).take()
    try:
        task = task_for(write_snapshot(tmp_path / "snapshot"), linear_recipe())
        last = [message async for message in _until_its_end(child, task)][-1]
        assert isinstance(last, Failed)
        assert "Permission denied" in str(last)
    finally:
        await child.end()


async def _until_its_end(child: Child, task: TrainTask) -> AsyncGenerator[Message]:
    async for message in child.run(task):
        yield message
        if isinstance(message, Result | Failed):
            return


def test_what_does_not_fit_into_the_limit_is_a_lack_of_memory_that_training_knows() -> None:
    program = """
import torch
from services.kit.confinement import limit_memory
from services.vision.memory import is_out_of_memory
assert limit_memory(3 << 30)
for allocate in (lambda: torch.empty(8 << 30, dtype=torch.uint8), lambda: bytearray(8 << 30)):
    try:
        allocate()
    except (MemoryError, RuntimeError) as fault:
        print(is_out_of_memory(fault))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "True"], done.stderr


def doubled(monkeypatch: pytest.MonkeyPatch, *, gpu: bool) -> list[object]:
    """Has a confinement change nothing of this process; returns what it asks for, to which tests add."""
    asked: list[object] = []
    monkeypatch.setattr(f"{MODULE}.fetching.install", lambda: asked.append("helper"))
    monkeypatch.setattr(f"{MODULE}.confinement.limit_memory", lambda size: True)
    monkeypatch.setattr(f"{MODULE}.confinement.has_gpu", lambda: gpu)
    return asked


@pytest.mark.parametrize(
    ("device", "network", "gpu", "leaves"),
    [("auto", "auto", True, False), ("auto", "auto", False, True), ("cpu", "auto", True, True),
     ("cuda", "none", True, True), ("cpu", "shared", False, False)],
)  # fmt: skip
def test_only_a_child_that_may_use_a_gpu_keeps_the_network_by_default(
    monkeypatch: pytest.MonkeyPatch, device: str, network: str, gpu: bool, leaves: bool
) -> None:
    asked = doubled(monkeypatch, gpu=gpu)
    monkeypatch.setattr(f"{MODULE}.confinement.leave_network", lambda loopback: asked.append("left"))
    found = confine(device, network, 0)
    assert asked == (["helper", "left"] if leaves else [])
    assert found.network == ("refused" if leaves else "shared")  # the double says that the system did not let it
    assert bool(found.memory_limit_bytes) is (device == "cpu" or not gpu)


@pytest.mark.parametrize(
    ("device", "network", "gpu", "keeps"),
    [("cpu", "shared", False, True), ("auto", "none", False, True), ("cpu", "auto", True, True),
     ("auto", "none", True, False), ("cuda", "shared", True, False)],
)  # fmt: skip
def test_a_child_keeps_to_its_folders_unless_it_may_use_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, network: str, gpu: bool, keeps: bool
) -> None:
    asked = doubled(monkeypatch, gpu=gpu)
    monkeypatch.setattr(f"{MODULE}.confinement.leave_network", lambda loopback: True)
    monkeypatch.setattr(f"{MODULE}.landlock.keep_to", lambda *folders, network: asked.append((*folders, network)))
    found = confine(device, network, 0, ["/work", "/weights"])
    assert found.files == ("refused" if keeps else "all")  # the double says that the system cannot
    assert asked[1:] == ([(["/weights"], ["/work"], network == "shared")] if keeps else [])
    assert asked[:1] == (["helper"] if keeps or network == "none" else [])


@pytest.fixture
def site() -> Iterator[str]:
    """The url of a server that has one file."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/weights" else 404)
            self.end_headers()
            self.wfile.write(BODY)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_without_network_published_weights_are_downloaded_and_nothing_else(site: str) -> None:
    program = f"""
import hashlib, socket, types
from services.kit.confinement import leave_network
from services.trainer.engine import fetching
from services.vision import catalogue
known = [types.SimpleNamespace(download=types.SimpleNamespace(url=url)) for url in ("{site}/weights", "{site}/gone")]
catalogue.NETWORKS = {{"kind": {{number: row for number, row in enumerate(known)}}}}
fetching.install()
print(leave_network())
with fetching.opener()("{site}/weights") as file:
    print(hashlib.sha256(file.read()).hexdigest())
for url in ("{site}/other", "{site}/gone", "file:///etc/passwd", "{site}/weights/../../etc/passwd"):
    try:
        fetching.opener()(url)
    except OSError as fault:
        print(fault)
"""
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    left, digest, *refused = done.stdout.splitlines()
    assert left in ("True", "False")
    assert digest == hashlib.sha256(BODY).hexdigest()
    assert [("not published weights" in text, "404" in text) for text in refused] == [
        (True, False), (False, True), (True, False), (True, False)
    ]  # fmt: skip


def test_the_settings_of_a_worker_are_the_childs_arguments() -> None:
    settings = TrainerSettings()
    assert (settings.child_network, settings.child_memory_bytes) == ("auto", 0)
