"""A mock of Kubernetes' API that others keep, the suite's services, and processes of the operator between them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp.web
from kmock import KubernetesEmulator, Request, ResourceInfo, Server, action, resource

from tests.support import datasets
from tests.support.processes import catches
from tests.support.suite_of_projects import Suite, suite
from tests.support.waiting import eventually

GROUP = "sightline.dev/v1alpha1"


class Api(KubernetesEmulator):
    """The mock. For each request it looks through all that it remembers, which takes long after some hundred."""

    updates = 0  # requests so far that change a resource
    forgets = False  # whether it remembers only the requests that it has not answered yet

    async def _handle(self, request: Request) -> aiohttp.web.StreamResponse:
        self.updates += request.action == action.UPDATE
        try:
            return await super()._handle(request)
        finally:
            if self.forgets:
                self._requests[:] = [one for one in self._requests if one is not request]


class Cluster:
    """A mock of a cluster's API, with an operator that works in it, and the suite that the operator calls."""

    def __init__(self, api: Api, url: str, made: Suite, folder: Path) -> None:
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
        for _ in _until_late():
            if self.api.objects[plural(kind), "acme", name].deleted:
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
        return dict(self.api.objects[plural(kind), "acme", name].raw.get("status", {}))

    def events(self) -> list[dict[str, Any]]:
        """The events that were posted."""
        return [dict(one.raw) for key, one in self.api.objects.items() if key[0] == resource("v1", "events")]

    async def until(self, kind: str, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The status, once it is so, while the suite works."""
        for _ in _until_late():
            status = self.status(kind, name)
            if holds(status):
                return status
            await self.suite.step()
            await self.suite.world.work()
            await self.suite.work_batches()
            await asyncio.sleep(0.05)
        raise AssertionError(f"it never came: {self.status(kind, name)}")

    async def until_all(self, kind: str, names: list[str], holds: Callable[[dict[str, Any]], bool]) -> None:
        """Returns once the statuses of all are so. The suite does no work meanwhile."""
        left = set(names)
        for _ in _until_late(180):
            left = {name for name in left if not holds(self.status(kind, name))}
            if not left:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"it never came for {len(left)}, such as {self.status(kind, min(left))}")


def _until_late(seconds: float = 60) -> Iterator[None]:
    """Rounds of waiting: a process of the operator takes many seconds to start on a busy machine."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield


def plural(kind: str) -> resource:
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
            await eventually(lambda: catches(process.pid, signal.SIGTERM))  # it may have just begun
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) in (0, -signal.SIGKILL)


@asynccontextmanager
async def running_cluster(folder: Path) -> AsyncGenerator[Cluster]:
    """A cluster without an operator yet."""
    async with suite(folder) as made, Api() as api, Server(api) as server:
        made.key("operator", "admin", "acme")
        api.resources["v1/events"] = ResourceInfo(namespaced=True, kind="Event", verbs={"create"})
        for name in ("v1/namespaces", "apiextensions.k8s.io/v1/customresourcedefinitions"):
            api.resources[name].verbs = {"list", "watch", "create"}  # as every cluster's discovery names them
        for kind in ("Dataset", "Model", "Evaluation", "BatchPrediction"):
            api.resources[plural(kind)] = ResourceInfo(
                namespaced=True, kind=kind, verbs={"list", "watch", "patch"}, subresources={"status"}
            )
        yield Cluster(api, str(server.url), made, folder)


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
