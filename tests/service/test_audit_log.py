"""The audit in a real nats-server: how entries get there, who can query them, and what an outage does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import nats.js.errors
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.infra import audit_log, audit_nats, audit_rpc, audit_sinks
from services.infra.audit_log import AuditLog
from services.infra.jetstream import connect
from services.infra.nats_access import NatsAccess
from sightline.client import keys
from sightline.client.transport.connection import PROJECT, bearer
from sightline.local.nats_users import ADMIN, AUDIT, NOTES, USERS, authorization
from sightline.v1 import audit_service_pb2 as pb
from sightline.v1 import dataset_service_pb2, prediction_service_pb2
from sightline.v1.audit_service_pb2_grpc import AuditServiceStub
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.support.runtime import Serving, bare_channel, serving
from tests.support.servers import NatsServer
from tests.support.waiting import eventually

PASSWORD = "secret"
LOST = "sightline_audit_lost_total"
WAITING = "sightline_audit_waiting"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    config = authorization(dict.fromkeys((*USERS, ADMIN), PASSWORD))
    with NatsServer(tmp_path / "nats", config=config) as running:
        yield running


@dataclass
class Suite:
    """A dataset service that serves the audit, and a predictor."""

    server: NatsServer
    datasets: Serving
    predictor: Serving
    tokens: dict[str, str]

    async def delete(self, name: str, key: str, project: str = "") -> None:
        """Calls DeleteDataset."""
        metadata = [bearer(self.tokens.get(key, "slk_unknown")), *([(PROJECT, project)] if project else [])]
        async with bare_channel(self.datasets.address) as channel:
            with suppress(grpc.aio.AioRpcError):
                request = dataset_service_pb2.DeleteDatasetRequest(name=name)
                await DatasetServiceStub(channel).DeleteDataset(request, metadata=metadata, timeout=10)

    async def predict(self, name: str, key: str) -> None:
        """Calls AnalyzeImage."""
        async with bare_channel(self.predictor.address) as channel:
            request = prediction_service_pb2.AnalyzeImageRequest(model_name=name)
            await PredictionServiceStub(channel).AnalyzeImage(request, metadata=[bearer(self.tokens[key])], timeout=10)

    async def list(self, key: str = "root", **filters: Any) -> pb.ListAuditEventsResponse:
        """One page."""
        async with bare_channel(self.datasets.address) as channel:
            request = pb.ListAuditEventsRequest(**filters)
            metadata = [bearer(self.tokens[key])]
            return await AuditServiceStub(channel).ListAuditEvents(request, metadata=metadata, timeout=20)

    async def resources(self, key: str = "root", **filters: Any) -> list[str]:
        """What the entries of the first page are about, without those of queries."""
        await self.written()
        found = await self.list(key, page_size=1000, **filters)
        return [event.resource for event in found.events if event.rpc != "AuditService/ListAuditEvents"]

    async def written(self) -> None:
        """Returns once nothing waits."""
        for one in (self.datasets, self.predictor):
            await eventually(lambda one=one: one.metric(WAITING, sink="nats") == 0)


@pytest.fixture
async def suite(server: NatsServer, tmp_path: Path) -> AsyncIterator[Suite]:
    made = {
        "root": keys.make("root", "admin", ["*"]),
        "alice": keys.make("alice", "admin"),
        "ann": keys.make("ann", "admin", ["acme"]),
        "eve": keys.make("eve", "viewer", ["*"]),
        "vic": keys.make("vic", "viewer", ["acme"]),
        "bob": keys.make("bob", "viewer", ["acme", "default"]),
    }
    (tmp_path / "keys").write_text("\n".join(line for _, line in made.values()) + "\n")
    common: dict[str, Any] = {
        "audit": "nats",
        "nats_url": server.url,
        "nats_password": PASSWORD,
        "auth_keys": tmp_path / "keys",
        "audit_days": 30,
        "audit_bytes": 10 << 20,
    }
    connection = await connect(server.url, "log", access=NatsAccess(user="dataset-api", password=PASSWORD))
    log = audit_rpc.service(AuditLog(connection))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(connection.close)
        datasets = await stack.enter_async_context(
            serving(name="dataset", more=[log], nats_user="dataset-api", **common)
        )
        predictor = await stack.enter_async_context(serving(name="predictor", nats_user="predictor", **common))
        yield Suite(server, datasets, predictor, {name: key for name, (key, _) in made.items()})


async def test_an_admin_lists_the_calls_of_all_services_and_filters_them(suite: Suite) -> None:
    await suite.delete("datasets/a", "root")
    await suite.delete("datasets/b", "eve")
    await suite.delete("datasets/c", "nobody")
    await suite.predict("models/m", "root")
    await suite.written()
    between = datetime.now(UTC)
    await suite.delete("datasets/a", "root", "acme")
    everything = ["datasets/a", "", "", "models/m", "datasets/a"]  # a refused request is not read
    assert sorted(await suite.resources()) == sorted(everything)
    assert await suite.resources(subject="root", resource="datasets/a") == ["datasets/a"] * 2
    assert await suite.resources(subject="key:eve") == [""]
    assert await suite.resources(subject="other:eve") == []
    assert await suite.resources(project="acme") == ["datasets/a"]
    assert await suite.resources(rpc="AnalyzeImage") == ["models/m"]
    assert await suite.resources(rpc="PredictionService/AnalyzeImage") == ["models/m"]
    assert await suite.resources(resource="models") == ["models/m"]
    assert await suite.resources(resource="mod") == []
    assert await suite.resources(codes=["PERMISSION_DENIED", "UNAUTHENTICATED"]) == ["", ""]
    assert await suite.resources(start_time=between) == ["datasets/a"]
    assert len(await suite.resources(end_time=between)) == 4
    assert await suite.resources(start_time=datetime.now(UTC) + timedelta(hours=1)) == []
    (event,) = (await suite.list(rpc="AnalyzeImage")).events
    assert (event.service, event.issuer, event.subject, event.project) == ("predictor", "key", "root", "default")
    assert (event.code, event.reason) == ("OK", "")
    assert event.request_id
    assert event.peer
    assert abs(event.time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_refused_call_is_filed_under_its_project_and_shown_to_no_other(suite: Suite) -> None:
    """One whose project is unknown is shown to tokens of all projects only."""
    await suite.delete("datasets/a", "vic")  # lacks the role, in acme
    await suite.delete("datasets/a", "vic", "default")  # is not valid there
    await suite.delete("datasets/a", "bob", "other")  # of two projects
    await suite.delete("datasets/a", "bob", "UPPER")
    await suite.written()

    async def seen(key: str) -> list[tuple[str, str, str]]:
        refused = ["PERMISSION_DENIED", "INVALID_ARGUMENT"]
        events = (await suite.list(key, codes=refused)).events
        return sorted((event.subject, event.project, event.reason) for event in events)

    of_acme = [("vic", "acme", "PermissionDenied"), ("vic", "acme", "ProjectDenied")]
    of_none = [("bob", "", "InvalidName"), ("bob", "", "ProjectDenied")]
    assert await seen("root") == [*of_none, *of_acme]
    assert await seen("ann") == of_acme
    assert await seen("alice") == []


async def test_pages_have_each_entry_once_in_order(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "MAX_READ", 5)  # so that some pages are empty
    for number in range(12):
        await suite.delete(f"datasets/d{number}", "root" if number % 6 == 0 else "alice")
    await suite.written()
    found: list[str] = []
    pages, token = 0, ""
    while pages == 0 or token:
        page = await suite.list(page_size=1, page_token=token, subject="root", rpc="DeleteDataset")
        assert len(page.events) <= 1
        found += [event.resource for event in page.events]
        pages, token = pages + 1, page.next_page_token
    assert found == ["datasets/d0", "datasets/d6"]
    assert pages > 2
    first = await suite.list(page_size=1)
    with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
        await suite.list(page_token=first.next_page_token, subject="alice")


@pytest.mark.parametrize("step", [1, 4, 500])
async def test_the_latest_come_first_if_asked(suite: Suite, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    assert await suite.resources(order_by="time desc") == []
    monkeypatch.setattr(audit_log, "STEP", step)
    monkeypatch.setattr(audit_log, "MAX_READ", 6)
    before = datetime.now(UTC)
    for number in range(12):
        await suite.delete(f"datasets/d{number}", "root" if number % 2 == 0 else "alice")
    await suite.written()
    found: list[str] = []
    wanted: dict[str, Any] = {"subject": "root", "rpc": "DeleteDataset", "start_time": before, "order_by": "time desc"}
    page = await suite.list(page_size=2, **wanted)
    while page.next_page_token:
        found += [event.resource for event in page.events]
        await suite.delete("datasets/later", "root")  # comes before what was listed
        page = await suite.list(page_size=2, page_token=page.next_page_token, **wanted)
    found += [event.resource for event in page.events]
    assert found == [f"datasets/d{number}" for number in (10, 8, 6, 4, 2, 0)]
    with pytest.raises(grpc.aio.AioRpcError, match="order_by: it must be one of: time, time desc"):
        await suite.list(order_by="subject")
    with pytest.raises(grpc.aio.AioRpcError, match="start_time: it must be a time between the years 1 and 9999"):
        await suite.list(start_time=Timestamp(seconds=2**62))


async def test_an_admin_sees_the_projects_of_the_token_only(suite: Suite) -> None:
    await suite.delete("datasets/ours", "ann")
    await suite.delete("datasets/theirs", "alice")
    await suite.delete("datasets/nobodys", "nobody")
    assert await suite.resources("ann") == ["datasets/ours"]
    assert await suite.resources("alice") == ["datasets/theirs"]
    with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
        await suite.list("alice", project="acme")
    with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
        await suite.list("eve")


async def test_without_a_stored_audit_the_query_says_what_to_set() -> None:
    async with serving(more=[audit_rpc.service(None)]) as running, bare_channel(running.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="add `nats` to SIGHTLINE_AUDIT") as refused:
            await AuditServiceStub(channel).ListAuditEvents(pb.ListAuditEventsRequest())
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_nothing_is_lost_or_stored_twice_when_nats_was_away(
    suite: Suite, caplog: pytest.LogCaptureFixture
) -> None:
    await suite.delete("datasets/before", "root")
    await suite.written()
    suite.server.stop()
    for number in range(3):
        await suite.delete(f"datasets/d{number}", "root")
    assert suite.datasets.metric(WAITING, sink="nats") == 3
    await eventually(lambda: "audit_waits" in caplog.text)
    suite.server.start()
    await suite.written()
    assert suite.datasets.metric(LOST, sink="nats") == 0
    expected = ["datasets/before", "datasets/d0", "datasets/d1", "datasets/d2"]
    assert sorted(await suite.resources(rpc="DeleteDataset")) == expected


async def test_what_nats_never_took_is_counted_at_the_end(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_sinks, "CLOSE_SECONDS", 0.1)
    suite.server.stop()
    await suite.delete("datasets/a", "root")
    suite.datasets.stop.set()
    await eventually(lambda: suite.datasets.metric(LOST, sink="nats") == 1)


async def test_the_stream_is_kept_as_long_as_the_settings_say_and_nobody_removes_an_entry(suite: Suite) -> None:
    await suite.delete("datasets/a", "root")
    await suite.written()
    connection = await connect(suite.server.url, "admin", access=NatsAccess(user=ADMIN, password=PASSWORD))
    js = connection.jetstream()
    config = (await js.stream_info(AUDIT)).config
    assert (config.max_age, config.max_bytes) == (30 * 24 * 3600, 10 << 20)
    for remove in (js.purge_stream(AUDIT), js.delete_msg(AUDIT, 1)):
        with pytest.raises(nats.js.errors.Error):
            await remove
    await connection.close()
    assert await suite.resources(rpc="DeleteDataset") == ["datasets/a"]


async def test_entries_that_are_none_are_passed_over_and_a_service_cannot_speak_for_another(suite: Suite) -> None:
    await suite.delete("datasets/a", "root")
    await suite.written()
    connection = await connect(suite.server.url, "predictor", access=NatsAccess(user="predictor", password=PASSWORD))
    stored = (await suite.list(rpc="DeleteDataset")).events[0]
    entry = {
        "audit": 1,
        "time": datetime.now(UTC).isoformat(),
        "service": "dataset",
        **{
            name: getattr(stored, name)
            for name in ("issuer", "subject", "project", "code", "reason", "request_id", "peer")
        },
        "rpc": "DatasetService/DeleteDataset",
        "resource": "datasets/forged",
    }
    for data in (
        b"",
        b"[]",
        b'{"audit": 1}',
        json.dumps(entry | {"time": "then"}).encode(),
        json.dumps(entry).encode(),
    ):
        await connection.jetstream().publish("audit.predictor", data)
    await connection.close()
    events = (await suite.list(rpc="DeleteDataset")).events
    assert [(event.service, event.resource) for event in events] == [
        ("dataset", "datasets/a"),
        ("predictor", "datasets/forged"),
    ]


def test_the_users_of_nats_are_those_of_the_sink() -> None:
    assert (audit_nats.STREAM, audit_nats.SUBJECTS) == (AUDIT, "audit")
    assert set(NOTES.values()) == {"dataset", "trainer", "predictor"}
