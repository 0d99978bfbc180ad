"""The release check: this tree states one version, and every kind of fault is found."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tools import release_check, wheels

RELEASED = (
    "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- A thing.\n\n## [0.1.0] - 2026-11-01\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the files that state the version."""
    for name in release_check.STATED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheels.ROOT / name, tmp_path / name)
    return tmp_path


def test_every_file_states_the_version_of_pyproject(root: Path) -> None:
    assert list(release_check.versions(root, wheels.version())) == []


@pytest.mark.parametrize("name", release_check.STATED)
def test_a_file_that_states_another_version_is_reported(root: Path, name: str) -> None:
    file, version = root / name, wheels.version()
    file.write_text(re.sub(rf"\b{re.escape(version)}\b", "9.9.9", file.read_text(), count=1))
    assert list(release_check.versions(root, version)) == [f"{name}: says 9.9.9, pyproject.toml says {version}"]


def test_a_release_has_fixtures_from_which_later_ones_are_upgraded(tmp_path: Path) -> None:
    version = wheels.version()
    assert list(release_check.fixtures(wheels.ROOT, version)) == []
    (fault,) = release_check.fixtures(tmp_path, version)
    assert f"tests/fixtures/releases/{version}: is missing" in fault


def test_a_file_that_no_longer_states_the_version_is_reported(root: Path) -> None:
    (root / "package.json").write_text("{}\n")
    (fault,) = release_check.versions(root, wheels.version())
    assert fault.startswith("package.json: ")


def test_a_version_that_is_not_final_is_refused(root: Path) -> None:
    assert "pyproject.toml: 0.2.0.dev1 is not MAJOR.MINOR.PATCH" in list(release_check.versions(root, "0.2.0.dev1"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (RELEASED, ""),
        (RELEASED.replace("0.2.0", "0.3.0"), "give [Unreleased] the heading `## [0.2.0] - YYYY-MM-DD`"),
        (RELEASED.replace(" - 2026-12-01", ""), "give [Unreleased] the heading `## [0.2.0] - YYYY-MM-DD`"),
        (RELEASED.replace("- A thing.\n", ""), "says nothing of 0.2.0"),
        ("# Changelog\n\n## [Unreleased]\n\n- A thing.\n", "give [Unreleased] the heading `## [0.2.0] - YYYY-MM-DD`"),
    ],
)
def test_the_changelogs_newest_release_is_dated_and_has_entries(text: str, fault: str) -> None:
    assert [fault in found for found in release_check.changelog(text, "0.2.0")] == [True] * bool(fault)


def test_the_protos_lock_contains_every_addition() -> None:
    assert list(release_check.contract()) == []
