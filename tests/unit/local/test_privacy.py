"""What a suite on one machine keeps from its other users."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from services.kit.settings import Settings
from sightline.local import claims, nats, nats_users, signing
from sightline.local.processes import Child, Program
from sightline.local.programs import Layout, service_programs
from tests.support.layouts import layout_of


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_folders_of_a_suite_are_closed_to_others_even_if_they_were_open(tmp_path: Path) -> None:
    data = tmp_path / "suite"
    (data / "store").mkdir(parents=True)
    (data / "store").chmod(0o755)
    claims.make_private(data, with_store=True)
    assert {path.name for path in data.iterdir()} == claims.FOLDERS
    assert {mode(path) for path in data.iterdir()} == {0o700}


def test_a_folder_whose_path_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(claims.StackError, match=r"suite\\udcff is not UTF-8; choose another folder with --data"):
        claims.lock_folder(tmp_path / os.fsdecode(b"suite\xff"))


def test_a_new_folder_and_files_with_secrets_are_closed_too(tmp_path: Path) -> None:
    data = tmp_path / "suite"
    claims.lock_folder(data).close()
    assert mode(data) == 0o700
    assert mode(data / "lock") == 0o600
    old = data / "nats.conf"
    old.write_text("open to all")
    old.chmod(0o644)
    claims.write(old, "password")
    assert (old.read_text(), mode(old)) == ("password", 0o600)


async def test_what_the_programs_write_is_their_user_s_own(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        done = tmp_path / "done"

        async def ready() -> bool:
            return done.exists()

        program = Program("touch", (sys.executable, "-c", f"open({str(done)!r}, 'w')"), ready)
        child = Child(program, tmp_path / "log", lambda _: None)
        await child.start()
        async with asyncio.timeout(20):
            while not await ready():  # noqa: ASYNC110 - a file of another process
                await asyncio.sleep(0.01)
        await child.stop(1.0)
    finally:
        os.umask(before)
    assert mode(done) == mode(tmp_path / "log") == 0o600


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return layout_of(tmp_path, nats_users.kept_passwords(tmp_path / "passwords.json"), workers=2)


def test_each_process_logs_in_to_nats_as_its_own_user(layout: Layout) -> None:
    programs = service_programs(layout, lambda _: None)
    users = {program.name: program.environment.get("SIGHTLINE_NATS_USER") for program in programs}
    assert users == {
        "dataset": "dataset-api",
        "dataset-worker": "dataset-worker",
        "trainer": "trainer-api",
        "trainer-worker-1": "trainer-worker",
        "trainer-worker-2": "trainer-worker",
        "predictor": "predictor",
        "gateway": None,
        "predictor-worker": "predictor-worker",
    }
    for program in programs:
        secrets = set(layout.nats_passwords.values()) & set(program.environment.values())
        user = users[program.name]
        assert secrets == ({layout.nats_passwords[user]} if user else set())


def test_a_full_disk_costs_no_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / nats_users.FILE
    kept = nats_users.kept_passwords(file)
    assert (mode(file), nats_users.kept_passwords(file)) == (0o600, kept)
    monkeypatch.setattr(nats_users, "USERS", (*nats_users.USERS, "one-more"))
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patched:
        patched.setattr(os, "open", lambda *_: os.dup(full.fileno()))
        with pytest.raises(OSError, match="No space left"):
            nats_users.kept_passwords(file)
    assert kept.items() < nats_users.kept_passwords(file).items()
    file.write_text("")
    assert nats_users.kept_passwords(file).keys() > kept.keys()


def test_the_server_s_configuration_lets_nobody_in_without_a_password() -> None:
    passwords = {user: f"of {user}" for user in (*nats_users.USERS, nats_users.ADMIN)}
    text = nats.configuration(4222, (2, 10, 0), nats_users.authorization(passwords))
    assert text.count("{user: ") == text.count("password: ") == len(passwords)
    assert "no_auth_user" not in text


def test_the_audit_is_kept_in_a_suite_s_folder_even_if_that_has_a_comma(layout: Layout, tmp_path: Path) -> None:
    placed = replace(layout, data=tmp_path / "new, of today")
    programs = {program.name: program for program in service_programs(placed, lambda _: None)}
    settings = Settings(audit=programs["dataset"].environment["SIGHTLINE_AUDIT"])
    assert settings.audit_sinks == (str(placed.data / "audit" / "dataset.jsonl"), "nats")


def test_a_new_suite_signs_its_models_and_only_trainer_workers_have_the_private_key(layout: Layout) -> None:
    signing.keep(layout.data, used_before=False)
    keys = layout.data / "keys"
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    signing.keep(layout.data, used_before=True)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before
    assert (mode(keys), mode(keys / "signing-key.pem")) == (0o700, 0o600)
    programs = {program.name: program.environment for program in service_programs(layout, lambda _: None)}
    workers, readers = {"trainer-worker-1", "trainer-worker-2"}, {"predictor", "predictor-worker"}
    with_key = {name for name, environment in programs.items() if "SIGHTLINE_SIGNING_KEY_FILE" in environment}
    checking = {name for name, environment in programs.items() if "SIGHTLINE_BUNDLE_KEY" in environment}
    assert (with_key, checking) == (workers, workers | readers)
    assert {programs[name]["SIGHTLINE_BUNDLE_SIGNATURES"] for name in checking} == {"require"}


def test_a_suite_of_an_earlier_version_accepts_its_unsigned_models(layout: Layout) -> None:
    (layout.data / "keys").mkdir()
    (layout.data / "keys" / "signing-key.pem").write_text("of a start that was interrupted")
    signing.keep(layout.data, used_before=True)
    programs = {program.name: program.environment for program in service_programs(layout, lambda _: None)}
    assert programs["predictor"]["SIGHTLINE_BUNDLE_SIGNATURES"] == "accept"


def test_keys_of_whoever_starts_a_suite_replace_its_own(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    signing.keep(layout.data, used_before=False)
    monkeypatch.setenv("SIGHTLINE_BUNDLE_KEY", str(tmp_path / "mine.pem"))
    programs = {program.name: program.environment for program in service_programs(layout, lambda _: None)}
    assert "SIGHTLINE_SIGNING_KEY_FILE" not in programs["trainer-worker-1"]
    assert programs["predictor"]["SIGHTLINE_BUNDLE_KEY"] == str(tmp_path / "mine.pem")
