"""The file of quotas: what it may say, and that it counts as soon as it is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.infra.quota_file import QuotasUnusable, limits_of, parse
from services.kit.quotas import Limits
from services.kit.settings import Settings
from tests.support.logs import captured_log, events

SETTINGS: dict[str, Any] = {
    "max_project_datasets": 10,
    "max_project_models": 20,
    "max_project_compute_seconds": 30,
}
DEFAULTS = Limits(datasets=10, models=20, storage_bytes=4 << 40, compute_seconds=30)


def test_without_a_file_every_project_has_the_limits_of_the_settings() -> None:
    assert limits_of(Settings(**SETTINGS))("acme") == DEFAULTS


def test_a_file_sets_what_it_names_and_counts_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "quotas.json"
    path.write_text('{"acme": {"models": 1, "compute_seconds": 0}}')
    limits = limits_of(Settings(**SETTINGS, project_quotas=path))
    assert limits("acme") == Limits(datasets=10, models=1, storage_bytes=4 << 40, compute_seconds=0)
    assert limits("default") == DEFAULTS
    path.write_text('{"default": {"datasets": 5, "storage_bytes": 7}, "acme": {}}')
    assert limits("acme") == DEFAULTS
    assert limits("default") == Limits(datasets=5, models=20, storage_bytes=7, compute_seconds=30)


WRONG = [
    ("[]", "not JSON like"),
    ("{", "not JSON like"),
    ('{"acme": 1}', "not JSON like"),
    ('{"Acme": {}}', "'Acme' is no name of a project"),
    (
        '{"acme": {"model": 1}}',
        "acme: there is no quota 'model'; choose among datasets, models, storage_bytes, compute",
    ),
    ('{"acme": {"models": -1}}', "acme: models is -1; it must be a whole number, 0 for no limit"),
    ('{"acme": {"models": 1.5}}', "acme: models is 1.5"),
    ('{"acme": {"models": true}}', "acme: models is True"),
    ('{"acme": {"models": "1"}}', "acme: models is '1'"),
]


@pytest.mark.parametrize(("content", "says"), WRONG)
def test_a_wrong_file_keeps_the_process_from_starting_and_names_the_fault(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "quotas.json"
    path.write_text(content)
    with pytest.raises(QuotasUnusable) as refused:
        limits_of(Settings(project_quotas=path))
    assert str(refused.value).startswith("SIGHTLINE_PROJECT_QUOTAS: ")
    assert says in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuotasUnusable, match=r"quotas\.json"):
        limits_of(Settings(project_quotas=tmp_path / "quotas.json"))


@pytest.mark.parametrize(("content", "says"), WRONG)
def test_a_file_that_becomes_wrong_is_logged_once_and_the_former_limits_stay(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "quotas.json"
    path.write_text(json.dumps({"acme": {"models": 1}}))
    limits = limits_of(Settings(project_quotas=path))
    path.write_text(content)
    with captured_log() as log:
        assert [limits("acme").models for _ in range(3)] == [1, 1, 1]
    (event,) = events(log, "project_quotas_unusable")
    assert says in str(event)


def test_a_project_without_limits_of_its_own_has_none() -> None:
    assert parse(b'{"acme": {}}') == {"acme": {}}
