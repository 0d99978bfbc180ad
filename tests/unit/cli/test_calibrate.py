"""`sightline calibrate` without the services, and what it says with them."""

from __future__ import annotations

import pytest

from sightline.cli import calibrate
from tests.unit.cli.conftest import Command


def test_without_the_services_it_says_what_to_install(sightline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "find_spec", lambda name: None if name == "torch" else object())
    outcome = sightline("calibrate")
    assert outcome.code == 1
    assert "torch missing" in outcome.err
    assert "sightline-services[all]" in outcome.err
