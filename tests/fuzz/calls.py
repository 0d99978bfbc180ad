"""Targets: every rpc of every service, and every path of the gateway, on the services themselves."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from services.gateway import apis
from services.gateway.__main__ import services_of
from services.gateway.asgi import Gateway
from services.gateway.front import Front
from services.gateway.settings import GatewaySettings
from services.gateway.studio.app import Studio
from services.gateway.studio.cookies import PREFIX
from services.infra.auth import guard_of
from services.kit.errors import DOMAIN
from services.kit.quotas import Limits
from sightline.client.stubs_aio import AsyncStubs
from sightline.client.transport.connection import bearer
from sightline.client.transport.credentials import Credentials
from tests.fuzz.mutations import mutated, mutated_json, name
from tests.fuzz.protobuf import Messages
from tests.fuzz.target import Execute, target
from tests.service.test_projects import requests as valid_requests
from tests.support.gateway import served
from tests.support.studio import SHRINK
from tests.support.suite_of_projects import INFERENCE, SERVICES, Suite, suite
from tests.unit.predictor.serving import IMAGE

SECONDS = 30.0  # that a call gets
BROKEN_OFF = "Internal error from Core"  # gRPC's client, if the server answers before everything is sent
SLOW = ("EstimateTraining", "ExportModel", "Watch")  # wait for workers or changes, of which there are none here
SLOW_SECONDS = 0.2
MOST_ANSWERS = 5  # read of a stream; a Watch goes on as long as its resource changes
SAFE = ("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED", "RESOURCE_EXHAUSTED")
NAMED = {*SAFE, "UNIMPLEMENTED", "UNAVAILABLE", "PERMISSION_DENIED", "UNAUTHENTICATED"}
EVERYTHING = {f"/{rpc.containing_service.full_name}/{rpc.name}": rpc
              for service in (*(one for one, _ in SERVICES), INFERENCE) for rpc in service.methods}  # fmt: skip
KNOWN = {
    "name": ("datasets/pets", "models/m", "models/m/evaluations/e", "batchPredictions/b", "uploads/pets", "m", "image"),
    "parent": ("datasets/pets", "models/m", "uploads/pets", "models/nobody"),
    "model_name": ("models/m", "m"),
    "dataset_name": ("datasets/pets",),
    "training_dataset": ("datasets/pets",),
    "test_dataset": ("datasets/pets",),
    "base_model": ("models/m", ""),
    "uri": ("s3://sightline/projects/acme/uploads/pets/images/1.png", "s3://sightline/uploads/x.png"),
    "annotation_file_uris": ("s3://sightline/projects/acme/uploads/pets/train.json",),
    "path": ("train.json", "images/1.png", "new.png"),
    "upload_id": ("pets", "new"),
    "datatype": ("BYTES", "FP32"),
    "etag": ("1", "2", "x", ""),
    "paths": ("display_name", "custom_properties", "*", "name"),
}
KEPT = ("datasets/pets", "models/m", "models/m/evaluations/e", "batchPredictions/b", "uploads/pets")


@asynccontextmanager
async def suite_of_one(folder: Path, **ports: Any) -> AsyncGenerator[Suite]:
    """The services, with one of everything in the project acme, and little room for more."""
    async with suite(folder, **ports) as made:
        made.key("ann", "admin", "acme")
        await made.register("pets", "ann")
        await made.train("m", "datasets/pets", "ann")
        await made.predict_all("b", "datasets/pets", "models/m", "ann")
        made.world.limits = made.limits["acme"] = Limits(datasets=30, models=30, storage_bytes=1 << 30)
        yield made


@target
async def requests(folder: Path) -> AsyncGenerator[Execute]:
    """Requests of every rpc: random by the descriptor, valid with changes, or mutated bytes."""
    messages = Messages(KNOWN, (IMAGE, b"", b"x", IMAGE[:60], bytes(5000), b"\4\0\0\0abcd"))

    valid = valid_requests(KNOWN["annotation_file_uris"][0])

    async with suite_of_one(folder) as made:

        async def execute(random: Random) -> str:
            path = random.choice(list(EVERYTHING))
            rpc = EVERYTHING[path]
            make = GetMessageClass(rpc.input_type)
            sent: list[bytes] = []
            for _ in range(random.choice((0, 1, 2, 4)) if rpc.client_streaming else 1):
                message = make()
                if rpc.name in valid and random.random() < 0.7:
                    message.CopyFrom(valid[rpc.name][0])
                else:
                    messages.fill(message, random)
                for _ in range(random.choice((0, 1, 1, 2, 4))):
                    messages.change(message, random)
                if rpc.name.startswith("Delete") and getattr(message, "name", "") in KEPT:
                    return "left out"
                data = message.SerializeToString()
                sent.append(mutated(data, random) if random.random() < 0.2 and "Delete" not in rpc.name else data)
            channel = made.channels[rpc.containing_service.name]
            return await answer(channel, path, sent, [bearer(made.tokens["ann"])], random)

        yield execute


async def answer(channel: grpc.aio.Channel, path: str, sent: list[bytes], metadata: Any, random: Random) -> str:
    """The status of the call; AssertionError if it is none that the contract has, or says nothing."""
    rpc = EVERYTHING[path]
    kinds = {(False, False): channel.unary_unary, (False, True): channel.unary_stream,
             (True, False): channel.stream_unary, (True, True): channel.stream_stream}  # fmt: skip
    method: Any = kinds[rpc.client_streaming, rpc.server_streaming](path)
    seconds = SLOW_SECONDS if rpc.name.startswith(SLOW) else SECONDS
    call = method(iter(sent) if rpc.client_streaming else sent[0], metadata=metadata, timeout=seconds)
    try:
        if rpc.server_streaming:
            for _ in range(MOST_ANSWERS):
                if await call.read() is grpc.aio.EOF:
                    break
            call.cancel()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        code = error.code().name
        if error.details() == BROKEN_OFF and rpc.client_streaming:
            return "broken off"
        if code == "DEADLINE_EXCEEDED" and seconds == SLOW_SECONDS:
            return code
        _require_named(path, error)
        return code
    return "OK"


def _require_named(path: str, error: grpc.aio.AioRpcError) -> None:
    """AssertionError unless the status is one of the contract's and has our details."""
    said = f"{path}: {error.code()}: {error.details()}"
    assert error.code().name in NAMED, said
    trailers: Any = dict(error.trailing_metadata() or ())
    assert "grpc-status-details-bin" in trailers, said
    status = Status.FromString(trailers["grpc-status-details-bin"])
    infos = [info for detail in status.details if detail.Unpack(info := ErrorInfo())]
    assert [info.domain for info in infos] == [DOMAIN], said
    assert status.message, said


