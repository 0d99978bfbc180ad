"""Tokens at a real server: what each role may call, and every token that is refused."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from services.infra.auth import AuthUnusable
from services.infra.channel import open_channel
from services.kit import errors
from services.kit.roles import POLICY
from sightline.client import keys
from sightline.client.client_aio import AsyncClient
from sightline.client.errors import Unauthenticated
from sightline.client.stubs import Stubs
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.channel import describe
from sightline.client.transport.connection import PROJECT, bearer
from sightline.client.transport.credentials import Credentials
from sightline.client.uploads import LocalFile
from sightline.v1 import dataset_service_pb2, prediction_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.support.certificates import replace
from tests.support.logs import events
from tests.support.runtime import bare_channel, serving
from tests.support.tokens import Issuer, publish, settings
from tests.support.waiting import eventually

GET = dataset_service_pb2.GetDatasetRequest(name="datasets/birds")
WATCH = dataset_service_pb2.WatchDatasetRequest(name="datasets/birds")

ISSUER = Issuer()
STRANGER = Issuer(ISSUER.kid)


@pytest.fixture
def issuer() -> Issuer:
    return ISSUER


@pytest.fixture
def jwks_file(tmp_path: Path, issuer: Issuer) -> Path:
    return publish(tmp_path / "jwks.json", issuer)


async def answer(address: str, *metadata: tuple[str, str]) -> tuple[str, str]:
    """The code and message of a GetDataset with the metadata."""
    async with bare_channel(address) as channel:
        try:
            await DatasetServiceStub(channel).GetDataset(GET, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code().name, describe(error).message
    return "OK", ""


def unsigned(*parts: object) -> str:
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return ".".join(encoded)


def signed_with_the_public_key(issuer: Issuer, kid: str) -> str:
    """HS256 with the public key as the secret, which a verifier that trusts the header accepts."""
    claims = json.loads(base64.urlsafe_b64decode(issuer.token().split(".")[1] + "=="))
    body = unsigned({"alg": "HS256", "typ": "JWT", "kid": kid}, claims)
    mac = hmac.new(issuer.public_pem, body.encode(), sha256).digest()
    return body + "." + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def hostile(issuer: Issuer) -> dict[str, tuple[str, str, str]]:
    """Invalid tokens, each with its expected code and message."""
    now = int(time.time())
    claims = {"sub": "a", "iss": "https://issuer.example", "aud": "sightline", "exp": now + 99, "role": "admin"}
    signature = issuer.token().rpartition(".")[2]
    no, denied = "UNAUTHENTICATED", "PERMISSION_DENIED"
    header = {"alg": "none", "kid": issuer.kid}
    return {
        "alg none": (unsigned(header, claims) + ".", no, "algorithm"),
        "alg None": (unsigned(header | {"alg": "None"}, claims) + ".", no, "algorithm"),
        "alg none with a signature": (unsigned(header, claims) + "." + signature, no, "algorithm"),
        "alg a list": (unsigned(header | {"alg": ["RS256"]}, claims) + "." + signature, no, "algorithm|malformed"),
        "HS256 with the public key": (signed_with_the_public_key(issuer, issuer.kid), no, "algorithm"),
        "another algorithm of the list": (
            unsigned(header | {"alg": "ES256"}, claims) + "." + signature,
            no,
            "not that of its key",
        ),
        "claims of one and signature of another": (
            issuer.token("viewer").rpartition(".")[0] + "." + signature,
            no,
            "signature",
        ),
        "another key under a known id": (STRANGER.token(), no, "signature"),
        "its own key in the header": (
            STRANGER.token(headers={"kid": "own", "jwk": STRANGER.jwk | {"kid": "own"}}),
            no,
            "does not publish",
        ),
        "no kid": (issuer.token(headers={"kid": None}), no, "kid|malformed"),
        "empty kid": (issuer.token(headers={"kid": ""}), no, "kid"),
        "a path as kid": (issuer.token(headers={"kid": "../../dev/null"}), no, "does not publish"),
        "another issuer": (issuer.token(iss="https://other.example"), no, "another issuer"),
        "another audience": (issuer.token(aud="other"), no, "another audience"),
        "expired": (issuer.token(exp=now - 60), no, "expired"),
        "not valid yet": (issuer.token(nbf=now + 120), no, "not valid yet"),
        "without an end": (issuer.token(exp=None), no, "lacks one of the claims"),
        "without an audience": (issuer.token(aud=None), no, "lacks one of the claims"),
        "without a subject": (issuer.token(sub=None), no, "lacks one of the claims"),
        "an expiry that is not a number": (issuer.token(exp="soon"), no, "malformed"),
        "critical extension": (issuer.token(headers={"crit": ["x"], "x": 1}), no, "malformed"),
        "huge": ("x" * 15_000, no, "longer than 8192"),
        "deeply nested header": (
            base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30." + signature,
            no,
            "malformed",
        ),
        "words": ("hello", no, "malformed"),
        "dots": ("...", no, "malformed"),
        "unknown role": (issuer.token("root"), denied, "alice has none"),
        "a role in another case": (issuer.token("ADMIN"), denied, "alice has none"),
        "no role": (issuer.token(None), denied, "alice has none"),
        "an object as role": (issuer.token({"admin": True}), denied, "alice has none"),
        "objects among roles": (issuer.token([["admin"], {}, 1]), denied, "alice has none"),
        "a key that was never issued": (keys.make("x", "admin")[0], no, "takes|malformed"),
    }


@pytest.mark.parametrize("name", hostile(ISSUER))
async def test_a_hostile_token_is_refused_with_its_reason_and_never_repeated(issuer, jwks_file, log_stream, name):
    token, code, words = hostile(issuer)[name]
    async with serving(**settings(jwks_file)) as running:
        got, message = await answer(running.address, bearer(token))
        labels = {"grpc_service": "sightline.v1.DatasetService", "grpc_method": "GetDataset", "grpc_type": "unary"}
        grpc_code = code.title().replace("_", "")
        await eventually(lambda: running.metric("grpc_server_handled_total", **labels, grpc_code=grpc_code) == 1)
    assert got == code
    assert any(word in message for word in words.split("|")), message
    assert "GetDataset" in message
    assert "viewer" in message
    assert len(token) < 8 or token[-40:] not in message + log_stream.getvalue()
    assert not events(log_stream, "internal_error")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([], "has none"),
        ([("authorization", "Basic YTpi")], "is not `Bearer TOKEN`"),
        ([("authorization", "Bearer ")], "is not `Bearer TOKEN`"),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], "is not `Bearer TOKEN`"),
    ],
)
async def test_a_call_without_one_bearer_token_is_unauthenticated(jwks_file, metadata, words):
    async with serving(**settings(jwks_file)) as running:
        code, message = await answer(running.address, *metadata)
    assert (code, words in message) == ("UNAUTHENTICATED", True)


@pytest.mark.parametrize(("more", "code"), [(b"", "OK"), (b"\xff", "UNAUTHENTICATED")])
async def test_a_token_with_an_invalid_byte_is_refused_and_not_logged(issuer, jwks_file, log_stream, more, code):
    token = issuer.token("viewer")
    async with serving(**settings(jwks_file)) as running:
        host, _, port = running.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw_call(f"Bearer {token}".encode() + more))
        await eventually(lambda: f'"code": "{code}"' in log_stream.getvalue())
        writer.close()
    assert token not in log_stream.getvalue()


def raw_call(authorization: bytes) -> bytes:
    """One GetDataset as raw HTTP/2: gRPC's own clients send no such byte, others do."""

    def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content

    def text(value: bytes) -> bytes:
        rest = len(value) - 127
        length = bytes([len(value)] if rest < 0 else [127, rest % 128 | 128, rest // 128])
        return length + value

    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":authority": b"localhost",
        b":path": b"/sightline.v1.DatasetService/GetDataset",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
        b"authorization": authorization,
    }
    block = b"".join(b"\0" + text(name) + text(value) for name, value in headers.items())
    request = GET.SerializeToString()
    message = b"\0" + len(request).to_bytes(4) + request
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, block) + frame(0, 1, 1, message)


