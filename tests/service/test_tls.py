"""TLS of servers and callers: rotation without a failed call, mutual TLS, and the errors that callers get."""

from __future__ import annotations

import asyncio
import ssl
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.infra.channel import open_channel
from services.infra.tls import CALLER_NAMES, EXPIRY, TlsUnusable
from services.kit.errors import Unavailable
from services.kit.settings import Settings, refuse_exposure
from sightline.client.stubs import Stubs
from sightline.client.stubs_aio import AsyncStubs
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.credentials import Credentials, CredentialsError
from sightline.client.transport.diagnosis import diagnose, explain
from sightline.v1 import dataset_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from tests.support.certificates import HOUR, Authority, Pair, replace
from tests.support.runtime import Serving, serving
from tests.support.servers import free_port
from tests.support.waiting import eventually

GET = dataset_service_pb2.GetDatasetRequest(name="datasets/birds")
ROTATIONS = 20


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> dict[str, Path]:
    """A server's pair, a caller's pair, and the CA that signed both."""
    certificate, key = authority.pair().write(tmp_path)
    client_certificate, client_key = authority.pair("caller").write(tmp_path, "client")
    return {
        "certificate": certificate,
        "key": key,
        "ca": authority.write(tmp_path),
        "client_certificate": client_certificate,
        "client_key": client_key,
    }


def server(files: dict[str, Path], *, mutual: bool = False) -> dict[str, Any]:
    """The settings of a server."""
    settings: dict[str, Any] = {"tls_certificate": files["certificate"], "tls_key": files["key"]}
    return settings | ({"tls_client_ca": files["ca"]} if mutual else {})


def caller(files: dict[str, Path], *, certificate: bool = False) -> Credentials:
    """A caller's credentials, on request with a certificate."""
    if not certificate:
        return Credentials(ca=str(files["ca"]))
    return Credentials(str(files["ca"]), str(files["client_certificate"]), str(files["client_key"]))


async def get(address: str, credentials: Credentials) -> None:
    """One call over a new connection."""
    async with open_channel(address, 20, credentials) as channel:
        await DatasetServiceStub(channel).GetDataset(GET)


async def presented(address: str) -> bytes:
    """The certificate that the server presents now."""
    host, _, port = address.rpartition(":")
    return (await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))).encode()


def one_line(pem: bytes) -> str:
    return "".join(pem.decode().split())


