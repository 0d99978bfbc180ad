"""Settings of the predictor that the machine must fit."""

import pytest

from services.predictor import settings
from services.predictor.settings import PredictorSettings, refuse_missing_engine


def test_an_engine_that_is_not_installed_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = PredictorSettings(cpu_engine="openvino")
    refuse_missing_engine(chosen)
    monkeypatch.setattr(settings, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"SIGHTLINE_CPU_ENGINE is openvino.*sightline-services\[openvino\]"):
        refuse_missing_engine(chosen)
