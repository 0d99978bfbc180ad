"""`sightline keys`, and how the command reaches services that ask for TLS and tokens."""

from __future__ import annotations

import pytest

from services.infra.static_keys import parse
from services.kit.roles import Role
from services.kit.telemetry import MemoryTelemetry
from services.vision.signatures import SignatureRule
from services.vision.signing import Signer, Verifier
from sightline.client.keys import PREFIX, digest
from sightline.client.transport.credentials import VARIABLES, Credentials
from sightline.local.programs import environment
from tests.support.certificates import Authority
from tests.support.layouts import layout_of


def test_a_key_is_printed_once_and_the_services_accept_its_line(sightline):
    made = sightline("keys", "make", "ci-runner", "--role", "trainer")
    key, line = made.out.splitlines()
    assert key.startswith(PREFIX)
    assert key not in line
    (caller,) = parse(line.encode()).values()
    assert (caller.subject, caller.roles) == ("ci-runner", {Role.TRAINER})
    assert digest(key) in line
    assert "SIGHTLINE_AUTH_KEYS" in made.err


def test_the_line_is_added_to_the_file_and_only_the_key_is_printed(sightline, tmp_path):
    file = tmp_path / "keys"
    keys = [sightline("keys", "make", name, "--role", "viewer", "--file", file).out.strip() for name in ("a", "b")]
    assert list(parse(file.read_bytes())) == [digest(key) for key in keys]
    assert file.stat().st_mode & 0o007 == 0


def test_an_invalid_name_is_refused_and_nothing_is_written(sightline, tmp_path):
    file = tmp_path / "keys"
    made = sightline("keys", "make", "two words", "--role", "viewer", "--file", file)
    assert (made.code, made.out) == (2, "")
    assert "'two words' is not a valid name" in made.err
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_a_local_error(sightline, tmp_path):
    made = sightline("keys", "make", "a", "--role", "viewer", "--file", tmp_path / "nowhere" / "keys")
    assert (made.code, made.out) == (1, "")


def test_a_token_is_not_sent_in_plain_text_to_another_machine(sightline, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_DATASET_ADDRESS", "services.example:50051")
    monkeypatch.setenv("SIGHTLINE_TOKEN", "hunter2")
    outcome = sightline("datasets", "list")
    assert outcome.code == 2
    assert "set SIGHTLINE_CA to the services' CA" in outcome.err
    assert "hunter2" not in outcome.err


@pytest.mark.parametrize("token", ["hünter2", "hunter\n2", "hunter 2", " "])
def test_a_malformed_token_is_refused_before_any_call_and_not_quoted(sightline, monkeypatch, token):
    monkeypatch.setenv("SIGHTLINE_TOKEN", token)
    outcome = sightline("datasets", "list")
    assert outcome.code == 2
    assert "expected a token, which is one word of ASCII; see SIGHTLINE_TOKEN" in outcome.err
    assert "nter" not in outcome.err


@pytest.mark.usefixtures("quick_retries")
def test_tls_to_services_without_it_says_which_setting_to_leave_out(sightline, monkeypatch, tmp_path):
    monkeypatch.setenv("SIGHTLINE_CA", str(Authority().write(tmp_path)))
    outcome = sightline("datasets", "list")
    assert outcome.code == 14
    assert "fix: the service does not use TLS: unset SIGHTLINE_CA" in outcome.err


def test_a_missing_ca_file_is_reported_with_its_variable(sightline, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CA", "/nowhere/ca.crt")
    outcome = sightline("datasets", "list")
    assert (outcome.code, "/nowhere/ca.crt" in outcome.err, "SIGHTLINE_CA" in outcome.err) == (2, True, True)


def test_credentials_come_from_the_environment():
    values = {variable: f"the {field}" for field, variable in VARIABLES.items()} | {"SIGHTLINE_INSECURE": "true"}
    found = Credentials.from_environment(values)
    assert (found.ca, found.certificate, found.key) == ("the ca", "the certificate", "the key")
    assert (found.token, found.token_file, found.insecure) == ("the token", "the token_file", True)
    assert found.project == "the project"
    assert Credentials.from_environment({}) == Credentials()


def test_a_shells_settings_for_another_suite_do_not_reach_this_suites_processes(monkeypatch, tmp_path):
    for name in ("TOKEN", "TOKEN_FILE", "TLS_CERTIFICATE", "AUTH_KEYS", "NATS_CA", "INSECURE"):
        monkeypatch.setenv(f"SIGHTLINE_{name}", "of another suite")
    monkeypatch.setenv("SIGHTLINE_LOG_LEVEL", "DEBUG")
    layout = layout_of(tmp_path, {"dataset-api": "x"}, environment={"SIGHTLINE_AUTH_KEYS": "meant for this one"})
    found = environment(layout, "dataset", {})
    assert "of another suite" not in found.values()
    assert found["SIGHTLINE_AUTH_KEYS"] == "meant for this one"
    assert found["SIGHTLINE_LOG_LEVEL"] == "DEBUG"


def test_a_key_can_be_for_projects(sightline, tmp_path):
    file = tmp_path / "keys"
    made = sightline("keys", "make", "a", "--role", "viewer", "--project", "acme", "--project", "b", "--file", file)
    assert made.code == 0
    assert file.read_text().rstrip().endswith(" acme,b")
    wrong = sightline("keys", "make", "a", "--role", "viewer", "--project", "Acme", "--file", file)
    assert (wrong.code, "'Acme' is not a valid project" in wrong.err) == (2, True)


def test_a_command_acts_in_the_project_of_its_option(sightline, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_PROJECT", "umbrella")
    assert sightline("--project", "acme", "keys", "make", "a", "--role", "viewer").code == 0
    assert Credentials.from_environment().project == "acme"


def test_a_pair_of_signing_keys_is_written_once_and_fits(sightline, tmp_path):
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    words = ("keys", "signing", "--private", private, "--public", public)
    assert sightline(*words).code == 0
    assert private.stat().st_mode & 0o777 == 0o600
    signer = Signer.of(private.read_text())
    assert signer
    Verifier.of(public, SignatureRule.REQUIRE, MemoryTelemetry()).check("m", "v", "d", signer.sign("m", "d"))
    before = private.read_bytes()
    again = sightline(*words)
    assert (again.code, "exists" in again.err, private.read_bytes()) == (1, True, before)