PATHS = [(one.method, api.prefix + one.path, one.query) for api in apis.served() for one in api.operations]


@asynccontextmanager
async def gateway_of(made: Suite) -> AsyncGenerator[Any]:
    """A client of a gateway in front of the services."""
    settings = GatewaySettings(
        auth_keys=made.keys_file, blob_prefixes="https://h/=s3://sightline/projects/acme/uploads/pets/"
    )
    async with AsyncStubs(made.addresses, Credentials()) as stubs:
        services, served_apis = services_of(stubs), apis.served()
        front = Front(Gateway(services, settings, served_apis), Studio(services, settings, SHRINK), PREFIX)
        async with served(front, settings, guard_of(settings)) as client:
            yield client


@target
async def gateway(folder: Path) -> AsyncGenerator[Execute]:
    """Requests over HTTP: the paths of Azure's APIs and of the studio, with parameters, JSON, forms and images."""
    words = ("m", "pets", "b", "e", "models", "datasets", "", "%2e%2e", "..", "x" * 300, "\u202e", "0", "-1")
    training = {"trainingDatasetName": "pets", "timeBudgetInHours": 1, "modelKind": "Generic-Classifier"}
    bodies: list[Any] = [
        {"url": "https://h/a.png"},
        {"Images": [{"name": "a", "contents": "iVBORw0KGgo=", "tagIds": ["a"]}]},
        {"trainingParameters": training},
        {"annotationKind": "imageClassification", "annotationFileUris": ["https://h/train.json"]},
        {"evaluationParameters": {"testDatasetName": "pets"}},
        {"images": [{"imageId": "a", "tagId": "b", "left": 0.1}]},
        {"selectedTags": ["a"], "notificationEmailAddress": "x"},
        {"name": "a", "settings": {"domainId": "b"}, "tags": []},
    ]
    form = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n' + IMAGE + b"\r\n--b--\r\n"
    async with suite_of_one(folder) as made, gateway_of(made) as client:

        async def execute(random: Random) -> str:
            method, path, queries = random.choice(PATHS)
            while "{" in path:
                head, _, tail = path.partition("{")
                path = head + quote(random.choice(words), safe="%") + tail.partition("}")[2]
            query = {one: name(random).encode(errors="replace").decode() for one in queries if random.random() < 0.5}
            kind = random.choice(("application/json", "multipart/form-data; boundary=b", "image/png", "", "text/x"))
            body = mutated_json(random.choice(bodies), random) if "json" in kind else mutated(form, random)
            headers = {"content-type": kind, "authorization": f"Bearer {made.tokens['ann']}"}
            response = await client.request(method, path, params=query, content=body, headers=headers, timeout=30)
            assert response.status_code < 500 or response.status_code in (501, 503, 504), (
                f"{method} {path} {query}: {response.status_code} {response.text[:300]}"
            )
            if response.status_code >= 400:
                assert json.loads(response.content), f"{method} {path}"
            return str(response.status_code)

        yield execute
