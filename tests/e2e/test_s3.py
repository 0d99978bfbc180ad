"""The story with the blobs in a real S3 store instead of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.infra.s3 import s3_client
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.channel import describe
from sightline.demo.digits import DigitSet
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import CreateDatasetRequest, GetDatasetRequest, ListFindingsRequest
from sightline.v1.model_pb2 import Model
from sightline.v1.model_service_pb2 import GetModelRequest
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest
from tests.chaos.campaign.calls import Api, Tally, has_retry_info
from tests.chaos.campaign.links import Mode, Network
from tests.e2e.conftest import Command, RunningStack
from tests.support.s3 import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

BUCKET = "e2e-sightline"
SOON_SECONDS = 15.0  # a service waits for two; the machine is busy


@pytest.fixture
def network() -> Iterator[Network]:
    with Network("s3") as network:
        yield network


@pytest.mark.parametrize("name", ["s3_server", pytest.param("seaweed_cluster", marks=pytest.mark.other_stores)])
def test_the_suite_stores_its_blobs_in_s3(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, images: tuple[DigitSet, DigitSet], network: Network
) -> None:
    server: S3Server = request.getfixturevalue(name)
    secret = tmp_path / "secret"
    secret.write_text(server.secret_key)
    environment = {
        "SIGHTLINE_STORE_DIRECTORY": "",  # as if it were not set
        "SIGHTLINE_S3_ENDPOINT": f"127.0.0.1:{network.link('store', server.port)}",
        "SIGHTLINE_S3_ACCESS_KEY": server.access_key,
        "SIGHTLINE_S3_SECRET_KEY_FILE": str(secret),
        "SIGHTLINE_S3_SECURE": "false",
        "SIGHTLINE_BUCKET": BUCKET,
    }
    with RunningStack(tmp_path / "suite", environment=environment) as running:
        sightline = Command(running.stack.addresses, tmp_path)
        for dataset_id, made in zip(("train", "test"), images, strict=True):
            words = ("--kind", "classification", "--coco", made.coco, "--wait", "--json")
            dataset = sightline("datasets", "create", dataset_id, *words).json
            assert dataset["snapshotUri"].startswith(f"s3://{BUCKET}/")
        words = ("--dataset", "train", "--test-dataset", "test", "--budget", "60s", "--watch", "--json")
        model = sightline("models", "train", "digits", *words).json
        assert model["state"] == "SUCCEEDED"
        answer = sightline("predict", "digits", next(iter(images[1].truth)), "--json").json
        assert answer["modelVersion"] == model["modelVersion"]
        client = s3_client(server.settings())
        bundle = model["bundleUri"].removeprefix(f"s3://{BUCKET}/")
        objects = {str(blob.object_name) for blob in client.list_objects(BUCKET, bundle, recursive=True)}
        kept = {name.removeprefix(bundle) for name in objects}
        assert {name for name in kept if not fnmatch(name, "network-*.onnx")} == {
            "card.json",
            "digests.json",
            "weights.safetensors",
        }
        assert "network-0.onnx" in kept
        network.switch("store", Mode.HANG)
        _calls_end_soon(running.stack.addresses, str(next(iter(images[1].truth))))
        network.switch("store", Mode.OPEN)
        sightline("models", "delete", "digits")
        assert not list(client.list_objects(BUCKET, "models/", recursive=True))
    assert not (tmp_path / "suite" / "store").exists()


def _calls_end_soon(addresses: Addresses, image: str) -> None:
    """While the store is silent, calls that need none of its blobs succeed; others say when to try again."""
    ports = {name: int(getattr(addresses, name).rpartition(":")[2]) for name in ("dataset", "trainer", "predictor")}
    api = Api(ports, Tally())
    datasets, models = api.replicas["dataset"].datasets, api.replicas["trainer"].models
    analyze = api.replicas["predictor"].predictions.AnalyzeImage
    model, dataset = "models/digits", "datasets/train"
    uri = datasets.GetDataset(GetDatasetRequest(name=dataset), timeout=SOON_SECONDS).annotation_file_uris[0]
    new = Dataset(annotation_kind=Dataset.IMAGE_CLASSIFICATION, annotation_file_uris=[uri])
    answered = (
        (models.GetModel, GetModelRequest(name=model)),
        (datasets.GetDataset, GetDatasetRequest(name=dataset)),
        (analyze, AnalyzeImageRequest(model_name=model, image=Path(image).read_bytes())),
    )
    refused = (
        (models.GetModel, GetModelRequest(name=model, view=Model.FULL)),
        (datasets.GetDataset, GetDatasetRequest(name=dataset, view=Dataset.FULL)),
        (datasets.ListFindings, ListFindingsRequest(parent=dataset)),
        (datasets.CreateDataset, CreateDatasetRequest(dataset_id="new", dataset=new)),
        (analyze, AnalyzeImageRequest(model_name=model, uri=uri)),
    )
    try:
        for call, request in answered:
            _ask(call, request)
        for call, request in refused:
            with pytest.raises(grpc.RpcError) as caught:
                _ask(call, request)
            found = describe(caught.value)
            assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "Unavailable"), (request, found.message)
            assert has_retry_info(caught.value)
    finally:
        api.close()


def _ask(call: Any, request: Any) -> None:
    call(request, timeout=SOON_SECONDS)
