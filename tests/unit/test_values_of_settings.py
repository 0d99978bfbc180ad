"""Which values of settings are refused, whichever service has the setting."""

from __future__ import annotations

import pytest

from services.infra.doctor import DoctorSettings
from services.kit.settings import UNITS, Settings, load
from tests.unit.test_docs_settings import CHAPTERS

KINDS = (*CHAPTERS.values(), DoctorSettings)
NUMBERS = {
    (kind, name)
    for kind in KINDS
    for name, field in kind.model_fields.items()
    if field.annotation is int or field.annotation is float
}
DURATIONS = {(kind, name) for kind, name in NUMBERS if name.rpartition("_")[2] in UNITS and "compute" not in name}


def refusal(monkeypatch: pytest.MonkeyPatch, kind: type[Settings], name: str, value: str) -> str:
    """What the process says."""
    monkeypatch.setenv(f"SIGHTLINE_{name.upper()}", value)
    with pytest.raises(SystemExit) as caught:
        load(kind)
    monkeypatch.delenv(f"SIGHTLINE_{name.upper()}")
    return str(caught.value)


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "10m", "1GiB", "1,5"])
def test_numbers_that_are_none_or_below_zero_are_refused_in_every_setting(monkeypatch, value: str) -> None:
    for kind, name in NUMBERS:
        assert f"\n  SIGHTLINE_{name.upper()}: " in refusal(monkeypatch, kind, name, value)


def test_durations_that_dates_cannot_count_are_refused(monkeypatch) -> None:
    for kind, name in DURATIONS:
        said = refusal(monkeypatch, kind, name, "1e300")
        assert "more than 31 years" in said or "less than or equal" in said


@pytest.mark.parametrize("level", ["TRACE", "10", "info "])
def test_unknown_log_levels_are_refused(monkeypatch, level: str) -> None:
    assert "SIGHTLINE_LOG_LEVEL: that is none of DEBUG" in refusal(monkeypatch, Settings, "log_level", level)


def test_a_log_level_may_be_in_lower_case() -> None:
    assert Settings(log_level="debug").log_level == "debug"
