"""Processes that other machines could reach: they start with TLS and tokens, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A process of a service that ends at once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
    environment |= {f"SIGHTLINE_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", [("services.dataset", "api"), ("services.trainer", "api"), ("services.predictor",)])
def test_a_service_for_other_machines_without_tls_and_tokens_ends_with_status_1_and_says_what_to_set(words):
    ended = run(*words, HOST="0.0.0.0")
    assert ended.returncode == 1
    assert "SIGHTLINE_TLS_CERTIFICATE and SIGHTLINE_TLS_KEY" in ended.stderr
    assert "SIGHTLINE_AUTH_KEYS" in ended.stderr
    assert "SIGHTLINE_INSECURE=true" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"TLS_KEY": "/x"}, "set both SIGHTLINE_TLS_CERTIFICATE and _KEY"),
        ({"TLS_CLIENT_CA": "/x"}, "SIGHTLINE_TLS_CLIENT_CA needs SIGHTLINE_TLS_CERTIFICATE"),
        ({"AUTH_JWKS": "/x"}, "needs SIGHTLINE_AUTH_ISSUER and SIGHTLINE_AUTH_AUDIENCE"),
        ({"AUTH_ISSUER": "x"}, "need SIGHTLINE_AUTH_JWKS"),
        ({"AUTH_JWKS": "http://x", "AUTH_ISSUER": "x", "AUTH_AUDIENCE": "x"}, "use https://"),
        ({"AUTH_ALGORITHMS": "RS256,none"}, "SIGHTLINE_AUTH_ALGORITHMS: none is not allowed"),
        ({"AUTH_ALGORITHMS": "HS256"}, "SIGHTLINE_AUTH_ALGORITHMS: HS256 is not allowed"),
    ],
)
def test_settings_that_contradict_one_another_are_told_before_anything_starts(settings, said):
    ended = run("services.dataset", "api", **settings)
    assert (ended.returncode, said in ended.stderr) == (1, True), ended.stderr


def test_printed_settings_mask_tokens_and_credentials(tmp_path):
    (tmp_path / "token").write_text("hunter2")
    printed = run("services.dataset", "--settings", TOKEN_FILE=str(tmp_path / "token"), NATS_CREDENTIALS="hunter3")
    assert printed.returncode == 0
    assert "hunter" not in printed.stdout
