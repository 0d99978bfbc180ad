"""What each process may do in the store: a policy for its user there, or one of the bucket for all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

BUCKET = "sightline"
PROCESSES = ("dataset-api", "dataset-worker", "trainer-api", "trainer-worker", "predictor", "predictor-worker")
# Prefixes within each project. In keys of other projects than `default`, which begin with `projects/PROJECT/`, `*`
# matches slashes too: `projects/*/models/*` is also a dataset that is called `models`. Ceph's `*` ends at the first
# character that fits what follows, so there is one for each part of a key.
READS: Mapping[str, Sequence[str]] = {
    "dataset-api": ("datasets", "uploads"),
    "dataset-worker": ("datasets", "uploads"),
    "trainer-api": ("datasets", "models"),
    "trainer-worker": ("datasets", "models"),
    "predictor": ("models", "uploads", "batchPredictions"),
    "predictor-worker": ("models", "uploads", "datasets", "batchPredictions"),
}
WRITES: Mapping[str, Sequence[str]] = {
    "dataset-api": ("uploads",),
    "dataset-worker": ("datasets",),
    "trainer-api": ("models",),
    "trainer-worker": ("models", "datasets/*/*/features"),
    "predictor-worker": ("batchPredictions",),
}
SHARED: Mapping[str, Sequence[str]] = {"trainer-worker": ("weights/",)}  # read, and of no project
FEEDBACK = "feedback/*"  # where the predictor keeps images of all projects, if that is switched on
IMAGES = ("dataset-api", "dataset-worker", "predictor", "predictor-worker")  # read what an operator opened to callers
DOCTOR = "doctor/"  # where `sightline doctor` tries the store


def policy(
    process: str, bucket: str = BUCKET, opened: Sequence[str] = (), outputs: Sequence[str] = ()
) -> dict[str, Any]:
    """The policy of one process's user.

    `opened` are prefixes as in SIGHTLINE_OPEN_PREFIXES, `outputs` as in SIGHTLINE_OPEN_OUTPUT_PREFIXES, both without
    projects.
    """
    read = [*_keys(READS[process]), *(f"{prefix}*" for prefix in SHARED.get(process, ()))]
    read += _below(opened) if process in IMAGES else []
    read += _below(outputs) if process == "predictor" else []
    written = _keys(WRITES.get(process, ()))
    written += _below(outputs) if process == "predictor-worker" else []
    if written:
        read, written = [*read, f"{DOCTOR}*"], [*written, f"{DOCTOR}*"]
    if process == "predictor":
        read, written = [*read, FEEDBACK], [FEEDBACK]
    statements = [
        _allow("List", ["s3:ListBucket"], [f"arn:aws:s3:::{bucket}"]),
        _allow("Read", ["s3:GetObject"], _resources(bucket, read)),
    ]
    if written:
        actions = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
        statements.append(_allow("Write", actions, _resources(bucket, written)))
    return {"Version": "2012-10-17", "Statement": statements}


def bucket_policy(
    bucket: str, principals: Mapping[str, str], opened: Sequence[str] = (), outputs: Sequence[str] = ()
) -> dict[str, Any]:
    """The policies of all processes as one of the bucket; `principals` are the names of their users in the store."""
    statements = [
        one | {"Sid": one["Sid"] + process.title().replace("-", ""), "Principal": {"AWS": [principals[process]]}}
        for process in PROCESSES
        for one in policy(process, bucket, opened, outputs)["Statement"]
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def text(made: Mapping[str, Any]) -> str:
    """The policy as a file."""
    return json.dumps(made, indent=2) + "\n"


def _keys(prefixes: Sequence[str]) -> list[str]:
    """The keys below the prefixes, in every project."""
    return [f"{root}{prefix}/*" for prefix in prefixes for root in ("", "projects/*/")]


def _below(prefixes: Sequence[str]) -> list[str]:
    return [f"{prefix.removesuffix('*')}*" for prefix in prefixes]


def _resources(bucket: str, keys: Sequence[str]) -> list[str]:
    return [f"arn:aws:s3:::{bucket}/{key}" for key in keys]


def _allow(sid: str, actions: Sequence[str], resources: Sequence[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}
