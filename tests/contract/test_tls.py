"""NATS and S3 over TLS: real servers with certificates of a test CA."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import nacl.signing
import nkeys
import pytest
from cryptography import x509
from nats.aio.client import Client

from services.infra.jetstream import connect, connected
from services.infra.jetstream_records import JetStreamRecords
from services.infra.nats_access import NatsAccess
from services.infra.nats_expiry import tell_expiries
from services.infra.observe import PrometheusTelemetry
from services.infra.s3 import S3Blobs, s3_client
from services.infra.store import open_blobs
from services.infra.tls import EXPIRY
from services.kit.errors import StoreRefused, Unavailable
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry
from tests.support.certificates import HOUR, Authority, Pair, replace
from tests.support.s3 import S3ServerWithKeys
from tests.support.servers import NatsServer
from tests.support.waiting import eventually

SECONDS = 3.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> dict[str, Path]:
    """A NATS client's files."""
    certificate, key = authority.pair("client").write(tmp_path, "client")
    return {"ca": authority.write(tmp_path), "certificate": certificate, "key": key}


@pytest.fixture
def server(tmp_path: Path, authority: Authority, files: dict[str, Path]) -> Iterator[NatsServer]:
    """A nats-server with TLS that requires client certificates."""
    certificate, key = authority.pair().write(tmp_path, "nats")
    tls = f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{files["ca"]}", verify: true }}'
    with NatsServer(tmp_path / "nats", config=tls) as running:
        yield running


async def use(connection: Client) -> None:
    await JetStreamRecords(connection, f"b_{uuid.uuid4().hex[:8]}").create("models/m", b"x")


async def test_records_are_stored_over_mutual_tls(server, files):
    for url in (server.url, server.url.replace("nats://", "tls://")):
        connection = await connect(url, "test", deadline_seconds=SECONDS, access=NatsAccess(**files))
        await use(connection)
        await connection.close()


async def test_a_server_of_another_ca_is_refused(server, files, tmp_path):
    access = NatsAccess(**files | {"ca": Authority("Other").write(tmp_path, "other")})
    with pytest.raises(Unavailable, match="set SIGHTLINE_NATS_CA to the right one"):
        await connect(server.url, "test", deadline_seconds=SECONDS, access=access)


@pytest.mark.parametrize("wrong", ["none", "stranger", "expired"])
async def test_a_client_whose_certificate_is_not_accepted_is_told_what_to_set(
    server, files, authority, tmp_path, wrong
):
    access = NatsAccess(files["ca"])
    if wrong == "stranger":
        access = NatsAccess(files["ca"], *Authority("Other").pair("stranger").write(tmp_path, "stranger"))
    if wrong == "expired":
        pair = authority.pair("expired", valid=(-2 * HOUR, -HOUR))
        access = NatsAccess(files["ca"], *pair.write(tmp_path, "expired"))
    with pytest.raises(Unavailable, match="SIGHTLINE_NATS_CERTIFICATE"):
        await connect(server.url, "test", deadline_seconds=SECONDS, access=access)


@pytest.mark.parametrize(("scheme", "with_ca"), [("nats", True), ("tls", False)])
async def test_a_password_is_never_sent_to_a_server_that_offers_no_tls(own_nats_server, files, scheme, with_ca):
    url = own_nats_server.url.replace("nats://", f"{scheme}://user:secret@")
    access = NatsAccess(files["ca"]) if with_ca else NatsAccess()
    with pytest.raises(Unavailable, match=r"offers no TLS.*give it a `tls` block"):
        await connect(url, "test", deadline_seconds=SECONDS, access=access)


@pytest.mark.parametrize(
    ("hosts", "hours", "message"),
    [(("elsewhere.example",), 1, "does not name this host"), (("localhost", "127.0.0.1"), -1, "has expired")],
)
async def test_a_server_with_an_invalid_certificate_is_refused(
    server, files, authority, tmp_path, hosts, hours, message
):
    server.stop()
    authority.pair(hosts=hosts, valid=(-2 * HOUR, hours * HOUR)).write(tmp_path, "nats")
    server.start()
    with pytest.raises(Unavailable, match=message):
        await connect(server.url, "test", deadline_seconds=SECONDS, access=NatsAccess(**files))


