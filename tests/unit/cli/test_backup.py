"""`sightline backup` and `restore`: what they say when they cannot work; tests/contract/test_backup.py has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.cli import backup
from sightline.local import signing
from tests.unit.cli.conftest import Command


def test_records_and_blobs_are_counted_in_words(
    sightline: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_run", lambda *_: {"records": 1, "blobs": 2, "size_bytes": 3e6, "unsettled": 1})
    ended = sightline("backup", tmp_path / "copy")
    assert "1 record and 2 blobs (3.0 MB) are in" in ended.out
    assert "1 record of running work" in ended.err


@pytest.mark.parametrize("action", ["backup", "restore"])
def test_without_a_store_the_error_says_what_to_set(
    action: str, sightline: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = sightline(action, tmp_path / "copy")
    assert ended.code == 1
    assert "set SIGHTLINE_STORE_DIRECTORY, or SIGHTLINE_S3_ENDPOINT" in ended.err
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_is_of_no_suite_is_not_copied(sightline: Command, tmp_path: Path) -> None:
    ended = sightline("backup", tmp_path / "copy", "--data", tmp_path)
    assert ended.code == 1
    assert "is not the folder of a suite" in ended.err


def test_what_is_no_backup_makes_no_suite(sightline: Command, tmp_path: Path) -> None:
    ended = sightline("restore", tmp_path / "copy", "--data", tmp_path / "suite")
    assert ended.code == 1
    assert "is no complete backup: it has no backup.json" in ended.err
    assert not (tmp_path / "suite").exists()


def test_a_folder_with_other_keys_is_refused_and_keeps_them(sightline: Command, tmp_path: Path) -> None:
    suite, copy = tmp_path / "suite", tmp_path / "copy"
    for folder in (suite, copy):
        folder.mkdir()
        signing.keep(folder, used_before=False)
    (copy / "backup.json").write_text("{}")
    kept = {path.name: path.read_bytes() for path in (suite / "keys").iterdir()}
    ended = sightline("restore", copy, "--data", suite)
    assert ended.code == 1
    assert "has keys that did not sign the models of this backup; use a new folder" in " ".join(ended.err.split())
    assert {path.name: path.read_bytes() for path in (suite / "keys").iterdir()} == kept
