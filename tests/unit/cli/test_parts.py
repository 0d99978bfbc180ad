"""The parts of the command that need no service: nats-server's settings, uploads, the digits, children."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sightline import digits, nats, uploads
from sightline.processes import Child, Died, Program
from sightline.uploads import LocalFile


def test_a_server_that_knows_sync_interval_is_told_to_write_at_once() -> None:
    assert "sync_interval: always" in nats.configuration(4222, Path("/d"), (2, 10, 0))
    assert "sync_interval" not in nats.configuration(4222, Path("/d"), (2, 9, 10))
    assert 'listen: "127.0.0.1:4222"' in nats.configuration(4222, Path("/d"), ())


def test_a_missing_server_is_answered_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats.shutil, "which", lambda *_, **__: None)
    with pytest.raises(nats.NatsMissing, match="apt-get install nats-server"):
        nats.find()


def test_uploads_go_in_batches_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BATCH_BYTES", 10)
    files = [LocalFile(str(number), tmp_path / str(number)) for number in range(5)]
    for file in files:
        file.file.write_bytes(b"12345")
    assert [len(batch) for batch in uploads.batches(files)] == [2, 2, 1]


def test_images_that_lie_in_the_store_already_are_not_looked_for(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "s3://sightline/a.png"},
        {"id": 2, "file_name": "b.png", "coco_url": "s3://sightline/b.png"},
        {"id": 3, "file_name": "./c.png", "coco_url": "http://images.example/c.png"},
    ]
    (tmp_path / "c.png").write_bytes(b"")
    coco = tmp_path / "coco.json"
    coco.write_text("\ufeff" + json.dumps({"images": images}))
    assert [file.path for file in uploads.files_of(coco)] == ["coco.json", "c.png"]


def test_the_digits_split_is_stratified_and_always_the_same(tmp_path: Path) -> None:
    train, test = digits.write(tmp_path / "a", digits=2, per_digit=10)
    assert sorted(test.truth.values()) == ["one"] * 2 + ["zero"] * 2
    assert sorted(train.truth.values()) == ["one"] * 8 + ["zero"] * 8
    digits.write(tmp_path / "b", digits=2, per_digit=10)
    for file in (tmp_path / "a").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


async def test_a_program_that_dies_is_started_again_and_its_last_words_are_told(tmp_path: Path) -> None:
    told: list[Died] = []
    child = Child(_program("import sys; print('alas', flush=True); sys.exit(3)"), tmp_path / "p.log", told.append)
    await child.start()
    while len(told) < 2:
        await _turn()
    await child.stop(1.0)
    assert told[0].how == "status 3"
    assert told[0].last_words == "alas"
    assert told[1].pause_seconds == 2 * told[0].pause_seconds
    assert child.pid is None


async def test_a_program_that_will_not_end_is_killed_after_the_grace(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    )
    child = Child(_program(stubborn), tmp_path / "p.log", lambda _: None)
    await child.start()
    while not child.last_words():
        await _turn()
    await child.stop(0.1)
    assert child.pid is None
    assert child.deaths == 0


async def test_a_long_log_is_set_aside_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.processes.MAX_LOG_BYTES", 5)
    log = tmp_path / "p.log"
    log.write_text("much too long\n")
    child = Child(_program("print('new', flush=True); import time; time.sleep(99)"), log, lambda _: None)
    await child.start()
    while not child.last_words():
        await _turn()
    await child.stop(1.0)
    assert log.read_text() == "new\n"
    assert (tmp_path / "p.log.1").read_text() == "much too long\n"


def _program(code: str) -> Program:
    async def ready() -> bool:
        return True

    return Program("p", (sys.executable, "-c", code), ready)


async def _turn() -> None:
    """Lets the others go on for a moment."""
    import asyncio

    await asyncio.sleep(0.01)