async def test_twenty_certificate_rotations_under_load_fail_no_call(files, authority, tmp_path):
    """Callers with an open connection, with a new one for each call, and with both client classes."""
    done = {"persistent": 0, "new": 0, "blocking": 0, "asyncio": 0}
    stop = threading.Event()

    async def persistent(channel: grpc.aio.Channel) -> None:
        while not stop.is_set():
            await DatasetServiceStub(channel).GetDataset(GET)
            done["persistent"] += 1
            await asyncio.sleep(0.002)

    credentials = caller(files, certificate=True).watch_channel(lambda _: None)

    async def new(address: str) -> None:
        """Without retries: no handshake may fail."""
        while not stop.is_set():
            async with grpc.aio.secure_channel(address, credentials.get(), [("grpc.enable_retries", 0)]) as channel:
                await DatasetServiceStub(channel).GetDataset(GET, timeout=10)
            done["new"] += 1

    def blocking(address: str) -> None:
        with Stubs(Addresses(dataset=address), caller(files, certificate=True)) as client:
            while not stop.wait(0.005):
                client.datasets.GetDataset(GET)
                done["blocking"] += 1

    async def of_asyncio(address: str) -> None:
        async with AsyncStubs(Addresses(dataset=address), caller(files, certificate=True)) as client:
            while not stop.is_set():
                await client.datasets.GetDataset(GET)
                done["asyncio"] += 1
                await asyncio.sleep(0.002)

    async with (
        serving(**server(files, mutual=True)) as running,
        open_channel(running.address, 5, caller(files, certificate=True)) as channel,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(3):
            group.create_task(persistent(channel))
        group.create_task(of_asyncio(running.address))
        group.create_task(new(running.address))
        group.create_task(asyncio.to_thread(blocking, running.address))
        try:
            for _ in range(ROTATIONS):
                pair = authority.pair()
                pair.write(tmp_path)
                authority.pair("caller").write(tmp_path, "client")
                assert one_line(await presented(running.address)) == one_line(pair.certificate)
                before = dict(done)
                await eventually(lambda: all(done[kind] > before[kind] for kind in done))  # noqa: B023 - awaited at once
        finally:
            stop.set()
    ends = running.metric("grpc_server_handled_total", **LABELS, grpc_code="OK")
    started = running.metric("grpc_server_started_total", **LABELS)
    assert ends == started == sum(done.values())
    assert min(done.values()) >= ROTATIONS


LABELS = {
    "grpc_type": "unary",
    "grpc_service": "sightline.v1.DatasetService",
    "grpc_method": "GetDataset",
}


async def test_a_new_connection_gets_the_new_certificate(files, authority, tmp_path):
    async with serving(**server(files)) as running:
        pair = authority.pair(valid=(-HOUR, 2 * HOUR))
        before = running.metric(EXPIRY.name, certificate="server")
        pair.write(tmp_path)
        assert one_line(await presented(running.address)) == one_line(pair.certificate)
        assert running.metric(EXPIRY.name, certificate="server") > before


async def test_a_callers_new_certificate_is_used_at_once_and_its_open_stream_continues(files, authority, tmp_path):
    """The server trusts another CA, and the caller has a certificate of it: the open stream is not cut off."""
    going = asyncio.Event()

    async def act(request, _context):
        if isinstance(request, dataset_service_pb2.WatchDatasetRequest):
            await going.wait()

    other = Authority("Other")
    clients = authority.write(tmp_path, "clients")
    async with (
        serving(act, **server(files) | {"tls_client_ca": clients}) as running,
        open_channel(running.address, 5, caller(files, certificate=True)) as channel,
    ):
        stub = DatasetServiceStub(channel)
        stream = aiter(stub.WatchDataset(dataset_service_pb2.WatchDatasetRequest(name="datasets/birds")))
        await anext(stream)
        replace(clients, other.certificate)
        other.pair("caller").write(tmp_path, "client")
        await stub.GetDataset(GET)
        going.set()
        assert (await anext(stream)).dataset.name == "datasets/birds"


@pytest.mark.parametrize("fault", ["half", "expired", "early", "garbage", "gone"])
async def test_an_unusable_pair_leaves_the_previous_one_in_use(files, authority, tmp_path, fault):
    good = files["certificate"].read_bytes()
    async with serving(**server(files)) as running:
        match fault:
            case "half":
                replace(files["certificate"], authority.pair().certificate)
            case "expired":
                authority.pair(valid=(-2 * HOUR, -HOUR)).write(tmp_path)
            case "early":
                authority.pair(valid=(HOUR, 2 * HOUR)).write(tmp_path)
            case "garbage":
                Pair(b"", b"garbage").write(tmp_path)
            case _:
                files["key"].unlink()
        assert one_line(await presented(running.address)) == one_line(good)
        await get(running.address, caller(files))
        whole = authority.pair()
        whole.write(tmp_path)
        assert one_line(await presented(running.address)) == one_line(whole.certificate)


@pytest.mark.parametrize(
    ("fault", "message"), [("half", "not a certificate and its private key"), ("expired", "expired at")]
)
async def test_a_server_without_a_usable_pair_does_not_start_and_names_the_setting(
    files, authority, tmp_path, fault, message
):
    if fault == "half":
        replace(files["certificate"], authority.pair().certificate)
    else:
        authority.pair(valid=(-2 * HOUR, -HOUR)).write(tmp_path)
    with pytest.raises(TlsUnusable, match=f"{message}.*SIGHTLINE_TLS_CERTIFICATE, SIGHTLINE_TLS_KEY"):
        async with serving(**server(files)):
            pass


@pytest.mark.usefixtures("quick_retries")
async def test_a_caller_that_trusts_another_ca_is_told_what_to_set(files, tmp_path):
    wrong = Credentials(ca=str(Authority("Other").write(tmp_path, "other")), names=CALLER_NAMES)
    async with serving(**server(files)) as running:
        with pytest.raises(Unavailable, match="not signed by the trusted CA: set SIGHTLINE_TLS_CA"):
            await get(running.address, wrong)


@pytest.mark.usefixtures("quick_retries")
async def test_a_certificate_that_expires_while_the_server_runs_is_named_as_the_fault(files, authority, tmp_path):
    authority.pair(valid=(-HOUR, timedelta(seconds=2))).write(tmp_path)
    async with serving(**server(files)) as running:
        await asyncio.sleep(2.2)
        with pytest.raises(Unavailable, match="certificate has expired: the operator must renew it"):
            await get(running.address, caller(files))


@pytest.mark.usefixtures("quick_retries")
async def test_a_certificate_for_another_host_is_named_as_the_fault(files, authority, tmp_path):
    authority.pair(hosts=("elsewhere.example",)).write(tmp_path)
    async with serving(**server(files)) as running:
        with pytest.raises(Unavailable, match="does not name this host"):
            await get(running.address, caller(files))


@pytest.mark.usefixtures("quick_retries")
async def test_plain_text_to_a_server_with_tls_and_the_reverse_say_what_to_set(files):
    async with serving(**server(files)) as running:
        with pytest.raises(Unavailable, match="set SIGHTLINE_CA to the CA"):
            await get(running.address, Credentials())
    async with serving() as running:
        with pytest.raises(Unavailable, match="does not use TLS: unset SIGHTLINE_CA"):
            await get(running.address, caller(files))


@pytest.mark.usefixtures("quick_retries")
async def test_mutual_tls_refuses_callers_without_a_certificate_or_with_an_expired_or_foreign_one(
    files, authority, tmp_path
):
    stranger = Authority("Other").pair("stranger").write(tmp_path, "stranger")
    expired = authority.pair("caller", valid=(-2 * HOUR, -HOUR)).write(tmp_path, "expired")
    async with serving(**server(files, mutual=True)) as running:
        await get(running.address, caller(files, certificate=True))
        with pytest.raises(Unavailable, match="SIGHTLINE_CLIENT_CERTIFICATE and SIGHTLINE_CLIENT_KEY"):
            await get(running.address, caller(files))
        for certificate, key in (stranger, expired):
            with pytest.raises(Unavailable, match="SIGHTLINE_CLIENT_CERTIFICATE"):
                await get(running.address, Credentials(str(files["ca"]), str(certificate), str(key)))


async def test_a_failed_connection_is_diagnosed_by_a_test_connection(files, authority, tmp_path):
    """gRPC names the fault of the last address only, and `localhost` has two."""
    other = Credentials(ca=str(Authority("Other").write(tmp_path, "other")))
    whole = caller(files, certificate=True)

    async def fault(running: Serving, credentials: Credentials) -> str:
        return await asyncio.to_thread(diagnose, running.address.replace("127.0.0.1", "localhost"), credentials)

    async with serving(**server(files, mutual=True)) as running:
        assert not await fault(running, whole)
        assert "set SIGHTLINE_CA to the right one" in await fault(running, other)
        assert "the service uses TLS: set SIGHTLINE_CA" in await fault(running, Credentials())
        assert "SIGHTLINE_CLIENT_CERTIFICATE and SIGHTLINE_CLIENT_KEY" in await fault(running, caller(files))
        authority.pair(hosts=("elsewhere.example",)).write(tmp_path)
        assert "does not name this host" in await fault(running, whole)
    async with serving() as running:
        assert "unset SIGHTLINE_CA" in await fault(running, whole)
        assert not await fault(running, Credentials())
    assert not await fault(running, Credentials())
    assert not await fault(running, whole)


async def test_the_probe_port_without_tls_answers_only_health(files):
    port = free_port()
    async with (
        serving(**server(files, mutual=True), probe_port=port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service="sightline.v1.DatasetService"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await DatasetServiceStub(channel).GetDataset(GET)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        (Credentials(certificate="c"), "set both SIGHTLINE_CLIENT_CERTIFICATE and SIGHTLINE_CLIENT_KEY"),
        (Credentials(certificate="c", key="k"), "needs TLS: set SIGHTLINE_CA"),
        (Credentials(token="t"), "plain text: set SIGHTLINE_CA"),
        (Credentials(ca="/nowhere/ca.crt"), "No such file.*see SIGHTLINE_CA"),
        (Credentials(ca=__file__), "holds no CA certificate"),
    ],
)
def test_unusable_credentials_are_refused_before_anything_is_sent(credentials, message):
    with (
        pytest.raises(CredentialsError, match=message),
        Stubs(Addresses(dataset="services.example:50051"), credentials) as client,
    ):
        _ = client.datasets


def test_the_repr_of_credentials_hides_the_token():
    assert "hunter2" not in repr(Credentials(token="hunter2"))


def test_other_failures_get_no_explanation_about_tls():
    assert not explain("Connection refused", Credentials(), "localhost:50051")


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_the_server_listens_on_an_ipv6_address_with_and_without_brackets(host):
    async with serving(host=host, probe_port=free_port()) as running:
        await get(running.address.replace("127.0.0.1", "[::1]"), Credentials())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback_needs_neither_tls_nor_tokens(host):
    refuse_exposure(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.1.2.3", "dataset.example"])
def test_other_hosts_are_refused_without_tls_and_tokens_unless_insecure_is_set(host, files):
    with pytest.raises(SystemExit, match=r"(?s)TLS_CERTIFICATE.*and without tokens.*SIGHTLINE_INSECURE"):
        refuse_exposure(Settings(host=host))
    with pytest.raises(SystemExit, match="without tokens"):
        refuse_exposure(Settings(host=host, **server(files, mutual=True)))
    with pytest.raises(SystemExit, match="without TLS"):
        refuse_exposure(Settings(host=host, auth_keys=files["key"]))
    refuse_exposure(Settings(host=host, auth_keys=files["key"], **server(files)))
    refuse_exposure(Settings(host=host, insecure=True))


async def test_the_expiry_of_certificates_is_exported_from_the_files_without_a_connection(
    files, authority, tmp_path, monkeypatch
):
    monkeypatch.setattr("services.infra.tls.LOOK_SECONDS", 0.01)
    callers = {"tls_client_certificate": files["client_certificate"], "tls_client_key": files["client_key"]}
    async with serving(**server(files), **callers) as running:
        for name, label in (("server", "server"), ("client", "client")):
            pair = authority.pair(valid=(-HOUR, 5 * HOUR))
            pair.write(tmp_path, name)
            ends = x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc.timestamp()
            await eventually(lambda label=label, ends=ends: running.metric(EXPIRY.name, certificate=label) == ends)
            replace(tmp_path / f"{name}.key", b"garbage")
            replace(tmp_path / f"{name}.crt", authority.pair().certificate)
            await asyncio.sleep(0.05)
            assert running.metric(EXPIRY.name, certificate=label) == ends, "the previous pair stays in use"
