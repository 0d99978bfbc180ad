"""Processes that other machines could reach start with TLS and tokens, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

from sightline.client import keys
from tests.support.certificates import Authority
from tests.support.servers import NatsServer, free_port, stop, tail

ROOT = Path(__file__).parents[2]


def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a process of a service that exits immediately."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
    environment |= {f"SIGHTLINE_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", [("services.dataset", "api"), ("services.trainer", "api"), ("services.predictor",)])
def test_an_exposed_service_without_tls_and_tokens_exits_with_status_1_and_says_what_to_set(words):
    ended = run(*words, HOST="0.0.0.0")
    assert ended.returncode == 1
    assert "SIGHTLINE_TLS_CERTIFICATE and SIGHTLINE_TLS_KEY" in ended.stderr
    assert "SIGHTLINE_AUTH_KEYS" in ended.stderr
    assert "SIGHTLINE_INSECURE=true" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
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
def test_contradictory_settings_are_reported_before_anything_starts(settings, message):
    ended = run("services.dataset", "api", **settings)
    assert (ended.returncode, message in ended.stderr) == (1, True), ended.stderr


def test_printed_settings_mask_tokens_and_credentials(tmp_path):
    (tmp_path / "token").write_text("hunter2")
    printed = run("services.dataset", "--settings", TOKEN_FILE=str(tmp_path / "token"), NATS_CREDENTIALS="hunter3")
    assert printed.returncode == 0
    assert "hunter" not in printed.stdout


class SecuredSuite:
    """A dataset and a trainer api for other machines: mutual TLS, tokens, and NATS over TLS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"dataset": free_port(), "trainer": free_port()}
        authority = Authority()
        pair = authority.pair().write(folder)
        self.ca = str(authority.write(folder))
        self.token, line = keys.make("admin", "admin")
        service_token, service_line = keys.make("trainer-service", "viewer")
        (folder / "keys").write_text(f"{line}\n{service_line}\n")
        (folder / "service-token").write_text(service_token)
        self.pair = {"certificate": str(pair[0]), "key": str(pair[1])}
        files = 'cert_file: "{certificate}", key_file: "{key}"'.format(**self.pair)
        self.nats = NatsServer(folder / "nats", config=f'tls {{ {files}, ca_file: "{self.ca}", verify: true }}')
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.nats.start()
        for service in self.ports:
            self._start(service)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            stop(process)
        self.nats.stop()

    def _start(self, service: str) -> None:
        settings = {
            "HOST": "0.0.0.0",
            "PORT": str(self.ports[service]),
            "DRAIN_SECONDS": "0",
            "STORE_DIRECTORY": str(self.folder / "store"),
            "DATASET_ADDRESS": f"localhost:{self.ports['dataset']}",
            "TLS_CERTIFICATE": self.pair["certificate"],
            "TLS_KEY": self.pair["key"],
            "TLS_CLIENT_CA": self.ca,
            "AUTH_KEYS": str(self.folder / "keys"),
            "TLS_CA": self.ca,
            "TLS_CLIENT_CERTIFICATE": self.pair["certificate"],
            "TLS_CLIENT_KEY": self.pair["key"],
            "TOKEN_FILE": str(self.folder / "service-token"),
            "NATS_URL": self.nats.url,
            "NATS_CA": self.ca,
            "NATS_CERTIFICATE": self.pair["certificate"],
            "NATS_KEY": self.pair["key"],
        }
        environment = os.environ | {f"SIGHTLINE_{name}": value for name, value in settings.items()}
        command = [sys.executable, "-m", f"services.{service}", "api"]
        with (self.folder / f"{service}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))

    def caller(self, **changes: str) -> dict[str, str]:
        """The command's settings; "" unsets one."""
        return {
            **{f"{name.upper()}_ADDRESS": f"localhost:{port}" for name, port in self.ports.items()},
            "CA": self.ca,
            "CLIENT_CERTIFICATE": self.pair["certificate"],
            "CLIENT_KEY": self.pair["key"],
            "TOKEN": self.token,
            **changes,
        }

    def await_services(self) -> None:
        """Returns once both answer the command."""
        for words in (("datasets", "list"), ("models", "list")):
            message, deadline = "not asked", time.monotonic() + 60
            while message:
                listed = run("sightline", *words, **self.caller())
                message = listed.stderr if listed.returncode else ""
                if time.monotonic() > deadline:
                    raise AssertionError("\n".join([message, *map(tail, self.folder.glob("*.log"))]))


@pytest.mark.slow
def test_an_exposed_suite_works_with_tls_and_tokens_everywhere(tmp_path):
    with SecuredSuite(tmp_path) as suite:
        suite.await_services()
        train = ("sightline", "models", "train", "m", "--dataset", "nowhere", "--kind", "classifier", "--budget", "10m")
        asked = run(*train, **suite.caller())
        assert asked.returncode == 5, asked.stderr
        assert "datasetNotFound" in asked.stderr  # so the trainer was admitted by the dataset service

        nobody = run("sightline", "datasets", "list", **suite.caller(TOKEN=""))
        assert nobody.returncode == 16
        assert "needs a token of the role viewer: the call has none" in nobody.stderr
        assert "fix: set SIGHTLINE_TOKEN" in nobody.stderr

        viewer, line = keys.make("viewer", "viewer")
        with (tmp_path / "keys").open("a") as file:
            file.write(line + "\n")
        refused = run(*train, **suite.caller(TOKEN=viewer))
        assert refused.returncode == 7
        assert "CreateModel needs the role trainer; viewer has viewer" in refused.stderr
        assert "ask the operator of the services for a token with the role trainer" in refused.stderr

        bare = run("sightline", "datasets", "list", **suite.caller(CLIENT_CERTIFICATE="", CLIENT_KEY=""))
        assert bare.returncode == 14
        assert "SIGHTLINE_CLIENT_CERTIFICATE and SIGHTLINE_CLIENT_KEY" in bare.stderr
        stranger = run("sightline", "datasets", "list", **suite.caller(CA=str(Authority().write(tmp_path, "other"))))
        assert "set SIGHTLINE_CA to the right one" in stranger.stderr
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert '"caller": "key:trainer-service"' in logs
    assert viewer not in logs
    assert suite.token not in logs
