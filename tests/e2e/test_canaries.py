"""Secrets are nowhere but where they belong: each one that a process or a call is given is searched for in all output.

A canary is a secret of which there is no other copy. Real processes get them as settings, right and wrong, and real
calls carry them as tokens, keys, cookies and queries, most of which fail.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from services.infra.jetstream import connected
from services.infra.jetstream_queue import STREAM
from services.infra.jetstream_records import JetStreamRecords
from sightline.client import keys
from sightline.local.stack import Stack
from sightline.v1 import batch_prediction_pb2, dataset_pb2
from sightline.v1 import dataset_service_pb2 as datasets
from sightline.v1 import model_service_pb2 as models
from sightline.v1 import prediction_service_pb2 as predictions
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from tests.e2e.conftest import RunningStack
from tests.releases import images
from tests.support.collector import Collecting, collecting
from tests.support.datasets import upload_messages
from tests.support.processes import children, command_line, descendants
from tests.support.s3 import S3Server
from tests.support.servers import NatsServer
from tests.support.tokens import Issuer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = 60.0
WRONG_SECONDS = 6.0  # that a process may run which does not see that something is wrong
PROCESSES = (
    ("services.dataset", "api"),
    ("services.trainer", "worker"),
    ("services.predictor",),
    ("services.gateway",),
)
BROKEN_PEM = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n"
URIS = (
    "https://account.blob.core.windows.net/photos/coco.json?sv=2024-11-04&sig={}",
    "https://bucket.s3.amazonaws.com/coco.json?X-Amz-Credential=x&X-Amz-Signature={}",
    "https://me:{}@example.test/coco.json",
    "s3://sightline/uploads/u/coco.json?X-Amz-Signature={}",
    "s3://me:{}@sightline/uploads/u/coco.json",
    "S3://me:{}@sightline/uploads/u/coco.json",
    "https://me:{}@[broken/coco.json",
)
HEADERS = ("Ocp-Apim-Subscription-Key", "Training-Key", "Prediction-Key", "Authorization", "Cookie", "X-Api-Key")


@dataclass
class Canaries:
    """Every secret that was given away, by what it was given away as, and all the text that must not have it."""

    made: dict[str, str] = field(default_factory=dict[str, str])
    found: dict[str, str] = field(default_factory=dict[str, str])

    def new(self, where: str, form: str = "{}") -> str:
        """A new secret, in its form."""
        secret = f"canary{len(self.made):03d}{secrets.token_hex(8)}"
        self.made[f"{len(self.made)}: {where} ({form})"] = secret
        return form.format(secret)

    def known(self, where: str, secret: str) -> str:
        """A secret that something else has made."""
        self.made[where] = secret
        return secret

    def look(self, text: str | bytes, where: str) -> None:
        """Notes the secrets in the text, also in the encodings in which headers and queries have them."""
        text = text if isinstance(text, str) else text.decode(errors="replace")
        for what, secret in self.made.items():
            coded = base64.b64encode(f"me:{secret}".encode()).decode().rstrip("=")[4:-4]
            if secret in text or coded in text:
                place = max(text.find(secret), text.find(coded))
                self.found[what] = f"{where}: {text[max(0, place - 200) : place + 60]}"


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def token(canaries: Canaries) -> tuple[str, str]:
    """An admin's key, and its line for the services."""
    key, line = keys.make("admin", "admin")
    return canaries.known("the key of a caller and of the services", key), line


@pytest.fixture
def spans() -> Iterator[Collecting]:
    """What the suite's processes trace."""
    with collecting() as running:
        yield running


@pytest.fixture
def suite(
    canaries: Canaries, token: tuple[str, str], s3_server: S3Server, spans: Collecting, tmp_path: Path
) -> Iterator[Stack]:
    """A suite that has secrets of every kind, and tells all that it can tell."""
    folder = tmp_path
    (folder / "keys").write_text(token[1] + "\n")
    environment = {
        "SIGHTLINE_LOG_LEVEL": "DEBUG",
        "SIGHTLINE_AUTH_KEYS": str(folder / "keys"),
        "SIGHTLINE_TOKEN": token[0],
        "SIGHTLINE_AUDIT_READS": "true",
        "SIGHTLINE_STORE_DIRECTORY": "",
        "SIGHTLINE_S3_ENDPOINT": s3_server.endpoint,
        "SIGHTLINE_S3_ACCESS_KEY": s3_server.access_key,
        "SIGHTLINE_S3_SECRET_KEY": canaries.known("the key of the store", s3_server.secret_key),
        "SIGHTLINE_S3_SECURE": "false",
        "SIGHTLINE_BUCKET": "sightline",
        **spans.environment,
        "OTEL_EXPORTER_OTLP_HEADERS": canaries.new("a header of the collector", "authorization=Bearer {}"),
    }
    with RunningStack(folder / "suite", metrics_port=0, environment=environment) as running:
        for user, password in json.loads((folder / "suite/nats/passwords.json").read_text()).items():
            canaries.known(f"the password of {user} at NATS", password)
        yield running.stack


