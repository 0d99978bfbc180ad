"""The story in a project other than `default`, where each process has its own user of NATS and of the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from services.infra.s3 import s3_client
from sightline.demo.digits import DigitSet
from sightline.local import programs
from tests.e2e.conftest import Command, RunningStack
from tests.support.s3 import Keys, S3ServerWithKeys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUCKET = "e2e-credentials"


@pytest.fixture(scope="module")
def owner(s3_server: S3ServerWithKeys) -> Minio:
    """The bucket's owner, who has made it."""
    client = s3_client(s3_server.settings())
    client.make_bucket(BUCKET)
    return client


@pytest.fixture(scope="module")
def keys(s3_server: S3ServerWithKeys, owner: Minio) -> Mapping[str, Keys]:
    """The keys of each process's user."""
    return s3_server.add_users(BUCKET)


@pytest.fixture
def running(
    s3_server: S3ServerWithKeys, keys: Mapping[str, Keys], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningStack]:
    """A suite of which each process has its own keys of the store."""
    common = programs.environment

    def environment(layout: Any, name: str, settings: Any) -> dict[str, str]:
        access, secret = keys.get(programs.user_of(name), ("", ""))  # the gateway has none
        return common(layout, name, settings) | {"SIGHTLINE_S3_ACCESS_KEY": access, "SIGHTLINE_S3_SECRET_KEY": secret}

    monkeypatch.setattr(programs, "environment", environment)
    monkeypatch.setenv("SIGHTLINE_PROJECT", "acme")
    store = {
        "SIGHTLINE_STORE_DIRECTORY": "",  # as if it were not set
        "SIGHTLINE_S3_ENDPOINT": s3_server.endpoint,
        "SIGHTLINE_S3_SECURE": "false",
        "SIGHTLINE_BUCKET": BUCKET,
    }
    with RunningStack(tmp_path / "suite", environment=store) as stack:
        yield stack


@pytest.mark.long
def test_datasets_and_models_of_a_project_live_and_end(
    running: RunningStack, owner: Minio, tmp_path: Path, images: tuple[DigitSet, DigitSet]
) -> None:
    sightline = Command(running.stack.addresses, tmp_path)
    for name, made in zip(("train", "test"), images, strict=True):
        sightline("datasets", "create", name, "--kind", "classification", "--coco", made.coco, "--wait")
    words = ("--dataset", "train", "--test-dataset", "test", "--budget", "30s", "--watch", "--json")
    model = sightline("models", "train", "digits", *words).json
    assert model["state"] == "SUCCEEDED"
    assert model["bundleUri"].startswith(f"s3://{BUCKET}/projects/acme/models/digits/")
    continued = sightline("models", "train", "more", *words, "--base-model", "digits").json
    assert continued["state"] == "SUCCEEDED"
    sightline("evaluations", "create", "digits", "again", "--dataset", "test", "--wait")
    sightline("predict", "digits", next(iter(images[1].truth)))
    for collection, names in {"models": ("more", "digits"), "datasets": ("train", "test")}.items():
        for name in names:
            sightline(collection, "delete", name)
    for upload in sightline("uploads", "list", "--json").json["uploads"]:
        sightline("uploads", "delete", upload["name"].removeprefix("uploads/"))
    assert not [found.object_name for found in owner.list_objects(BUCKET, recursive=True)]
    _all_private(running.stack.data)
    events = sightline("audit", "list", "--json").json["events"]
    noted = {(event["service"], event["rpc"].partition("/")[2]) for event in events}
    assert {("dataset", "UploadFiles"), ("trainer", "DeleteModel"), ("predictor", "AnalyzeImage")} <= noted
    assert not [event for event in events if "_DENIED" in event["code"]]


def _all_private(folder: Path) -> None:
    """Nothing that the suite wrote is open to other users."""
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
