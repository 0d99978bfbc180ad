"""The store's credentials from an STS and from a node's agent: fetched, renewed in time, replaced when refused."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from minio.credentials.providers import AssumeRoleProvider
from pydantic import ValidationError

from services.infra import s3_identity
from services.infra.s3 import S3Blobs, s3_client
from services.infra.s3_identity import EARLY, WorkloadIdentity
from services.infra.store import open_blobs
from services.kit.errors import StoreRefused, Unavailable
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry
from tests.support.certificates import replace
from tests.support.identity import TOKEN, Issuer, issuing
from tests.support.s3 import S3ServerWithKeys

ROLE = "arn:aws:iam::111122223333:role/sightline-predictor"
SOON = EARLY - timedelta(seconds=60)  # the end of credentials that are due to be renewed, and still valid


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Generator[Issuer]:
    for name in (*s3_identity.SOURCES, "AWS_ROLE_ARN", "AWS_REGION", "AWS_CONTAINER_AUTHORIZATION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with issuing() as made:
        yield made


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture(params=["web", "agent"])
def identity(
    request: pytest.FixtureRequest, issuer: Issuer, token: Path, monkeypatch: pytest.MonkeyPatch
) -> WorkloadIdentity:
    """One that asks the issuer, as an STS (IRSA and others) or as an agent (EKS Pod Identity)."""
    return WorkloadIdentity(settings_for(request.param, issuer, token, monkeypatch))


def settings_for(kind: str, issuer: Issuer, token: Path, monkeypatch: pytest.MonkeyPatch, **more: str) -> Settings:
    """The settings and the environment of a pod."""
    if kind == "agent":
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{issuer.url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
        return Settings.model_validate({"s3_workload_identity": True, **more})
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    return Settings.model_validate({"s3_workload_identity": True, "s3_sts_endpoint": issuer.url, **more})


def test_credentials_are_fetched_once_with_the_token_and_the_role(identity: WorkloadIdentity, issuer: Issuer) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = {id(one): one for one in pool.map(lambda _: identity.retrieve(), range(64))}
    (credentials,) = found.values()
    assert (credentials.access_key, credentials.secret_key, credentials.session_token) == issuer.keys
    (asked,) = issuer.asked
    if asked["method"] == "POST":
        assert (asked["Action"], asked["RoleArn"]) == ("AssumeRoleWithWebIdentity", ROLE)
    else:
        assert asked["authorization"] == TOKEN


def test_credentials_are_renewed_before_they_end_with_the_token_of_that_time(
    identity: WorkloadIdentity, issuer: Issuer, token: Path
) -> None:
    issuer.lifetime = SOON
    assert identity.retrieve().access_key == "access"
    issuer.keys, issuer.lifetime, issuer.token = ("second", "s", "t"), timedelta(hours=1), "rotated"
    replace(token, b"rotated")
    assert identity.retrieve().access_key == "second"
    assert identity.retrieve().access_key == "second"
    assert len(issuer.asked) == 2


def test_while_renewing_fails_the_old_ones_are_used_and_the_issuer_is_not_flooded(
    identity: WorkloadIdentity, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.lifetime = SOON
    first = identity.retrieve()
    issuer.status = 503
    assert [identity.retrieve() for _ in range(5)] == [first] * 5
    assert len(issuer.asked) == 2
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == ["s3_credentials_not_renewed"]


def test_ended_credentials_are_never_used(identity: WorkloadIdentity, issuer: Issuer) -> None:
    issuer.lifetime = timedelta(seconds=-1)
    identity.retrieve()
    issuer.status = 503
    with pytest.raises(Unavailable, match="status 503"):
        identity.retrieve()


def test_an_error_names_the_setting_and_neither_the_token_nor_its_url(
    identity: WorkloadIdentity, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    issuer.token = "other"
    with pytest.raises(
        Unavailable, match=r"does the role trust this service account.*SIGHTLINE_S3_WORKLOAD_IDENTITY"
    ) as caught:
        identity.retrieve()
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    said = [one.getMessage() for one in caplog.records if one.levelno > logging.DEBUG]
    assert not any(TOKEN in one or "WebIdentityToken" in one for one in said)


def test_an_unreachable_issuer_and_a_missing_token_are_told_apart(
    issuer: Issuer, token: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for("web", issuer, token, monkeypatch).model_copy(
        update={"s3_sts_endpoint": "http://127.0.0.1:1"}
    )
    with pytest.raises(Unavailable, match="MaxRetryError"):
        WorkloadIdentity(settings).retrieve()
    assert not any("WebIdentityToken" in one.getMessage() for one in caplog.records)
    token.unlink()
    with pytest.raises(Unavailable, match=f"error in reading file {token}"):
        WorkloadIdentity(settings).retrieve()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"s3_workload_identity": True, "s3_access_key": "key"}, "unset SIGHTLINE_S3_ACCESS_KEY"),
        ({"s3_workload_identity": True, "s3_secret_key_file": "/etc/key"}, "unset SIGHTLINE_S3_ACCESS_KEY"),
        ({"s3_sts_endpoint": "https://sts"}, "needs SIGHTLINE_S3_WORKLOAD_IDENTITY=true"),
        ({"s3_workload_identity": True, "s3_sts_endpoint": "sts:9000"}, "that is not `https://host`"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        Settings.model_validate(fields)


def test_without_an_identity_the_nodes_credentials_are_not_used_instead(issuer: Issuer) -> None:
    with pytest.raises(StoreRefused, match=r"AWS_WEB_IDENTITY_TOKEN_FILE, .* is set: the pod's service account"):
        WorkloadIdentity(Settings(s3_workload_identity=True))


async def test_credentials_that_a_store_refuses_are_replaced_and_no_call_fails(
    issuer: Issuer, token: Path, s3_server: S3ServerWithKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = f"identity-{uuid.uuid4().hex[:8]}"
    server = {"s3_endpoint": s3_server.endpoint, "s3_secure": "false", "bucket": bucket}
    first, second = s3_server.add_key(), s3_server.add_key()
    issuer.keys = (*first, "")
    settings = settings_for("agent", issuer, token, monkeypatch, **server)
    blobs = await open_blobs(settings, MemoryTelemetry())
    await blobs.put("a", b"with the first")
    issuer.keys = (*second, "")
    s3_server.remove_key(first[0])
    assert await blobs.get("a") == b"with the first"
    assert await asyncio.gather(*(blobs.get("a") for _ in range(20))) == [b"with the first"] * 20
    s3_server.remove_key(second[0])
    with pytest.raises(Unavailable, match="it refuses the keys"):
        await blobs.get("a")


async def test_a_session_token_is_part_of_every_request(
    issuer: Issuer, token: Path, s3_server: S3ServerWithKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, secret = s3_server.add_key()
    url = s3_server.url
    owner = AssumeRoleProvider(sts_endpoint=url, access_key=access, secret_key=secret, region="us-east-1")
    temporary = owner.retrieve()
    assert temporary.session_token
    issuer.keys = temporary.access_key, temporary.secret_key, temporary.session_token
    settings = settings_for("web", issuer, token, monkeypatch, s3_endpoint=s3_server.endpoint, s3_secure="false")
    keys = WorkloadIdentity(settings)
    blobs = S3Blobs(s3_client(settings, keys), f"session-{uuid.uuid4().hex[:8]}", keys=keys)
    await blobs.ensure_bucket()
    await blobs.put("a", b"content")
    assert await blobs.get("a") == b"content"
    assert [one.key async for one in blobs.list("")] == ["a"]
