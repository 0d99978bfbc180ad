"""An upgrade: what earlier releases stored, queued and answer to is still read, worked on and answered by this one.

And a rollback: what a newer release adds to records stays in them, and what it forbids this one is left alone.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from services.infra.jetstream import connected
from services.infra.jetstream_queue import JetStreamQueue
from services.infra.jetstream_records import JetStreamRecords
from sightline.client.client import Client
from sightline.local.stack import Stack
from tests.e2e.conftest import Command, RunningStack
from tests.releases import weights
from tests.releases.fixtures import QUEUED, RELEASES, Release
from tests.releases.old_client import OldClient
from tests.support.servers import ACK_WAIT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NEWER = {"field_of_a_newer_release": {"list": [1], "text": "kept"}}
FORBIDDEN = "datasets/forbidden"
PASSING = {"etag", "updateTime", "pageToken", "nextPageToken"}
SCORES = 1e-4


@dataclass
class Upgraded:
    """This release on what an earlier one left; two of its records were since written by a newer one."""

    release: Release
    stack: Stack
    ask: OldClient
    forbidden: bytes

    def stored(self) -> dict[str, bytes]:
        """Every record."""
        return asyncio.run(_records(self.stack.nats_url, JetStreamRecords.all))


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: release.folder.name)
def upgraded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    release: Release = request.param
    folder = tmp_path_factory.mktemp("upgrade")
    weights.write(folder / "weights")
    data, environment = folder / "suite", {"SIGHTLINE_WEIGHTS_DIR": str(folder / "weights")}
    Command(Stack(data).addresses, folder)("restore", release.backup(folder), "--data", data)
    with RunningStack(data, with_services=False) as nats:
        forbidden = asyncio.run(_records(nats.stack.nats_url, _written_by_a_newer_release))
        asyncio.run(_queued(nats.stack.nats_url, release.jobs))
    with (
        RunningStack(data, environment=environment) as running,
        OldClient(release.contract, running.stack.addresses) as ask,
    ):
        yield Upgraded(release, running.stack, ask, forbidden)


async def _records(url: str, use: Callable[[JetStreamRecords], Any]) -> Any:
    async with connected(url, "upgrade") as connection:
        return await use(JetStreamRecords(connection))


async def _written_by_a_newer_release(records: JetStreamRecords) -> bytes:
    """Adds unknown fields to every record and to its leases, and a record that this release must not touch."""
    every = await records.all()
    for name, value in every.items():
        document = json.loads(value) | NEWER
        for holder in (document, document.get("work") or {}):
            if isinstance(holder.get("lease"), dict):
                holder["lease"] |= NEWER
        await records.update(name, json.dumps(document).encode(), (await records.get(name)).revision)
    shapes = json.loads(every["datasets/shapes"]) | {"name": FORBIDDEN, "record_format": 2}
    forbidden = json.dumps(shapes).encode()
    await records.create(FORBIDDEN, forbidden)
    return forbidden


async def _queued(url: str, jobs: list[dict[str, Any]]) -> None:
    async with connected(url, "upgrade") as connection:
        queue = JetStreamQueue(connection, ACK_WAIT)
        for job in jobs:
            await queue.publish(job["subject"].removeprefix("jobs."), json.dumps(job["body"]).encode())


def _upload(upload_id: str, data: bytes) -> list[dict[str, Any]]:
    """The messages of UploadFiles for one file."""
    about = {"path": "picture.png", "sizeBytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return [{"header": {"uploadId": upload_id}}, {"file": about}, {"chunk": base64.b64encode(data).decode()}]


def faults(old: Any, new: Any, path: str = "") -> list[str]:
    """Where the new answer lacks what the old one said; what changes with every write does not count."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [fault for key in old.keys() - PASSING for fault in faults(old[key], new.get(key), f"{path}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and _names(old):
        by_name = {one.get("name"): one for one in new}
        stay = [one for one in old if one["name"] != f"models/{QUEUED}"]
        return [fault for one in stay for fault in faults(one, by_name.get(one["name"]), f"{path}[{one['name']}]")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [fault for i, pair in enumerate(zip(old, new, strict=True)) for fault in faults(*pair, f"{path}[{i}]")]
    if isinstance(old, float | int) and isinstance(new, float | int) and math.isclose(old, new, abs_tol=SCORES):
        return []
    return [] if old == new else [f"{path}: {str(old)[:200]} became {str(new)[:200]}"]


def _names(values: list[Any]) -> bool:
    return all(isinstance(one, dict) and "/" in one.get("name", "") for one in values)


def test_a_client_of_the_release_gets_the_answers_that_it_got_and_the_same_scores(upgraded: Upgraded) -> None:
    answers = upgraded.release.answers
    found = {(call["rpc"], str(call["request"])): upgraded.ask(call["rpc"], call["request"]) for call in answers}
    assert [
        f"{call['rpc']}{fault}" for call in answers
        for fault in faults(call["answer"], found[call["rpc"], str(call["request"])])
    ] == []  # fmt: skip


def test_a_training_that_was_queued_is_worked_on(upgraded: Upgraded) -> None:
    with Client(upgraded.stack.addresses) as client:
        assert client.models.wait(QUEUED).state == "SUCCEEDED"
    prediction = upgraded.ask(
        "PredictionService/AnalyzeImage",
        {
            "modelName": f"models/{QUEUED}",
            "image": base64.b64encode(upgraded.release.image).decode(),
        },
    )
    assert {tag["name"] for tag in prediction["customModelResult"]["tagsResult"]["values"]} == {"square", "disc", "bar"}


def test_a_client_of_the_release_works_on_with_what_it_made(upgraded: Upgraded) -> None:
    ask = upgraded.ask
    evaluation = {"parent": "models/m", "evaluationId": "again", "evaluation": {"testDataset": "datasets/shapes"}}
    made = ask("EvaluationService/CreateEvaluation", evaluation)
    *_, last = ask("EvaluationService/WatchEvaluation", {"name": made["name"]})
    assert last["evaluation"]["state"] == "SUCCEEDED"
    batch = {"modelName": "models/m", "datasetName": "datasets/held-out"}
    ask("PredictionService/CreateBatchPrediction", {"batchPredictionId": "c", "batchPrediction": batch})
    *_, last = ask("PredictionService/WatchBatchPrediction", {"name": "batchPredictions/c"})
    assert last["batchPrediction"]["state"] == "SUCCEEDED"
    changed = {"model": {"name": "models/m", "displayName": "renamed"}, "updateMask": "displayName"}
    assert ask("ModelService/UpdateModel", changed)["displayName"] == "renamed"
    (sent,) = ask("DatasetService/UploadFiles", _upload("picture", upgraded.release.image))["files"]
    assert sent["uri"].endswith("picture.png")
    dataset = ask("DatasetService/GetDataset", {"name": "datasets/shapes"})
    words = {key: dataset[key] for key in ("annotationKind", "annotationFileUris")}
    ask("DatasetService/CreateDataset", {"datasetId": "again", "dataset": words})
    *_, last = ask("DatasetService/WatchDataset", {"name": "datasets/again"})
    assert last["dataset"]["state"] == "READY"
    assert last["dataset"]["snapshotDigest"] == dataset["snapshotDigest"]


def test_what_a_newer_release_added_to_records_is_still_there(upgraded: Upgraded) -> None:
    upgraded.ask(
        "ModelService/UpdateModel", {"model": {"name": "models/d", "displayName": "x"}, "updateMask": "displayName"}
    )
    upgraded.ask(
        "DatasetService/UpdateDataset",
        {"dataset": {"name": "datasets/scenes", "displayName": "x"}, "updateMask": "displayName"},
    )
    with Client(upgraded.stack.addresses) as client:
        client.models.wait(QUEUED)
    stored = {name: json.loads(value) for name, value in upgraded.stored().items()}
    assert stored["models/d"]["display_name"] == stored["datasets/scenes"]["display_name"] == "x"
    old = upgraded.release.records
    assert {name for name in old & stored.keys() if "field_of_a_newer_release" not in stored[name]} == set()
    assert old <= stored.keys()
    assert NEWER.items() <= stored[f"models/{QUEUED}/trials/t000"]["work"]["lease"].items()


def test_a_record_that_only_a_newer_release_understands_is_refused_by_name_and_never_changed(
    upgraded: Upgraded,
) -> None:
    ask, name = upgraded.ask, {"name": FORBIDDEN}
    training = {"trainingDataset": FORBIDDEN, "timeBudget": "60s", "modelKind": "GENERIC_CLASSIFIER"}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("DatasetService/GetDataset", name),
        ("DatasetService/DeleteDataset", name),
        ("DatasetService/UpdateDataset", {"dataset": name | {"displayName": "x"}, "updateMask": "displayName"}),
        ("ModelService/CreateModel", {"modelId": "x", "model": {"trainingParameters": training}}),
    ]
    for rpc, words in calls:
        with pytest.raises(grpc.RpcError, match=f"The record of {FORBIDDEN} cannot be read: its record format is 2"):
            ask(rpc, words)
    listed = ask("DatasetService/ListDatasets", {})["datasets"]
    assert {"datasets/shapes", "datasets/scenes"} <= {one["name"] for one in listed} - {FORBIDDEN}
    assert FORBIDDEN not in {one["name"] for one in listed}
    assert upgraded.stored()[FORBIDDEN] == upgraded.forbidden
