"""What the users of the store may do, in stores that check it: by policies of users, or by one of the bucket."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.error import S3Error

from services.infra.s3 import s3_client
from services.infra.store_policies import PROCESSES
from tests.support.s3 import S3_SERVERS, Keys, S3Server

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

    server: S3Server
    bucket: str
    owner: Minio
    keys: Mapping[str, Keys]


@pytest.fixture(scope="module", params=S3_SERVERS)
def store(request: pytest.FixtureRequest) -> Store:
    server: S3Server = request.getfixturevalue(request.param)
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


def job(folder: Path, bucket: str, server: S3Server, secret: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """The job, with the keys of the folder."""
    settings = {
        "SIGHTLINE_S3_ENDPOINT": server.endpoint,
        "SIGHTLINE_S3_SECURE": "false",
        "SIGHTLINE_S3_ACCESS_KEY_FILE": str(folder / "access-key"),
        "SIGHTLINE_S3_SECRET_KEY_FILE": str(folder / "secret-key"),
        "SIGHTLINE_BUCKET": bucket,
    }
    (folder / "access-key").write_text(server.access_key)
    (folder / "secret-key").write_text(secret or server.secret_key)
    command = [sys.executable, "-m", "services.infra.store_users", "--keys", str(folder), "--rights", server.rights]
    return subprocess.run(command, env=os.environ | settings | more, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["s3_server", pytest.param("seaweed_server", marks=pytest.mark.other_stores)])
def test_the_job_makes_bucket_users_and_rights_and_may_run_again(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: S3Server = request.getfixturevalue(name)
    bucket = f"users-{uuid.uuid4().hex[:8]}"
    keys = write_keys(tmp_path)
    done = job(tmp_path, bucket, server, SIGHTLINE_OPEN_PREFIXES="acme:shared/")
    assert done.returncode == 0, done.stderr
    assert f"made the bucket {bucket}" in done.stdout
    owner = s3_client(server.settings())
    owner.put_object(bucket, "shared/image", io.BytesIO(b"x"), 1)
    access, secret = keys["predictor"]
    predictor = s3_client(server.settings(s3_access_key=access, s3_secret_key=secret))
    assert predictor.get_object(bucket, "shared/image").read() == b"x"

    renewed = write_keys(tmp_path, accesses={process: access for process, (access, _) in keys.items()})
    done = job(tmp_path, bucket, server)
    assert (done.returncode, f"the bucket {bucket} is there" in done.stdout) == (0, True), done.stderr
    assert not _may(lambda: predictor.get_object(bucket, "shared/image"), frozenset({"SignatureDoesNotMatch"}))
    access, secret = renewed["predictor"]
    predictor = s3_client(server.settings(s3_access_key=access, s3_secret_key=secret))
    assert not _may(lambda: predictor.get_object(bucket, "shared/image")), "the prefix is no longer open"
    assert secret not in done.stdout + done.stderr


def test_the_job_says_what_it_lacks(s3_server: S3Server, tmp_path: Path) -> None:
    bucket = f"users-{uuid.uuid4().hex[:8]}"
    done = job(tmp_path, bucket, s3_server)
    assert (done.returncode, "dataset-api-access-key" in done.stderr) == (1, True)
    write_keys(tmp_path, accesses=dict.fromkeys(PROCESSES, "one-for-all"))
    done = job(tmp_path, bucket, s3_server)
    assert (done.returncode, "share an access key" in done.stderr) == (1, True)
    done = job(tmp_path, bucket, s3_server, secret="wrong-secret")
    assert (done.returncode, "SIGHTLINE_S3_ACCESS_KEY" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr


def write_keys(folder: Path, accesses: Mapping[str, str] | None = None) -> dict[str, Keys]:
    """Writes keys for each process, as the secret `sightline-s3` is mounted."""
    made = {
        process: (
            (accesses or {}).get(process) or f"{process.replace('-', '')}{uuid.uuid4().hex[:8]}",
            uuid.uuid4().hex,
        )
        for process in PROCESSES
    }
    for process, (access, secret) in made.items():
        (folder / f"{process}-access-key").write_text(f"{access}\n")
        (folder / f"{process}-secret-key").write_text(f"{secret}\n")
    return made


def _may(call: Any, refusals: frozenset[str] = frozenset({"AccessDenied"})) -> bool:
    try:
        call()
    except S3Error as error:
        if error.code not in refusals:
            raise
        return False
    return True
