"""The nats-server of one machine: its configuration, and the error if it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.local import nats


def test_a_server_that_knows_sync_interval_is_configured_to_flush_every_write() -> None:
    assert "sync_interval: always" in nats.configuration(4222, (2, 10, 0))
    assert "sync_interval" not in nats.configuration(4222, (2, 9, 10))
    assert 'listen: "127.0.0.1:4222"' in nats.configuration(4222, ())


def test_a_folder_of_any_name_can_be_the_server_s() -> None:
    odd = Path('/d/a "b"\\c, {é}')
    assert nats.command("nats-server", odd / "nats.conf", odd / "store")[-1] == str(odd / "store")
    assert "/d/" not in nats.configuration(4222, (2, 10, 0)), "where it would need quotes"


def program(folder: Path, version: str) -> Path:
    """A program that says that it is nats-server of a version."""
    folder.mkdir()
    file = folder / "nats-server"
    file.write_text(f"#!/bin/sh\necho nats-server: v{version}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Where a server is looked for, all empty: beside Python, on PATH, and where systems have servers."""
    made = {name: tmp_path / name for name in ("python", "path", "system")}
    monkeypatch.setattr(nats.sysconfig, "get_path", lambda _: str(made["python"]))
    monkeypatch.setenv("PATH", f"{made['path']}:/bin")
    monkeypatch.setattr(nats, "_SERVER_PATH", str(made["system"]))
    return made


def test_the_server_of_the_extra_precedes_those_of_the_system(places: dict[str, Path]) -> None:
    for name in ("system", "path", "python"):
        expected = program(places[name], "2.15.1")
        assert nats.find() == str(expected)


def test_a_server_that_is_too_old_is_passed_over(places: dict[str, Path]) -> None:
    program(places["path"], "2.8.4")
    with pytest.raises(nats.NatsMissing, match=r"path/nats-server is nats-server 2\.8\.4, older than 2\.9; "):
        nats.find()
    expected = program(places["system"], "2.9.10")
    assert nats.find() == str(expected)


@pytest.mark.usefixtures("places")
def test_a_missing_server_is_reported_with_how_to_install_it() -> None:
    with pytest.raises(nats.NatsMissing, match=r"not installed; .*\n.*pip install 'sightline\[local\]'"):
        nats.find()