@pytest.mark.parametrize("role", ["viewer", "predictor", "trainer", "admin"])
async def test_each_role_may_call_exactly_the_rpcs_in_the_table(issuer, jwks_file, tmp_path, role):
    allowed = {
        "GetDataset": {"viewer", "predictor", "trainer", "admin"},
        "WatchDataset": {"viewer", "predictor", "trainer", "admin"},
        "UploadFiles": {"trainer", "admin"},
        "AnalyzeImage": {"predictor", "admin"},
        "AnalyzeImages": {"predictor", "admin"},
    }
    line = keys.make("bob", role)
    key_file = replace(tmp_path / "keys", line[1].encode())
    async with serving(**settings(jwks_file), auth_keys=key_file) as running:
        tokens = (issuer.token(role), issuer.token([role, "somebody-elses"]), line[0])
        found = await asyncio.to_thread(codes, running.address, *tokens)
    wanted = {rpc: "OK" if role in roles else "PERMISSION_DENIED" for rpc, roles in allowed.items()}
    assert found == [wanted] * len(tokens)


def calls(channel: grpc.Channel, metadata: Any) -> dict[str, Callable[[], object]]:
    """A call of each type of rpc. Blocking: the asyncio client fails if a response arrives while it still sends."""
    datasets, predictions = DatasetServiceStub(channel), PredictionServiceStub(channel)
    upload, image = dataset_service_pb2.UploadFilesRequest(), prediction_service_pb2.AnalyzeImagesRequest()
    return {
        "GetDataset": lambda: datasets.GetDataset(GET, metadata=metadata),
        "WatchDataset": lambda: list(datasets.WatchDataset(WATCH, metadata=metadata)),
        "UploadFiles": lambda: datasets.UploadFiles(iter([upload] * 3), metadata=metadata),
        "AnalyzeImage": lambda: predictions.AnalyzeImage(
            prediction_service_pb2.AnalyzeImageRequest(), metadata=metadata
        ),
        "AnalyzeImages": lambda: list(predictions.AnalyzeImages(iter([image] * 3), metadata=metadata)),
    }


