"""The operator against the suite's services, and a mock of Kubernetes' API that others keep."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from kmock import KubernetesEmulator, ResourceInfo, Server, resource

from sightline.v1 import dataset_service_pb2 as dataset_service
from sightline.v1 import model_alias_service_pb2 as alias_service
from sightline.v1 import model_service_pb2 as model_service
from tests.support import datasets
from tests.support.suite_of_projects import Suite, suite

GROUP = "sightline.dev/v1alpha1"


class Cluster:
    """A mock of a cluster's API, with an operator that works in it, and the suite that the operator calls."""

    def __init__(self, api: KubernetesEmulator, url: str, made: Suite, folder: Path) -> None:
        self.api, self.url, self.suite = api, url, made
        config = folder / "kubeconfig"
        context = {"cluster": "mock", "user": "mock"}
        config.write_text(
            json.dumps(
                {
                    "current-context": "mock",
                    "contexts": [{"name": "mock", "context": context}],
                    "clusters": [{"name": "mock", "cluster": {"server": url}}],
                    "users": [{"name": "mock", "user": {}}],
                }
            )
        )
        self.environment = {
            "KUBECONFIG": str(config),
            "SIGHTLINE_DATASET_ADDRESS": made.addresses.dataset,
            "SIGHTLINE_TRAINER_ADDRESS": made.addresses.trainer,
            "SIGHTLINE_PREDICTOR_ADDRESS": made.addresses.predictor,
            "SIGHTLINE_TOKEN": made.tokens["operator"],
            "SIGHTLINE_METRICS_PORT": "0",
        }

    async def create(self, kind: str, name: str, spec: dict[str, Any], **meta: Any) -> None:
        """Creates a resource."""
        metadata = {"name": name, "namespace": "acme", "uid": f"uid-{kind}-{name}", "generation": 1}
        metadata |= {"resourceVersion": "1"} | meta
        body = {"apiVersion": GROUP, "kind": kind, "metadata": metadata, "spec": spec}
        await self._ask("POST", kind, body)

    async def change(self, kind: str, name: str, spec: dict[str, Any], generation: int) -> None:
        """Changes a resource's spec."""
        await self._ask("PATCH", kind, {"metadata": {"generation": generation}, "spec": spec}, name)

    async def gone(self, kind: str, name: str) -> None:
        """Returns once the resource is gone."""
        for _ in range(300):
            if self.api.objects[_plural(kind), "acme", name].deleted:
                return
            await self.suite.step()
            await asyncio.sleep(0.05)
        raise AssertionError(f"it stayed: {self.status(kind, name)}")

    async def delete(self, kind: str, name: str) -> None:
        """Deletes a resource."""
        await self._ask("DELETE", kind, None, name)

    async def _ask(self, method: str, kind: str, body: dict[str, Any] | None, name: str = "") -> None:
        path = f"{self.url.rstrip('/')}/apis/{GROUP}/namespaces/acme/{kind.lower()}s" + (f"/{name}" if name else "")
        async with aiohttp.ClientSession() as session, session.request(method, path, json=body) as response:
            assert response.status < 300, await response.text()

    def status(self, kind: str, name: str) -> dict[str, Any]:
        return dict(self.api.objects[_plural(kind), "acme", name].raw.get("status", {}))

    async def until(self, kind: str, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The status, once it is so, while the suite works."""
        for _ in range(300):
            status = self.status(kind, name)
            if holds(status):
                return status
            await self.suite.step()
            await self.suite.world.work()
            await self.suite.work_batches()
            await asyncio.sleep(0.05)
        raise AssertionError(f"it never came: {self.status(kind, name)}")


def _plural(kind: str) -> resource:
    return resource("sightline.dev", "v1alpha1", f"{kind.lower()}s")


@asynccontextmanager
async def operating(cluster: Cluster) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process of the operator. (kopf cancels every other task of its loop when it ends.)"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.operator", env=os.environ | cluster.environment, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) in (0, -signal.SIGKILL)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster without an operator yet."""
    async with suite(tmp_path) as made, KubernetesEmulator() as api, Server(api) as server:
        made.key("operator", "admin", "acme")
        for name in ("v1/namespaces", "v1/events", "apiextensions.k8s.io/v1/customresourcedefinitions"):
            api.resources[name].verbs = {"list", "watch", "create"}  # as every cluster's discovery names them
        for kind in ("Dataset", "Model", "Evaluation", "BatchPrediction"):
            api.resources[_plural(kind)] = ResourceInfo(
                namespaced=True, kind=kind, verbs={"list", "watch", "patch"}, subresources={"status"}
            )
        yield Cluster(api, str(server.url), made, tmp_path)


PETS = {"annotationKind": "IMAGE_CLASSIFICATION"}
TRAINING = {
    "trainingParameters": {
        "trainingDataset": "datasets/pets",
        "timeBudget": "600s",
        "modelKind": "GENERIC_CLASSIFIER",
    }
}


async def files_of(cluster: Cluster, upload: str = "pets", images: int = 20) -> list[str]:
    """The uris of an annotation file whose images are uploaded too."""
    described, files = datasets.tagged(images)
    uploaded = await cluster.suite.upload(upload, {"train.json": described, **files}, "operator")
    return [file.uri for file in uploaded.files if file.path == "train.json"]


def reason(status: dict[str, Any], type_: str = "Ready") -> str:
    return next((one["reason"] for one in status.get("conditions", ()) if one["type"] == type_), "")


async def test_a_model_that_is_applied_before_its_dataset_trains_once_that_is_there(cluster: Cluster):
    async with operating(cluster):
        await cluster.create("Model", "birds", TRAINING | {"alias": "production"})
        waiting = await cluster.until("Model", "birds", lambda status: reason(status) == "DatasetNotFound")
        assert not waiting.get("created")
        await cluster.create("Dataset", "pets", PETS | {"annotationFileUris": await files_of(cluster)})
        ready = await cluster.until("Dataset", "pets", lambda status: reason(status) == "Ready")
        assert (ready["state"], ready["images"], ready["version"]) == ("READY", 20, "1")
        trained = await cluster.until("Model", "birds", lambda status: reason(status) == "Succeeded")
        assert trained["resourceName"] == "models/birds"
        assert trained["progress"] == "100%"
        assert trained["metric"]
        await cluster.until("Model", "birds", lambda status: status.get("alias") == "production")
    get = alias_service.GetModelAliasRequest(name="models/birds@production")
    assert (await cluster.suite.call("GetModelAlias", get, "operator")).model == "models/birds"


async def test_evaluations_and_batch_predictions_follow_their_model(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    await cluster.suite.train("birds", "datasets/pets", "operator")
    async with operating(cluster):
        await cluster.create("Evaluation", "on-pets", {"model": "models/birds", "testDataset": "datasets/pets"})
        await cluster.create("BatchPrediction", "all", {"modelName": "models/birds", "datasetName": "datasets/pets"})
        measured = await cluster.until("Evaluation", "on-pets", lambda status: reason(status) == "Succeeded")
        assert measured["resourceName"] == "models/birds/evaluations/on-pets"
        predicted = await cluster.until("BatchPrediction", "all", lambda status: reason(status) == "Succeeded")
        assert predicted["resultUris"]


async def test_a_changed_name_is_updated_and_other_files_are_the_next_version(cluster: Cluster):
    async with operating(cluster):
        await cluster.create("Dataset", "pets", PETS | {"annotationFileUris": await files_of(cluster)})
        await cluster.until("Dataset", "pets", lambda status: reason(status) == "Ready")
        await cluster.change("Dataset", "pets", {"displayName": "Pets"}, generation=2)
        await cluster.until("Dataset", "pets", lambda status: status.get("observedGeneration") == 2)
        more = await files_of(cluster, "more", 24)
        await cluster.change("Dataset", "pets", {"annotationFileUris": more}, generation=3)
        later = await cluster.until(
            "Dataset", "pets", lambda status: (status.get("version"), status.get("state")) == ("2", "READY")
        )
        assert later["images"] == 24
    get = dataset_service.GetDatasetRequest(name="datasets/pets")
    assert (await cluster.suite.call("GetDataset", get, "operator")).display_name == "Pets"


async def test_a_deleted_resource_takes_its_own_with_it_unless_that_is_to_be_kept(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    async with operating(cluster):
        await cluster.create("Model", "kept", TRAINING | {"deletionPolicy": "Keep"})
        await cluster.create("Model", "deleted", TRAINING)
        for name in ("kept", "deleted"):
            await cluster.until("Model", name, lambda status: bool(status.get("created")))
            await cluster.delete("Model", name)
            await cluster.gone("Model", name)
    listed = await cluster.suite.call("ListModels", model_service.ListModelsRequest(), "operator")
    assert [model.name for model in listed.models] == ["models/kept"]


async def test_what_somebody_deletes_in_the_suite_is_not_created_again(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    async with operating(cluster):
        await cluster.create("Model", "birds", TRAINING)
        await cluster.until("Model", "birds", lambda status: reason(status) == "Succeeded")
        await cluster.suite.call("DeleteModel", model_service.DeleteModelRequest(name="models/birds"), "operator")
        await cluster.change("Model", "birds", {"displayName": "Birds"}, generation=2)
        await cluster.until("Model", "birds", lambda status: reason(status) == "DeletedInSightline")


async def test_what_another_has_created_is_not_touched(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    await cluster.suite.train("birds", "datasets/pets", "operator")
    async with operating(cluster):
        await cluster.create("Model", "birds", TRAINING)
        refused = await cluster.until("Model", "birds", lambda status: bool(status.get("conditions")))
        assert reason(refused, "Accepted") == "ModelAlreadyExists"
        await cluster.delete("Model", "birds")
        await cluster.gone("Model", "birds")
    await cluster.suite.call("GetModel", model_service.GetModelRequest(name="models/birds"), "operator")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"trainingParameters": {"timeBudgett": "600s"}}, "InvalidSpec"),
        ({"trainingParameters": TRAINING["trainingParameters"] | {"timeBudget": "-1s"}}, "InvalidRequest"),
        (
            {"trainingParameters": TRAINING["trainingParameters"] | {"modelKind": "GENERIC_DETECTOR"}},
            "IncorrectModelKind",
        ),
    ],
)
async def test_a_spec_that_is_refused_says_why_and_is_not_accepted(
    cluster: Cluster, spec: dict[str, Any], expected: str
):
    await cluster.suite.register("pets", "operator")
    async with operating(cluster):
        await cluster.create("Model", "birds", spec)
        refused = await cluster.until("Model", "birds", lambda status: bool(status.get("conditions")))
        assert reason(refused, "Accepted") == expected
        assert {one["status"] for one in refused["conditions"]} == {"False"}


async def test_two_operators_and_a_restart_create_once(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    async with operating(cluster), operating(cluster):
        for number in range(4):
            await cluster.create("Model", f"m{number}", TRAINING)
        for number in range(4):
            await cluster.until("Model", f"m{number}", lambda status: bool(status.get("created")))
    async with operating(cluster):
        for number in range(4):
            await cluster.until("Model", f"m{number}", lambda status: reason(status) == "Succeeded")
    listed = await cluster.suite.call("ListModels", model_service.ListModelsRequest(), "operator")
    assert [model.name for model in listed.models] == [f"models/m{number}" for number in range(4)]
