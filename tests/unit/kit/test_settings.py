"""Settings: which values are accepted, and how they are printed."""

import json

import pytest
from pydantic import SecretStr, ValidationError

from services.kit.settings import Settings, load


def test_neither_secrets_nor_passwords_in_urls_are_printed() -> None:
    settings = Settings(nats_url="nats://me:secret@a:1,tls://me:sec@secret@b:2", s3_secret_key=SecretStr("secret"))
    printed = settings.masked()
    assert "secret" not in printed.replace("s3_secret_key", "")
    assert json.loads(printed)["nats_url"] == "nats://**********@a:1,tls://**********@b:2"


@pytest.mark.parametrize("url", ["https://me:secret@a/keys?key=secret", "https://a/?secret#secret", "HTTPS://secret@a"])
def test_the_secrets_in_the_url_of_the_issuers_keys_are_not_printed(url: str) -> None:
    printed = Settings(auth_jwks=url, auth_issuer="i", auth_audience="a").masked()
    assert "secret" not in printed.replace("s3_secret_key", "")
    assert json.loads(printed)["auth_jwks"].lower().startswith("https://")


@pytest.mark.parametrize(
    "url", ["nats://me:se/cret@a:1", "nats://me:se#cret@a:1", "nats://a:1,me:secret@b:1", "a:1", "http://a", "nats://"]
)
def test_nats_urls_that_would_be_misread_are_refused_without_quoting_them(monkeypatch, url) -> None:
    monkeypatch.setenv("SIGHTLINE_NATS_URL", url)
    with pytest.raises(SystemExit, match="SIGHTLINE_NATS_URL: that is not `nats://host:port`") as caught:
        load(Settings)
    assert "cret" not in str(caught.value)


def test_an_unreadable_secrets_file_is_reported_with_its_variable(monkeypatch) -> None:
    monkeypatch.setenv("SIGHTLINE_S3_SECRET_KEY_FILE", "/nowhere/key")
    with pytest.raises(SystemExit, match=r"SIGHTLINE_S3_SECRET_KEY_FILE: .*No such file.*/nowhere/key"):
        load(Settings)


@pytest.mark.parametrize("host", ["unix:/run/sightline", "127.0.0.1:50051", "dns:example"])
def test_a_host_is_an_address_or_a_name_but_not_a_grpc_target(host) -> None:
    with pytest.raises(ValidationError, match="does not appear to be an IPv4 or IPv6 address"):
        Settings(host=host)


def test_the_allowed_difference_between_clocks_is_limited() -> None:
    with pytest.raises(ValidationError):
        Settings(auth_leeway_seconds=3600)
