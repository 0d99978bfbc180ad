"""Nothing that a caller names leads out of its project: the tables of `escapes`, sent to the services for real.

The store is a folder, and it and the records note every key. Whatever is not refused with a reason of the contract may
touch the project's own keys only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.infra.files import FolderBlobs
from services.kit.blobs import BlobInfo
from services.kit.memory import MemoryRecords
from services.kit.records import Record
from sightline.client.transport.connection import bearer
from sightline.v1 import batch_prediction_pb2
from sightline.v1 import dataset_service_pb2 as datasets
from sightline.v1 import prediction_service_pb2 as predictions
from tests.attack.escapes import NAMES, OTHER, SECRET, URIS
from tests.fuzz.calls import EVERYTHING, KEPT, KNOWN, PATHS, answer, gateway_of, suite_of_one
from tests.service.test_projects import requests
from tests.support.datasets import coco, upload_messages
from tests.support.suite_of_projects import Suite

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN = "projects/acme/"
CALLS_OF_A_NAME = 4  # in turn, so that each field of each rpc gets its share of the names
PATHS_OF_A_NAME = 2
SHORT = 6  # `make test` takes one of so many texts for each field, `make test-long` every one
LEFT_OUT = ("EstimateTraining", "ExportModel", "Watch", "AnalyzeImages")  # they wait; names are read by the same code
UPLOAD = "s3://sightline/projects/acme/uploads/pets/"


@dataclass
class Touched:
    """The keys that were read, written or listed, and those of them that are not the project's."""

    count: int = 0
    outside: list[str] = field(default_factory=list[str])

    def note(self, verb: str, key: str) -> None:
        self.count += 1
        if not key.startswith(OWN) or ".." in key.split("/"):
            self.outside.append(f"{verb} {key}")


class WatchedBlobs(FolderBlobs):
    """A store of a folder that notes its keys."""

    def __init__(self, folder: Path, touched: Touched) -> None:
        super().__init__(folder)
        self._touched = touched

    async def put(self, key: str, data: bytes) -> None:
        self._touched.note("put", key)
        await super().put(key, data)

    async def put_file(self, key: str, path: Path) -> None:
        self._touched.note("put", key)
        await super().put_file(key, path)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._touched.note("get", key)
        return await super().get(key, start, length)

    async def get_file(self, key: str, path: Path) -> None:
        self._touched.note("get", key)
        await super().get_file(key, path)

    async def stat(self, key: str) -> BlobInfo:
        self._touched.note("stat", key)
        return await super().stat(key)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        self._touched.note("list", prefix)
        async for found in super().list(prefix):
            yield found

    async def delete(self, key: str) -> None:
        self._touched.note("delete", key)
        await super().delete(key)


class WatchedRecords(MemoryRecords):
    """Records that note their keys."""

    def __init__(self, touched: Touched) -> None:
        super().__init__()
        self._touched = touched

    async def get(self, key: str) -> Record:
        self._touched.note("get", key)
        return await super().get(key)

    async def create(self, key: str, value: bytes) -> int:
        self._touched.note("create", key)
        return await super().create(key, value)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        self._touched.note("update", key)
        return await super().update(key, value, revision)

    async def delete(self, key: str, revision: int) -> int:
        self._touched.note("delete", key)
        return await super().delete(key, revision)


@dataclass
class Attacked:
    """The services with one of everything in the project acme, and files elsewhere that nobody may reach."""

    suite: Suite
    touched: Touched
    folder: Path
    outcomes: Counter[str] = field(default_factory=Counter[str])

    async def call(self, path: str, sent: Sequence[Message]) -> None:
        """Notes the status; AssertionError if it is none of the contract's or has no reason of ours."""
        metadata = [bearer(self.suite.tokens["ann"])]
        channel = self.suite.channels[EVERYTHING[path].containing_service.name]
        code = await answer(channel, path, [one.SerializeToString() for one in sent], metadata, Random(0))
        self.outcomes[code] += 1
        assert not self.touched.outside, f"{path} {str(sent[-1])[:300]} reaches {self.touched.outside}"

    def begin(self) -> None:
        """Counts from here on."""
        self.outcomes.clear()
        self.touched.count = 0

    def elsewhere(self) -> dict[str, str]:
        """Digests of all that is not the project's."""
        own = (self.folder / "store" / OWN, self.folder / "store" / ".sightline-tmp", self.folder / "cache")
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in found
            if not any(path.is_relative_to(one) for one in own)
        }


