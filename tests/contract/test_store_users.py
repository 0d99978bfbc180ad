"""What the users of the store may do, in stores that check it: by policies of users, or by one of the bucket."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.error import S3Error

from deploy.s3.policies import PROCESSES
from services.infra.s3 import s3_client
from tests.support.s3 import Keys, S3ServerWithUsers

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


@dataclass(frozen=True, slots=True)
class Store:
    """A bucket, its owner, and the keys of each process's user."""

    server: S3ServerWithUsers
    bucket: str
    owner: Minio
    keys: Mapping[str, Keys]


@pytest.fixture(scope="module", params=["s3_server", pytest.param("ceph_server", marks=pytest.mark.other_stores)])
def store(request: pytest.FixtureRequest) -> Store:
    server: S3ServerWithUsers = request.getfixturevalue(request.param)
    owner, bucket = s3_client(server.settings()), f"users-{uuid.uuid4().hex[:8]}"
    owner.make_bucket(bucket)
    return Store(server, bucket, owner, server.add_users(bucket))


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_reads_and_writes_its_own_part_of_the_store_only(process: str, store: Store, tmp_path: Path) -> None:
    access, secret = store.keys[process]
    client = s3_client(store.server.settings(s3_access_key=access, s3_secret_key=secret))
    file = tmp_path / "file"
    file.write_bytes(b"x")
    for root in ("", "projects/acme/"):
        for number, place in enumerate(PLACES):
            key = root + place
            store.owner.fput_object(store.bucket, key, str(file))
            its_place = not (root and place.startswith(("weights", "feedback")))  # of no project
            allowed = number in MAY_READ[process] and its_place
            assert _may(lambda key=key: client.get_object(store.bucket, key).close()) == allowed, key
            allowed = number in MAY_WRITE[process] and its_place
            assert _may(lambda key=key: client.fput_object(store.bucket, key, str(file))) == allowed, key
            assert _may(lambda key=key: client.remove_object(store.bucket, key)) == allowed, key
            store.owner.remove_object(store.bucket, key)


def _may(call: Any) -> bool:
    try:
        call()
    except S3Error as error:
        if error.code != "AccessDenied":
            raise
        return False
    return True
