"""`sightline up`: continues with its data, restarts processes, refuses a second instance, leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sightline.client.transport.addresses import Addresses
from sightline.demo.digits import DigitSet
from tests.e2e.conftest import COMMAND, START_SECONDS, Command
from tests.support.processes import command_line, descendants, is_alive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Up:
    """`sightline up` on a folder, as a process."""

    def __init__(self, folder: Path, base_port: int, command: Path = COMMAND) -> None:
        self.folder, self.base_port, self.command = folder, base_port, command
        self.log = folder.parent / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("wb") as output:
            words = [self.command, "up", "--data", self.folder, "--base-port", str(self.base_port)]
            self.process = subprocess.Popen(words, stdout=output, stderr=output)
        until(lambda: "Ctrl-C" in self.log.read_text(), self.log)

    def end(self, number: signal.Signals) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(60)

    def children(self) -> list[int]:
        """All descendants of the process."""
        assert self.process
        return descendants(self.process.pid)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path / 'my "data", new', four_free_ports())
    made.start()
    yield made
    if made.process and made.process.poll() is None:
        made.end(signal.SIGTERM)


def test_a_second_up_continues_with_all_data(up: Up, images: tuple[DigitSet, DigitSet], tmp_path: Path) -> None:
    sightline = Command(Addresses(*(f"127.0.0.1:{up.base_port + n}" for n in range(3))), tmp_path)
    gateway = f"http://127.0.0.1:{up.base_port + 3}"
    assert f"{gateway}/studio" in up.log.read_text()
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{gateway}/openapi.json") as answer:
        assert json.load(answer)["paths"]
    words = ("--kind", "classification", "--coco", images[1].coco, "--wait", "--json")
    before = sightline("datasets", "create", "kept", *words).json
    children = up.children()
    assert up.end(signal.SIGINT) == 0
    assert not [pid for pid in children if is_alive(pid)]
    assert "127.0.0.1" in sightline("datasets", "list", code=14).err
    up.start()
    after = sightline("datasets", "show", "kept", "--json").json
    assert after["snapshotDigest"] == before["snapshotDigest"]
    assert after["state"] == "READY"


def test_a_second_up_on_the_same_folder_is_refused_while_the_first_runs(up: Up) -> None:
    words = [COMMAND, "up", "--data", up.folder, "--base-port", "0"]
    second = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert up.process
    assert str(up.process.pid) in second.stderr
    assert "--data" in second.stderr


def test_ports_in_use_are_reported_before_anything_starts(up: Up, tmp_path: Path) -> None:
    words = [COMMAND, "up", "--data", tmp_path / "other", "--base-port", str(up.base_port)]
    second = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"{up.base_port} (dataset)" in second.stderr
    assert "--base-port" in second.stderr
    assert not (tmp_path / "other" / "logs").exists()


def test_a_child_that_dies_is_restarted_and_none_outlives_a_killed_parent(up: Up) -> None:
    victim = next(pid for pid in up.children() if "services.dataset api" in command_line(pid))
    os.kill(victim, signal.SIGKILL)
    until(lambda: "dataset died (SIGKILL)" in up.log.read_text(), up.log)
    until(lambda: any("services.dataset api" in command_line(pid) for pid in up.children()), up.log)
    children = up.children()
    up.end(signal.SIGKILL)
    until(lambda: not [pid for pid in children if is_alive(pid)], up.log)


def until(holds: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def four_free_ports() -> int:
    """The first of four consecutive free ports."""
    for base in range(21000 + os.getpid() % 500 * 10, 32000, 7):
        try:
            for port in range(base, base + 4):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


def test_the_command_prints_json_and_nothing_else(up: Up, tmp_path: Path) -> None:
    sightline = Command(Addresses(*(f"127.0.0.1:{up.base_port + n}" for n in range(3))), tmp_path)
    assert json.loads(sightline("datasets", "list", "--json").out) == {"datasets": [], "nextPageToken": ""}
    assert json.loads(sightline("models", "list", "--json").out) == {"models": [], "nextPageToken": ""}