def codes(address: str, *tokens: str) -> list[dict[str, str]]:
    """The code of each of these calls, by rpc."""
    found: list[dict[str, str]] = []
    with grpc.insecure_channel(address) as channel:
        for token in tokens:
            ends: dict[str, str] = {}
            for rpc, call in calls(channel, [bearer(token)] if token else None).items():
                try:
                    call()
                    ends[rpc] = "OK"
                except grpc.RpcError as error:
                    ends[rpc] = describe(error).code.name
            found.append(ends)
    return found


async def test_without_a_token_no_handler_of_any_type_of_rpc_starts(jwks_file):
    begun = []

    async def act(request, _context):
        begun.append(request)

    async with serving(act, **settings(jwks_file)) as running:
        (found,) = await asyncio.to_thread(codes, running.address, "")
    assert set(found.values()) == {"UNAUTHENTICATED"}
    assert not begun


async def test_an_rpc_without_a_policy_is_refused_even_to_an_admin(issuer, jwks_file, monkeypatch):
    monkeypatch.delitem(POLICY, "/sightline.v1.DatasetService/GetDataset")
    async with serving(**settings(jwks_file)) as running:
        code, message = await answer(running.address, bearer(issuer.token("admin")))
    assert (code, "that nobody has" in message) == ("PERMISSION_DENIED", True)