async def test_a_replaced_ca_is_no_longer_trusted(server, files):
    """Nor are the system's CAs, if one is set."""
    connection = await connect(server.url, "test", deadline_seconds=SECONDS, access=NatsAccess(**files))
    context = connection.ssl_context
    assert len(context.get_ca_certs()) == 1
    other = Authority("Other")
    replace(files["ca"], other.certificate)
    assert connection.ssl_context.get_ca_certs() != context.get_ca_certs()
    assert len(connection.ssl_context.get_ca_certs()) == 1
    await connection.close()


async def test_unusable_files_are_reported_with_their_settings(files, tmp_path):
    for broken in ({"ca": tmp_path / "nowhere"}, {"key": replace(tmp_path / "other.key", b"garbage")}):
        with pytest.raises(Unavailable, match="see SIGHTLINE_NATS_CA, SIGHTLINE_NATS_CERTIFICATE"):
            await connect("nats://127.0.0.1:1", "test", deadline_seconds=SECONDS, access=NatsAccess(**files | broken))


async def test_a_reconnect_uses_the_new_certificate(server, files, tmp_path):
    """Server and client move to another CA: a client that kept its first certificate could never reconnect."""
    connection = await connect(server.url, "test", deadline_seconds=SECONDS, access=NatsAccess(**files))
    await use(connection)
    other = Authority("Other")
    server.stop()
    await eventually(lambda: not connection.is_connected)
    replace(files["ca"], other.certificate)
    other.pair().write(tmp_path, "nats")
    other.pair("client").write(tmp_path, "client")
    server.start()
    await eventually(lambda: connection.is_connected)
    await use(connection)
    await connection.close()


async def test_a_renewed_certificate_of_nats_is_exported_without_a_new_connection(
    server, files, authority, tmp_path, monkeypatch
):
    """The server reads it on SIGHUP, which the sidecar sends; open connections stay."""
    monkeypatch.setattr("services.infra.nats_expiry.LOOK_SECONDS", 0.05)
    telemetry = MemoryTelemetry()

    def exported(label: str) -> float:
        return telemetry.value(EXPIRY, certificate=label)

    async with connected(server.url, "test", NatsAccess(**files), telemetry) as connection:
        await eventually(lambda: exported("nats_server") > 0)
        for hours in (12, -1):  # an expired one must be exported too
            renewed = authority.pair(valid=(-2 * HOUR, hours * HOUR))
            renewed.write(tmp_path, "nats")
            os.kill(server.pid, signal.SIGHUP)
            await eventually(lambda renewed=renewed: exported("nats_server") == end_of(renewed))
        assert connection.is_connected
        assert connection.stats["reconnects"] == 0
        renewed = authority.pair("client", valid=(-HOUR, 12 * HOUR))
        renewed.write(tmp_path, "client")
        await eventually(lambda: exported("nats_client") == end_of(renewed))


def end_of(pair: Pair) -> float:
    return x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc.timestamp()


async def test_without_tls_no_certificate_is_exported(own_nats_server):
    telemetry = MemoryTelemetry()
    await asyncio.wait_for(tell_expiries(own_nats_server.url, NatsAccess(), telemetry), 5)
    assert not telemetry.values


