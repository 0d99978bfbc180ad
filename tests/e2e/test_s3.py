"""The story with the blobs in a real S3 store instead of a folder."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

from services.infra.s3 import s3_client
from sightline.demo.digits import DigitSet
from tests.e2e.conftest import Command, RunningStack
from tests.support.s3 import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

BUCKET = "e2e-sightline"


def test_the_suite_stores_its_blobs_in_s3(
    s3_server: S3Server, tmp_path: Path, images: tuple[DigitSet, DigitSet]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(s3_server.secret_key)
    environment = {
        "SIGHTLINE_STORE_DIRECTORY": "",  # as if it were not set
        "SIGHTLINE_S3_ENDPOINT": s3_server.endpoint,
        "SIGHTLINE_S3_ACCESS_KEY": s3_server.access_key,
        "SIGHTLINE_S3_SECRET_KEY_FILE": str(secret),
        "SIGHTLINE_S3_SECURE": "false",
        "SIGHTLINE_BUCKET": BUCKET,
    }
    with RunningStack(tmp_path / "suite", environment=environment) as running:
        sightline = Command(running.stack.addresses, tmp_path)
        for name, made in zip(("train", "test"), images, strict=True):
            words = ("--kind", "classification", "--coco", made.coco, "--wait", "--json")
            dataset = sightline("datasets", "create", name, *words).json
            assert dataset["snapshotUri"].startswith(f"s3://{BUCKET}/")
        words = ("--dataset", "train", "--test-dataset", "test", "--budget", "60s", "--watch", "--json")
        model = sightline("models", "train", "digits", *words).json
        assert model["state"] == "SUCCEEDED"
        answer = sightline("predict", "digits", next(iter(images[1].truth)), "--json").json
        assert answer["modelVersion"] == model["modelVersion"]
        client = s3_client(s3_server.settings())
        bundle = model["bundleUri"].removeprefix(f"s3://{BUCKET}/")
        objects = {str(blob.object_name) for blob in client.list_objects(BUCKET, bundle, recursive=True)}
        kept = {name.removeprefix(bundle) for name in objects}
        assert {name for name in kept if not fnmatch(name, "network-*.onnx")} == {
            "card.json",
            "digests.json",
            "weights.safetensors",
        }
        assert "network-0.onnx" in kept
        sightline("models", "delete", "digits")
        assert not list(client.list_objects(BUCKET, "models/", recursive=True))
    assert not (tmp_path / "suite" / "store").exists()