async def test_health_has_places_of_its_own_of_which_a_newcomer_takes_the_oldest(issuer, jwks_file):
    async with (
        serving(**settings(jwks_file), max_calls=40, max_open_calls=20) as running,
        bare_channel(running.address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(10)]
        await asyncio.gather(*(watch.read() for watch in watches))
        ends = [asyncio.ensure_future(watch.read()) for watch in watches]
        newest = stub.Watch(health_pb2.HealthCheckRequest())
        await newest.read()
        (ended,), others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ended
        assert describe(caught.value).reason == "Overloaded"
        await stub.Check(health_pb2.HealthCheckRequest())
        assert not newest.done()
        for other in others:
            other.cancel()
        assert (await answer(running.address, bearer(issuer.token("viewer"))))[0] == "OK"


async def test_health_is_open_and_reflection_is_not(issuer, jwks_file):
    def listed(channel, metadata):
        stub: Any = ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        return stub.ServerReflectionInfo(iter([request]), metadata=metadata)

    async with serving(**settings(jwks_file)) as running, bare_channel(running.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(listed(channel, None)))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        answered = await anext(aiter(listed(channel, [bearer(issuer.token("viewer"))])))
        assert answered.list_services_response.service


async def test_the_callers_name_is_in_the_log_and_the_token_is_not(issuer, jwks_file, log_stream):
    token = issuer.token("viewer", sub="alice@example")
    async with serving(**settings(jwks_file)) as running:
        assert (await answer(running.address, bearer(token)))[0] == "OK"
        assert (await answer(running.address))[0] == "UNAUTHENTICATED"
    made = events(log_stream, "call")
    assert [line.get("caller") for line in made] == ["https://issuer.example:alice@example", None]
    assert token not in log_stream.getvalue()


async def test_the_keys_of_the_jwks_file_can_be_rotated_while_the_server_runs(issuer, jwks_file):
    second = Issuer("second")
    async with serving(**settings(jwks_file)) as running:
        assert (await answer(running.address, bearer(second.token())))[0] == "UNAUTHENTICATED"
        publish(jwks_file, issuer, second)
        assert (await answer(running.address, bearer(issuer.token())))[0] == "OK"
        assert (await answer(running.address, bearer(second.token())))[0] == "OK"
        publish(jwks_file, second)
        assert (await answer(running.address, bearer(issuer.token())))[0] == "UNAUTHENTICATED"
        replace(jwks_file, b'{"keys": [')
        assert (await answer(running.address, bearer(second.token())))[0] == "OK"


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
async def test_a_weak_key_of_the_issuer_is_not_trusted(tmp_path):
    weak = Issuer(bits=1024)
    async with serving(**settings(publish(tmp_path / "jwks.json", weak))) as running:
        code, message = await answer(running.address, bearer(weak.token()))
    assert (code, "too short" in message) == ("UNAUTHENTICATED", True)


async def test_a_static_key_is_valid_as_long_as_its_line_is_in_the_file(tmp_path):
    first, line = keys.make("first", "viewer")
    second, other = keys.make("second", "viewer")
    file = replace(tmp_path / "keys", f"# who may call\n\n{line}  # since today\n".encode())
    async with serving(auth_keys=file) as running:
        assert (await answer(running.address, bearer(first)))[0] == "OK"
        assert (await answer(running.address, bearer(second)))[0] == "UNAUTHENTICATED"
        replace(file, f"{other}\n".encode())
        assert (await answer(running.address, bearer(first)))[0] == "UNAUTHENTICATED"
        assert (await answer(running.address, bearer(second)))[0] == "OK"
        replace(file, f"{other}\nthis is not a key line\n".encode())
        assert (await answer(running.address, bearer(second)))[0] == "OK"
        code, message = await answer(running.address, bearer("ey.ey.ey"))
    assert (code, "takes keys only" in message) == ("UNAUTHENTICATED", True)
    assert first not in line


async def test_a_role_claim_is_found_by_its_whole_name_or_by_a_path_through_objects(issuer, jwks_file):
    claims: list[tuple[str, dict[str, Any]]] = [
        ("https://sightline.example/role", {"https://sightline.example/role": ["viewer"]}),
        ("realm_access.roles", {"realm_access": {"roles": ["offline_access", "viewer"]}}),
    ]
    for claim, given in claims:
        async with serving(**settings(jwks_file, auth_role_claim=claim)) as running:
            assert (await answer(running.address, bearer(issuer.token(None, **given))))[0] == "OK"
            assert (await answer(running.address, bearer(issuer.token("admin"))))[0] == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("content", "message"),
    [("first root sha256:00", "line 1"), ("first viewer secret", "line 1"), (None, "No such file")],
)
async def test_an_unusable_key_file_prevents_the_start(tmp_path, content, message):
    file = tmp_path / "keys"
    if content:
        file.write_text(content)
    with pytest.raises(AuthUnusable, match=f"{message}.*SIGHTLINE_AUTH_KEYS"):
        async with serving(auth_keys=file):
            pass


async def test_a_service_calls_another_with_the_current_token_of_its_file(tmp_path):
    made = [keys.make(f"service-{number}", "viewer") for number in (1, 2)]
    known = replace(tmp_path / "keys", made[0][1].encode())
    token = replace(tmp_path / "token", f"{made[0][0]}\n".encode())
    async with serving(auth_keys=known) as running:
        credentials = Credentials(token_file=str(token))
        async with open_channel(running.address, credentials=credentials) as channel:
            stub = DatasetServiceStub(channel)
            await stub.GetDataset(GET)
            assert [update async for update in stub.WatchDataset(WATCH)]
            replace(known, made[1][1].encode())
            with pytest.raises(errors.Unauthenticated, match="not among those"):
                await stub.GetDataset(GET)
            replace(token, made[1][0].encode())
            await stub.GetDataset(GET)
        async with open_channel(running.address) as channel:
            with pytest.raises(errors.Unauthenticated, match="needs a token of the role viewer: the call has none"):
                await DatasetServiceStub(channel).GetDataset(GET)


async def test_the_client_sends_its_token_with_calls_and_streams(tmp_path):
    key, line = keys.make("carol", "trainer")
    file = tmp_path / "image.png"
    file.write_bytes(b"png")

    def story(address: str) -> None:
        with Stubs(Addresses(dataset=address), Credentials(token=key)) as client:
            client.datasets.GetDataset(GET)
            assert list(client.watch_dataset("datasets/birds"))
            client.upload_files([LocalFile("image.png", file)])

    async with serving(auth_keys=replace(tmp_path / "keys", line.encode())) as running:
        await asyncio.to_thread(story, running.address)