def jwt_authentication() -> tuple[str, str]:
    """A server configuration that authenticates users by JWT, and a user's `.creds` file."""
    operator, system, account, user = (Identity(kind) for kind in ("operator", "account", "account", "user"))
    unlimited = {"subs": -1, "data": -1, "payload": -1}
    accounts = {
        one.public: one.signed_by(operator, {"limits": {**unlimited, "conn": -1, "imports": -1, "exports": -1}})
        for one in (system, account)
    }
    config = "\n".join(
        [
            f"operator: {operator.signed_by(operator, {})}",
            f"system_account: {system.public}",
            "resolver: MEMORY",
            "resolver_preload {",
            *(f"  {public}: {token}" for public, token in accounts.items()),
            "}",
        ]
    )
    content = (
        f"-----BEGIN NATS USER JWT-----\n{user.signed_by(account, unlimited)}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    return config, content


async def test_a_login_needs_credentials(tmp_path):
    config, content = jwt_authentication()
    assert "SEED" not in repr(NatsAccess(credentials=content))
    with NatsServer(tmp_path, config=config) as server:
        with pytest.raises(Unavailable, match=r"(?i)authorization"):
            await connect(server.url, "test", deadline_seconds=SECONDS)
        connection = await connect(server.url, "test", deadline_seconds=SECONDS, access=NatsAccess(credentials=content))
        await connection.publish("hello", b"")
        await connection.flush()
        await connection.close()


async def test_a_credentials_file_is_read_again_on_reconnect(tmp_path, caplog):
    (config, content), (new_config, new_content) = jwt_authentication(), jwt_authentication()
    path = tmp_path / "user.creds"
    replace(path, content.encode())
    with NatsServer(tmp_path / "nats", config=config) as server:
        access = NatsAccess(credentials_file=path)
        connection = await connect(server.url, "test", deadline_seconds=SECONDS, access=access)
        server.stop()
        await eventually(lambda: not connection.is_connected)
        replace(path, new_content.encode())
        server.reconfigure(new_config)
        server.start()
        await eventually(lambda: connection.is_connected)
        replace(path, b"garbage")
        server.restart()
        await eventually(lambda: connection.stats["reconnects"] == 2 and connection.is_connected)
        assert "nats_credentials_unusable" in caplog.text
        await connection.close()


async def test_an_unusable_credentials_file_is_reported_with_its_setting(own_nats_server, tmp_path):
    for path in (tmp_path / "nowhere", replace(tmp_path / "user.creds", b"garbage")):
        with pytest.raises(Unavailable, match="see SIGHTLINE_NATS_CREDENTIALS_FILE"):
            await connect(own_nats_server.url, "test", deadline_seconds=1, access=NatsAccess(credentials_file=path))


class Identity:
    """An operator, account or user of NATS: its key, and the JWTs that others sign for it."""

    def __init__(self, kind: str) -> None:
        prefixes = {
            "operator": nkeys.PREFIX_BYTE_OPERATOR,
            "account": nkeys.PREFIX_BYTE_ACCOUNT,
            "user": nkeys.PREFIX_BYTE_USER,
        }
        self._kind = kind
        self.seed = bytes(nkeys.encode_seed(nacl.signing.SigningKey.generate().encode(), prefixes[kind]))
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public = bytes(self._pair.public_key).decode()

    def signed_by(self, issuer: Identity, more: Mapping[str, object]) -> str:
        nats = {"type": self._kind, "version": 2, **more}
        claims = {"jti": self.public, "iat": 1, "iss": issuer.public, "name": self._kind, "sub": self.public}
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, claims | {"nats": nats})
        body = ".".join(encoded(json.dumps(part).encode()) for part in parts)
        return f"{body}.{encoded(issuer._pair.sign(body.encode()))}"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# S3


def client_of(server: S3ServerWithKeys, ca: Path | None):
    return s3_client(server.secure_settings(ca), retries=0)


async def test_blobs_are_stored_over_tls_according_to_the_settings(s3_server):
    settings = s3_server.secure_settings(s3_server.ca, bucket=f"tls-{uuid.uuid4().hex[:8]}")
    blobs = await open_blobs(settings, PrometheusTelemetry("test"))
    await blobs.put("a/b", b"content")
    assert await blobs.get("a/b", 3) == b"tent"


async def test_a_store_of_another_ca_is_refused(s3_server, tmp_path):
    for ca in (None, Authority("Other").write(tmp_path)):
        with pytest.raises(Unavailable, match="set SIGHTLINE_S3_CA to the right one"):
            await S3Blobs(client_of(s3_server, ca)).ping()


async def test_tls_to_a_store_without_it_says_which_setting_turns_it_off(s3_server):
    client = s3_client(s3_server.secure_settings(s3_server.ca, s3_endpoint=s3_server.endpoint), retries=0)
    with pytest.raises(Unavailable, match="SIGHTLINE_S3_SECURE=false"):
        await S3Blobs(client).ping()


def test_an_unusable_ca_file_is_reported_with_its_setting(tmp_path):
    for path in (tmp_path / "nowhere", replace(tmp_path / "ca.crt", b"garbage")):
        with pytest.raises(StoreRefused, match="see SIGHTLINE_S3_CA"):
            s3_client(Settings(s3_endpoint="127.0.0.1:1", s3_ca=path))