@pytest.fixture(scope="module", params=[SHORT, pytest.param(1, marks=pytest.mark.long)], ids=["short", "all"])
def share(request: pytest.FixtureRequest) -> int:
    """One of so many texts is sent."""
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacked(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Attacked]:
    tmp_path = tmp_path_factory.mktemp("escapes")
    touched = Touched()
    for path in (f"store/{OTHER}/{SECRET}", f"store/{SECRET}", "store/secret.txt", "outside.txt", "other/secret.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("nobody may read this")
    ports = {"blobs": WatchedBlobs(tmp_path / "store", touched), "records": WatchedRecords(touched)}
    async with suite_of_one(tmp_path, **ports) as made:
        touched.count, touched.outside = 0, []
        attacked = Attacked(made, touched, tmp_path)
        before = attacked.elsewhere()
        yield attacked
        assert attacked.elsewhere() == before
        assert touched.outside == []


async def test_the_tables_have_no_fewer_than_they_say() -> None:
    assert len(NAMES) >= 300
    assert len(URIS) >= 200


def _slots(message: Message, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The fields for one text, in the message and in those messages in it that are set."""
    for one in message.DESCRIPTOR.fields:
        if one.is_repeated:
            continue
        if one.type == FieldDescriptor.TYPE_STRING and one.name not in ("page_token", "etag", "filter"):
            yield (*path, one.name)
        elif one.type == FieldDescriptor.TYPE_MESSAGE and message.HasField(one.name):
            yield from _slots(getattr(message, one.name), (*path, one.name))


def _with(message: Message, slot: tuple[str, ...], text: str) -> Message:
    changed = type(message)()
    changed.CopyFrom(message)
    inner: Any = changed
    for name in slot[:-1]:
        inner = getattr(inner, name)
    setattr(inner, slot[-1], text)
    return changed


async def test_no_name_in_any_request_reaches_what_is_not_the_callers(attacked: Attacked, share: int) -> None:
    attacked.begin()
    valid = {name: message for name, (message, _) in requests(KNOWN["annotation_file_uris"][0]).items()}
    turns = [
        (path, valid[rpc.name], slot)
        for path, rpc in EVERYTHING.items()
        if rpc.name in valid and not rpc.name.startswith(LEFT_OUT)
        for slot in _slots(valid[rpc.name])
    ]
    for number, name in enumerate(NAMES[::share]):
        for turn in range(CALLS_OF_A_NAME):
            path, message, slot = turns[(number * CALLS_OF_A_NAME + turn) % len(turns)]
            if not ("/Delete" in path and name in KEPT):
                await attacked.call(path, [_with(message, slot, name)])
    assert attacked.outcomes["INVALID_ARGUMENT"] > len(NAMES) // share
    assert attacked.touched.count > 100 // share, "those that are not refused are looked for in the project"


async def test_no_path_of_an_upload_reaches_what_is_not_the_callers(attacked: Attacked, share: int) -> None:
    attacked.begin()
    upload, read = (f"/sightline.v1.DatasetService/{rpc}" for rpc in ("UploadFiles", "ReadUploadedFile"))
    for number, name in enumerate((*NAMES, *URIS)[::share]):
        try:
            messages = upload_messages(f"u{number}", {name: b"x"})
        except UnicodeEncodeError:
            continue
        await attacked.call(upload, messages)
        await attacked.call(read, [datasets.ReadUploadedFileRequest(parent="uploads/pets", path=name)])
    assert attacked.outcomes["INVALID_ARGUMENT"] > len(NAMES) // share
    assert attacked.outcomes["OK"] > 10 // share, "odd names that are harmless are stored"


async def test_no_uri_in_any_request_reaches_what_is_not_the_callers(attacked: Attacked, share: int) -> None:
    attacked.begin()
    dataset, prediction = "/sightline.v1.DatasetService/", "/sightline.v1.PredictionService/"
    for uri in URIS[::share]:
        batch = batch_prediction_pb2.BatchPrediction(model_name="models/m", input_uri_prefix=uri)
        written = batch_prediction_pb2.BatchPrediction(
            model_name="models/m", dataset_name="datasets/pets", output_uri_prefix=uri
        )
        await attacked.call(f"{dataset}CreateDataset", [attacked.suite.world.request("x", uris=(uri,))])
        await attacked.call(f"{prediction}AnalyzeImage", [predictions.AnalyzeImageRequest(model_name="m", uri=uri)])
        for one in (batch, written):
            made = predictions.CreateBatchPredictionRequest(batch_prediction=one, batch_prediction_id="x")
            await attacked.call(f"{prediction}CreateBatchPrediction", [made])
    assert attacked.outcomes.keys() <= {"INVALID_ARGUMENT", "NOT_FOUND"}


async def test_no_uri_and_no_path_in_a_coco_file_reaches_what_is_not_the_callers(attacked: Attacked) -> None:
    suite = attacked.suite
    fields = ("file_name", "coco_url", "absolute_url")
    images = [{name: text} for name in fields for text in (*URIS, *NAMES)]
    described = json.loads(coco([], [], ["a", "b"]))
    described["images"] = [{"id": number, "width": 9, "height": 9, **one} for number, one in enumerate(images)]
    described["annotations"] = [
        {"id": number, "image_id": number, "category_id": described["categories"][0]["id"]}
        for number in range(len(images))
    ]
    await suite.upload("hostile", {"train.json": json.dumps(described).encode()}, "ann")
    request = suite.world.request("hostile", uris=(f"{UPLOAD.replace('pets', 'hostile')}train.json",))
    await suite.call("CreateDataset", request, "ann")
    await suite.world.work()
    found = await suite.call("GetDataset", datasets.GetDatasetRequest(name="datasets/hostile"), "ann")
    assert found.error.message
    findings = await suite.call("ListFindings", datasets.ListFindingsRequest(parent="datasets/hostile"), "ann")
    assert findings.findings
    assert attacked.touched.outside == []


async def test_no_path_and_no_url_to_the_gateway_reaches_what_is_not_the_callers(
    attacked: Attacked, share: int
) -> None:
    attacked.begin()
    headers = {"authorization": f"Bearer {attacked.suite.tokens['ann']}"}
    async with gateway_of(attacked.suite) as client:

        async def ask(method: str, path: str, body: Any = None) -> None:
            answered = await client.request(method, path, json=body, headers=headers, timeout=60)
            attacked.outcomes[str(answered.status_code)] += 1
            assert answered.status_code < 500 or answered.status_code in (501, 503), f"{method} {path} {body}"
            assert answered.status_code < 400 or answered.json(), f"{method} {path} {body}"
            assert "nobody may read this" not in answered.text
            assert attacked.touched.outside == [], f"{method} {path} {body}"

        places = [(method, path) for method, path, _ in PATHS if "{" in path and method != "DELETE"]
        for number, name in enumerate(NAMES[::share]):
            for turn in range(PATHS_OF_A_NAME):
                method, path = places[(number * PATHS_OF_A_NAME + turn) % len(places)]
                while "{" in path:
                    head, _, tail = path.partition("{")
                    path = head + quote(name, safe="%" if turn else "") + tail.partition("}")[2]
                await ask(method, path)
        for uri in (*URIS, *(f"https://h/{name}" for name in NAMES))[::share]:
            about = "api-version=2023-02-01-preview"
            await ask("POST", f"/computervision/imageanalysis:analyze?{about}&model-name=m", {"url": uri})
            made = {"annotationKind": "imageClassification", "annotationFileUris": [uri]}
            await ask("PUT", f"/computervision/datasets/x?{about}", made)
    assert attacked.outcomes["400"] > len(URIS) // share