async def test_the_asyncio_client_sends_its_token_with_calls_and_streams(tmp_path):
    key, line = keys.make("carol", "trainer")
    (tmp_path / "image.png").write_bytes(b"png")
    async with serving(auth_keys=replace(tmp_path / "keys", line.encode())) as running:
        addresses = Addresses(dataset=running.address)
        async with AsyncClient(addresses, Credentials(token=key)) as client:
            await client.datasets.get("birds")
            assert [dataset async for dataset in client.datasets.watch("birds")]
            await client.stubs.upload_files([LocalFile("image.png", tmp_path / "image.png")])
        async with AsyncClient(addresses, Credentials()) as client:
            with pytest.raises(Unauthenticated, match="the call has none"):
                await client.datasets.get("birds")


async def test_a_large_request_without_a_token_is_refused_unread(jwks_file):
    """A refusal that arrives while the caller still sends must keep its code."""
    image = prediction_service_pb2.AnalyzeImageRequest(image=bytes(20 * 1024**2))

    def send(address: str) -> list[str]:
        with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
            found: list[str] = []
            for _ in range(5):
                with pytest.raises(grpc.RpcError) as caught:
                    PredictionServiceStub(channel).AnalyzeImage(image)
                found.append(describe(caught.value).reason)
            return found

    async with serving(**settings(jwks_file)) as running:
        assert await asyncio.to_thread(send, running.address) == ["Unauthenticated"] * 5
        async with bare_channel(running.address) as channel:
            for _ in range(5):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await PredictionServiceStub(channel).AnalyzeImage(image)
                assert describe(caught.value).reason == "Unauthenticated"
    labels = {"grpc_service": "sightline.v1.PredictionService", "grpc_method": "AnalyzeImage", "grpc_type": "unary"}
    assert running.metric("grpc_server_msg_received_total", **labels) == 0


async def test_an_unusable_jwks_file_or_ca_prevents_the_start(tmp_path):
    for given, message in (
        (settings(tmp_path / "nowhere"), "No such file.*see SIGHTLINE_AUTH_JWKS"),
        (settings(replace(tmp_path / "jwks.json", b"{}")), "not a JWKS.*see SIGHTLINE_AUTH_JWKS"),
        (settings(Path(), auth_jwks="https://issuer.example", auth_ca=tmp_path / "nowhere"), "see SIGHTLINE_AUTH_"),
    ):
        with pytest.raises(AuthUnusable, match=message):
            async with serving(**given):
                pass


@pytest.mark.parametrize(
    ("claims", "asked", "code"),
    [
        ({}, "", "OK"),
        ({}, "acme", "PERMISSION_DENIED"),
        ({"org": {"projects": ["acme", "umbrella", "Not one", 3]}}, "umbrella", "OK"),
        ({"org": {"projects": ["acme", "umbrella"]}}, "other", "PERMISSION_DENIED"),
        ({"org": {"projects": "acme"}}, "", "OK"),
        ({"org": {"projects": "acme"}}, "default", "PERMISSION_DENIED"),
        ({"org": {"projects": "*"}}, "anything", "OK"),
        ({"org": {"projects": []}}, "", "PERMISSION_DENIED"),
        ({"org": {"projects": {"acme": True}}}, "acme", "PERMISSION_DENIED"),
    ],
)
async def test_a_token_holds_in_the_projects_of_its_claim(issuer, jwks_file, claims, asked, code):
    async with serving(**settings(jwks_file), auth_project_claim="org.projects") as running:
        metadata = (bearer(issuer.token("viewer", **claims)), *([(PROJECT, asked)] if asked else []))
        got, message = await answer(running.address, *metadata)
    assert got == code, message


async def test_without_the_setting_no_claim_opens_a_project(issuer, jwks_file):
    async with serving(**settings(jwks_file)) as running:
        token = bearer(issuer.token("viewer", projects="*", project="acme"))
        assert (await answer(running.address, token, (PROJECT, "acme")))[0] == "PERMISSION_DENIED"
        assert (await answer(running.address, token))[0] == "OK"


async def test_without_authentication_a_call_acts_in_the_project_that_it_names():
    acted: list[str] = []

    async def act(request: Any, _context: Any) -> None:
        acted.append(request.name)

    async with serving(act) as running:
        credentials = Credentials(project="acme")
        with Stubs(Addresses(dataset=running.address), credentials) as stubs:
            found = await asyncio.to_thread(stubs.datasets.GetDataset, GET)
        assert await answer(running.address) == ("OK", "")
        async with AsyncClient(Addresses(dataset=running.address), project="umbrella") as client:
            await client.stubs.datasets.GetDataset(GET)
    assert acted == ["projects/acme/datasets/birds", "datasets/birds", "projects/umbrella/datasets/birds"]
    assert found.name == "datasets/birds"
