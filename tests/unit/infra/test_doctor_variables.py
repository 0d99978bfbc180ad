"""The doctor names variables that nothing reads."""

from __future__ import annotations

import pytest

from services.infra.doctor_variables import PREFIX, check_variables, known_variables
from services.infra.findings import Report
from tests.unit.test_docs_settings import CHAPTERS


def test_every_setting_of_every_service_is_known() -> None:
    fields = {f"{PREFIX}{name.upper()}" for kind in CHAPTERS.values() for name in kind.model_fields}
    assert fields <= known_variables()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SIGHTLINE_BUKCET", "did you mean SIGHTLINE_BUCKET?"),
        ("SIGHTLINE_LOGLEVEL", "did you mean SIGHTLINE_LOG_LEVEL?"),
        ("SIGHTLINE_WHATEVER", "see docs/settings.md"),
    ],
)
async def test_a_variable_that_nothing_reads_is_named_with_the_one_that_may_be_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "x")
    report = Report("settings")
    await check_variables(report)
    (found,) = [one for one in report.findings if one.text.startswith(f"{name} ")]
    assert found.remedy.startswith(hint)


async def test_secrets_files_and_callers_variables_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "SIGHTLINE_TOKEN_FILE", "SIGHTLINE_SIGNING_KEY_FILE", "SIGHTLINE_CA", "SIGHTLINE_PROJECT"
    for name in names:
        monkeypatch.setenv(name, "x")
    report = Report("settings")
    await check_variables(report)
    assert not [one for one in report.findings if one.text.startswith(names)]
