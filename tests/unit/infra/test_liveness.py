"""A process whose event loop is stuck is noticed, and ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry

from services.infra.liveness import STEPS, Pulse
from services.infra.observe import MetricsEndpoint
from sightline.local.ports import free_ports
from tests.support.waiting import eventually

PROCESS = """
import asyncio, os, signal, time
from services.infra import observe, processes
from services.kit.settings import Settings

def get_stuck():
    time.sleep(60)

async def main(stop):
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, get_stuck)
    with observe.measured("test", Settings(metrics_port={port}, loop_stuck_seconds={seconds})):
        await stop.wait()

observe.configure_logging("test")
processes.run(main)
"""


def until(holds: Callable[[], bool]) -> None:
    asyncio.run(eventually(holds))


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def process(port: int, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs as the services do; SIGUSR1 blocks its event loop for a minute."""
    source = PROCESS.format(port=port, seconds=getattr(request, "param", 3))
    with subprocess.Popen([sys.executable, "-c", source], stderr=subprocess.PIPE) as running:
        until(lambda: live(port) == 200)
        yield running
        running.kill()


def live(port: int) -> int:
    """The status that a probe gets; 0 if nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/live", timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_stuck_loop_fails_the_probe_and_ends_the_process_with_its_stack_in_the_log(process, port):
    process.send_signal(signal.SIGUSR1)
    until(lambda: live(port) == 503)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    line = json.loads(log.splitlines()[-1])
    assert line["event"] == "event_loop_stuck"
    assert "get_stuck" in line["stack"]


@pytest.mark.parametrize("process", [1], indirect=True)
def test_a_process_that_was_paused_does_not_count_as_stuck(process, port):
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.3)  # longer than a stuck loop may take
    os.kill(process.pid, signal.SIGCONT)
    until(lambda: live(port) == 200)
    assert process.poll() is None


@pytest.mark.parametrize("stuck_seconds", [0, 3600])
async def test_a_loop_that_misses_checks_is_late_then_stuck_and_recovers_if_it_runs_again(stuck_seconds):
    ended = []
    with closing(Pulse(stuck_seconds, lambda: ended.append(True))) as pulse:
        for _ in range(STEPS // 3):
            pulse.look()
        assert not pulse.is_late
        for _ in range(STEPS - STEPS // 3):
            pulse.look()
        assert pulse.is_late
        assert not ended
        pulse.look()
        pulse.look()
        assert bool(ended) is bool(stuck_seconds)
        pulse._beat()
        pulse.look()
        assert not pulse.is_late


async def test_live_does_not_replace_the_metrics():
    late = False
    with closing(MetricsEndpoint(CollectorRegistry(), "127.0.0.1", 0, lambda: late)) as endpoint:
        assert await asyncio.to_thread(live, endpoint.port) == 200
        late = True
        assert await asyncio.to_thread(live, endpoint.port) == 503
        with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{endpoint.port}/metrics") as answer:
            assert answer.status == 200
