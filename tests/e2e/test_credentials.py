"""The story in a project other than `default`, where each process has its own user of NATS and of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.error import S3Error

from deploy.s3.policies import PROCESSES, bucket_policy, text
from services.infra.s3 import s3_client
from sightline.demo.digits import DigitSet
from sightline.local import programs
from tests.e2e.conftest import Command, RunningStack
from tests.support.ceph import CephGateway

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUCKET = "e2e-credentials"
PLACES = (
    *("datasets/d/u/packs/p", "datasets/d/u/features/f", "models/m/u/bundle/b", "uploads/u/x", "weights/w", "other"),
    "feedback/2026-01-01/acme/m/x.jpg",
    "batchPredictions/b/u/results.json",
)
MAY_READ = {
    "dataset-api": {0, 1, 3},
    "dataset-worker": {0, 1, 3},
    "trainer-api": {0, 1, 2},
    "trainer-worker": {0, 1, 2, 4},
    "predictor": {2, 3, 6, 7},
    "predictor-worker": {0, 1, 2, 3, 7},
}
MAY_WRITE = {
    "dataset-api": {3},
    "dataset-worker": {0, 1},
    "trainer-api": {2},
    "trainer-worker": {1, 2},
    "predictor": {6},
    "predictor-worker": {7},
}


@pytest.fixture(scope="module")
def owner(s3_server: CephGateway) -> Minio:
    """The bucket's owner, who has made it."""
    client = s3_client(s3_server.settings())
    client.make_bucket(BUCKET)
    return client


@pytest.fixture(scope="module")
def keys(s3_server: CephGateway, owner: Minio) -> dict[str, tuple[str, str]]:
    """The keys of each process's user, who may do what the policy of the bucket says."""
    made = {process: s3_server.add_user(process) for process in PROCESSES}
    owner.set_bucket_policy(BUCKET, text(bucket_policy(BUCKET, "arn:aws:iam:::user/{}")))
    return made


@pytest.fixture
def running(
    s3_server: CephGateway, keys: dict[str, tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_reads_and_writes_its_own_part_of_the_store_only(
    process: str, keys: dict[str, tuple[str, str]], owner: Minio, s3_server: CephGateway, tmp_path: Path
) -> None:
    access, secret = keys[process]
    client = s3_client(s3_server.settings(s3_access_key=access, s3_secret_key=secret))
    file = tmp_path / "file"
    file.write_bytes(b"x")
    for root in ("", "projects/acme/"):
        for number, place in enumerate(PLACES):
            key = root + place
            owner.fput_object(BUCKET, key, str(file))
            its_place = not (root and place.startswith(("weights", "feedback")))  # of no project
            allowed = number in MAY_READ[process] and its_place
            assert _may(lambda key=key: client.get_object(BUCKET, key).close()) == allowed, key
            allowed = number in MAY_WRITE[process] and its_place
            assert _may(lambda key=key: client.fput_object(BUCKET, key, str(file))) == allowed, key
            assert _may(lambda key=key: client.remove_object(BUCKET, key)) == allowed, key
            owner.remove_object(BUCKET, key)


def _may(call: Any) -> bool:
    try:
        call()
    except S3Error as error:
        if error.code != "AccessDenied":
            raise
        return False
    return True
