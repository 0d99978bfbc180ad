"""Programs that run as children."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from sightline.local.processes import Child, Died, Program
from tests.support.waiting import eventually


async def test_a_program_that_dies_is_restarted_and_the_end_of_its_log_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightline.local.processes.PAUSE_SECONDS", (0.001, 30.0))
    deaths: list[Died] = []
    child = Child(_program("import sys; print('alas', flush=True); sys.exit(3)"), tmp_path / "p.log", deaths.append)
    await child.start()
    await eventually(lambda: len(deaths) >= 2)
    await child.stop(1.0)
    assert deaths[0].how == "status 3"
    assert deaths[0].log_tail == "alas"
    assert deaths[1].pause_seconds == 2 * deaths[0].pause_seconds
    assert child.pid is None


async def test_a_program_that_cannot_be_started_again_is_tried_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightline.local.processes.PAUSE_SECONDS", (0.001, 0.01))
    logs, deaths = tmp_path / "logs", list[Died]()
    child = Child(_program("import sys; sys.stdin.read(); sys.exit(3)"), logs / "p.log", deaths.append)
    await child.start()
    shutil.rmtree(logs)
    logs.touch()
    await eventually(lambda: len(deaths) >= 3)
    logs.unlink()
    await eventually(lambda: deaths[-1].how == "status 3")
    await child.stop(1.0)
    assert deaths[1].how == "not started: File exists"


async def test_a_program_that_does_not_stop_is_killed_after_the_grace(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    )
    child = Child(_program(stubborn), tmp_path / "p.log", lambda _: None)
    await child.start()
    await eventually(lambda: bool(child.log_tail()))
    await child.stop(0.1)
    assert child.pid is None
    assert child.deaths == 0


async def test_a_long_log_is_rotated_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.local.processes.MAX_LOG_BYTES", 5)
    log = tmp_path / "p.log"
    log.write_text("much too long\n")
    child = Child(_program("print('new', flush=True); import time; time.sleep(99)"), log, lambda _: None)
    await child.start()
    await eventually(lambda: bool(child.log_tail()))
    await child.stop(1.0)
    assert log.read_text() == "new\n"
    assert (tmp_path / "p.log.1").read_text() == "much too long\n"


def _program(code: str) -> Program:
    async def ready() -> bool:
        return True

    return Program("p", (sys.executable, "-c", code), ready)