def test_no_secret_of_a_call_or_a_setting_is_in_any_output_of_a_running_suite(
    suite: Stack, canaries: Canaries, token: tuple[str, str], spans: Collecting, tmp_path: Path
) -> None:
    _register(suite, canaries, token[0], tmp_path)
    _call_with_tokens(suite, canaries)
    _call_with_uris(suite, canaries, token[0])
    _ask_the_gateway(suite, canaries, token[0])
    for name, port in suite.metrics_ports.items():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
            canaries.look(answer.read(), f"metrics of {name}")
    for path in (*suite.logs.iterdir(), *(suite.data / "audit").iterdir()):
        canaries.look(path.read_bytes(), str(path.relative_to(suite.data)))
    asyncio.run(_look_into_nats(suite, canaries))
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            canaries.look(command_line(pid) + Path(f"/proc/{pid}/comm").read_text(), f"title of process {pid}")
    spans.collector.wait_until(lambda span: "AnalyzeImage" in span.name)
    for exported in list(spans.collector.raw):
        canaries.look(exported, "spans")
    assert len(canaries.made) >= 50
    assert '"level": "debug"' in (suite.logs / "dataset.log").read_text(), "logs of all levels were searched"
    assert canaries.found == {}


def _send(address: str, path: str, request: Message, metadata: Any, canaries: Canaries) -> str:
    """Calls, looks into all that comes back, and returns the code."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(f"/sightline.v1.{path}", request_serializer=type(request).SerializeToString)
        try:
            canaries.look(call(request, metadata=metadata, timeout=SECONDS), f"the answer of {path}")
        except grpc.RpcError as error:
            failed: Any = error
            seen = (failed.details(), failed.debug_error_string(), *(failed.trailing_metadata() or ()))
            canaries.look(repr(seen), f"the error of {path}")
            return str(failed.code().name)
        return "OK"


def _register(suite: Stack, canaries: Canaries, key: str, folder: Path) -> None:
    """A dataset whose COCO file has presigned urls; its findings and records are looked into."""
    coco = images.write(folder / "set", count=6, shapes=1, seed=1)
    content = json.loads(coco.read_text())
    for number, (image, form) in enumerate(zip(content["images"][:5], URIS, strict=False)):
        image["absolute_url" if number % 2 else "coco_url"] = canaries.new("a url in a COCO file", form)
        image["file_name"] = f"missing-{number}.png" if form.startswith("s3") else ""
    coco.write_text(json.dumps(content))
    files = {path.name: path.read_bytes() for path in coco.parent.iterdir()}
    metadata = [("authorization", f"Bearer {key}")]
    with grpc.insecure_channel(suite.addresses.dataset, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = DatasetServiceStub(channel)
        sent = stub.UploadFiles(iter(upload_messages("u", files)), metadata=metadata, timeout=SECONDS)
        uri = next(one.uri for one in sent.files if one.path == "coco.json")
        dataset = dataset_pb2.Dataset(
            annotation_kind=dataset_pb2.Dataset.IMAGE_CLASSIFICATION, annotation_file_uris=[uri]
        )
        stub.CreateDataset(datasets.CreateDatasetRequest(dataset_id="d", dataset=dataset), metadata=metadata)
        watch = stub.WatchDataset(datasets.WatchDatasetRequest(name="datasets/d"), metadata=metadata, timeout=SECONDS)
        *_, last = watch
        canaries.look(str(last), "WatchDataset")
        findings = stub.ListFindings(datasets.ListFindingsRequest(parent="datasets/d"), metadata=metadata)
        assert len(findings.findings) >= 5
        canaries.look(str(findings), "ListFindings")


def _call_with_tokens(suite: Stack, canaries: Canaries) -> None:
    """Tokens of every kind that are not accepted, on each service."""
    stranger = Issuer("stranger")
    forms = {
        "a key": "Bearer slk_{}",
        "a bearer token": "Bearer {}",
        "a basic password": "Basic {}",
        "a token without scheme": "{}",
        "a token of three parts": "Bearer {0}.{0}.{0}",
        "a token of 9 kB": "Bearer {}" + "x" * 9000,
        "a token with a byte that is none of UTF-8": "Bearer {}\xff",
    }
    calls = (
        (suite.addresses.dataset, "DatasetService/ListDatasets", datasets.ListDatasetsRequest()),
        (suite.addresses.trainer, "ModelService/DeleteModel", models.DeleteModelRequest(name="models/m")),
        (suite.addresses.predictor, "PredictionService/AnalyzeImage", predictions.AnalyzeImageRequest(model_name="m")),
    )
    for address, path, request in calls:
        for what, form in forms.items():
            metadata = [("authorization", canaries.new(what, form).encode("latin-1"))]
            assert _send(address, path, request, metadata, canaries) != "OK"
        metadata = [
            ("authorization", f"Bearer {canaries.known(f'a forged token for {path}', stranger.token('admin'))}")
        ]
        assert _send(address, path, request, metadata, canaries) != "OK"


def _call_with_uris(suite: Stack, canaries: Canaries, key: str) -> None:
    """Presigned urls and passwords in every field that takes a uri; each is refused."""
    metadata = [("authorization", f"Bearer {key}")]

    def dataset(uri: str) -> Message:
        kind = dataset_pb2.Dataset.IMAGE_CLASSIFICATION
        made = dataset_pb2.Dataset(annotation_kind=kind, annotation_file_uris=[uri])
        return datasets.CreateDatasetRequest(dataset_id="x", dataset=made)

    def batch(**fields: str) -> Message:
        made = batch_prediction_pb2.BatchPrediction(model_name="models/m")
        for name, uri in fields.items():
            setattr(made, name, uri)
        return predictions.CreateBatchPredictionRequest(batch_prediction_id="x", batch_prediction=made)

    predictor = suite.addresses.predictor
    for form in URIS:
        uri = canaries.new("annotation_file_uris", form)
        assert _send(suite.addresses.dataset, "DatasetService/CreateDataset", dataset(uri), metadata, canaries) != "OK"
        image = predictions.AnalyzeImageRequest(model_name="models/m", uri=canaries.new("AnalyzeImage.uri", form))
        assert _send(predictor, "PredictionService/AnalyzeImage", image, metadata, canaries) != "OK"
        for name in ("input_uri_prefix", "output_uri_prefix"):
            fields = {"input_uri_prefix": "s3://sightline/uploads/u/"} | {name: canaries.new(name, form)}
            made = batch(**fields)
            assert _send(predictor, "PredictionService/CreateBatchPrediction", made, metadata, canaries) != "OK"


def _ask_the_gateway(suite: Stack, canaries: Canaries, key: str) -> None:
    """Keys in headers, queries, cookies and forms, and uris in bodies, with a key that is accepted and without."""
    analyze = "/computervision/imageanalysis:analyze?api-version=2023-02-01-preview&model-name=m"
    requests: list[tuple[str, dict[str, str], bytes]] = [
        (analyze, {name: canaries.new(f"the header {name}")}, b'{"url": "https://example.test/a.png"}')
        for name in HEADERS
    ]
    requests += [
        (f"{analyze}&subscription-key={canaries.new('a key in a query')}", {}, b"{}"),
        (f"/customvision/v3.3/Training/projects?Training-key={canaries.new('a key in a query')}", {}, b""),
        ("/studio/", {"Cookie": f"sightline_token={canaries.new('a cookie')}"}, b""),
        ("/studio/sign-in", {}, f"token={canaries.new('a form of the studio')}".encode()),
        (f"/studio/sign-in?next=/studio/&token={canaries.new('a query of the studio')}", {}, b""),
    ]
    accepted = {"Ocp-Apim-Subscription-Key": key, "Content-Type": "application/json"}
    for form in URIS:
        body = {"url": canaries.new("a url to the gateway", form)}
        requests.append((analyze, accepted, json.dumps(body).encode()))
        body = {"annotationKind": "imageClassification", "annotationFileUris": [canaries.new("a blob URI", form)]}
        path = "/computervision/datasets/y?api-version=2023-02-01-preview"
        requests.append((path, accepted | {"X-Method": "PUT"}, json.dumps(body).encode()))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path, headers, body in requests:
        method = headers.pop("X-Method", "POST" if body else "GET")
        request = urllib.request.Request(suite.gateway + path, body or None, headers, method=method)
        try:
            answer = opener.open(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            shown = [value for name, value in answer.headers.items() if name.lower() != "set-cookie"]
            canaries.look(
                repr(shown) + answer.read().decode(errors="replace"), f"the answer of {path.partition('?')[0]}"
            )


async def _look_into_nats(suite: Stack, canaries: Canaries) -> None:
    async with connected(suite.nats_url, "canaries") as connection:
        for name, value in (await JetStreamRecords(connection).all()).items():
            canaries.look(value, f"the record {name}")
        for stream in (STREAM, "SIGHTLINE_AUDIT"):
            js = connection.jetstream()
            state = (await js.stream_info(stream)).state
            assert stream == STREAM or state.messages > 50
            for sequence in range(state.first_seq, state.last_seq + 1):
                with contextlib.suppress(Exception):
                    canaries.look((await js.get_msg(stream, sequence)).data or b"", f"{stream} {sequence}")


@pytest.mark.long
def test_no_secret_of_a_setting_that_is_wrong_is_in_the_output_of_a_process(
    canaries: Canaries, s3_server: S3Server, nats_server: NatsServer, tmp_path: Path
) -> None:
    cases = {
        f"{' '.join(words)} with {name}": (words, environment)
        for words in PROCESSES
        for name, environment in _wrong(canaries, s3_server, nats_server, tmp_path).items()
    }
    printed = 0
    with ThreadPoolExecutor(4) as threads:
        for (where, _), output in zip(
            cases.items(), threads.map(lambda case: _ran(*case), cases.values()), strict=True
        ):
            printed += len(output) > 50
            canaries.look(output, where)
    assert printed > len(cases) / 2, "some have nothing to say, or do not get so far on a busy machine"
    assert len(canaries.made) >= 40
    assert canaries.found == {}


def _wrong(canaries: Canaries, s3_server: S3Server, nats: NatsServer, folder: Path) -> dict[str, dict[str, str]]:
    """Environments with secrets in them of which something is wrong, each of which ends or disturbs a process."""

    def file(name: str, form: str) -> str:
        path = folder / f"{len(canaries.made)}-{name}"
        path.write_text(canaries.new(name, form))
        return str(path)

    pem = file("private key", BROKEN_PEM)
    return {
        "a broken url of NATS": {
            "SIGHTLINE_NATS_URL": canaries.new("NATS", "nats://me:{}@localhost:0/x?token=1"),
            "SIGHTLINE_PORT": canaries.new("a port that is none"),
        },
        "credentials of NATS and keys that are none": {
            "SIGHTLINE_NATS_URL": nats.url,
            "SIGHTLINE_NATS_CREDENTIALS": canaries.new("NATS credentials", "-----BEGIN NATS USER JWT-----\n{}\n"),
            "SIGHTLINE_SIGNING_KEY": canaries.new("signing key", BROKEN_PEM),
            "SIGHTLINE_TLS_CERTIFICATE": pem,
            "SIGHTLINE_TLS_KEY": pem,
            "SIGHTLINE_TLS_CLIENT_CERTIFICATE": pem,
            "SIGHTLINE_TLS_CLIENT_KEY": pem,
            "SIGHTLINE_AUTH_KEYS": file("keys of callers", "name admin sha256:{}"),
        },
        "secrets that nobody accepts": {
            "SIGHTLINE_NATS_URL": canaries.new("NATS", "nats://me:{}@127.0.0.1:9"),
            "SIGHTLINE_S3_ENDPOINT": s3_server.endpoint,
            "SIGHTLINE_S3_SECURE": "false",
            "SIGHTLINE_S3_ACCESS_KEY": s3_server.access_key,
            "SIGHTLINE_S3_SECRET_KEY": canaries.new("S3"),
            "SIGHTLINE_TOKEN": canaries.new("token"),
            "SIGHTLINE_AUTH_JWKS": canaries.new("JWKS", "https://me:{}@127.0.0.1:9/keys?code=1"),
            "SIGHTLINE_AUTH_ISSUER": "x",
            "SIGHTLINE_AUTH_AUDIENCE": "x",
        },
    }


def _ran(words: tuple[str, ...], environment: dict[str, str]) -> str:
    """What the process printed until it ended or had a few seconds, and its title."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE")}
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        env=known | {"SIGHTLINE_LOG_LEVEL": "DEBUG", "SIGHTLINE_PORT": "0"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    title = command_line(process.pid)
    try:
        output, _ = process.communicate(timeout=WRONG_SECONDS)
    except subprocess.TimeoutExpired:
        title += "".join(map(command_line, children(process.pid)))
        process.send_signal(signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    return title + output.decode(errors="replace")
