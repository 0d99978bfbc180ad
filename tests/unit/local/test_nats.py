"""The nats-server of one machine: its configuration, and the error if it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.local import nats


def test_a_server_that_knows_sync_interval_is_configured_to_flush_every_write() -> None:
    assert "sync_interval: always" in nats.configuration(4222, Path("/d"), (2, 10, 0))
    assert "sync_interval" not in nats.configuration(4222, Path("/d"), (2, 9, 10))
    assert 'listen: "127.0.0.1:4222"' in nats.configuration(4222, Path("/d"), ())


def test_a_missing_server_is_reported_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats.shutil, "which", lambda *_, **__: None)
    with pytest.raises(nats.NatsMissing, match="apt-get install nats-server"):
        nats.find()
