"""The operator when it dies, runs twice, loses its watch or the suite, or has much to do."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import kmock
import pytest

from services.infra.server_metrics import STARTED
from services.operator.kinds import KINDS
from services.operator.reconcile import Pace, remove, step
from services.operator.resource import Resource
from sightline.client import progress
from sightline.client.calls import AsyncCalls
from sightline.client.stubs_aio import AsyncStubs
from sightline.client.transport.credentials import Credentials
from sightline.v1 import model_service_pb2 as model_service
from tests.support.cluster import TRAINING, Cluster, operating, plural, reason, running_cluster

MANY = 500


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster without an operator yet."""
    async with running_cluster(tmp_path) as made:
        yield made


async def models(cluster: Cluster) -> list[str]:
    """The models that the suite has."""
    listed = await cluster.suite.call("ListModels", model_service.ListModelsRequest(page_size=1000), "operator")
    return [model.name for model in listed.models]


async def until_models(cluster: Cluster, *expected: str) -> None:
    """Returns at the moment at which the suite has exactly these models."""
    for _ in range(10_000):
        if await models(cluster) == list(expected):
            return
    raise AssertionError(f"it has {await models(cluster)}")


@asynccontextmanager
async def calling(cluster: Cluster) -> AsyncGenerator[AsyncCalls]:
    """Calls such as the operator makes."""
    credentials = Credentials(token=cluster.suite.tokens["operator"], project="acme")
    async with AsyncStubs(cluster.suite.addresses, credentials) as stubs:
        yield AsyncCalls(stubs, progress.silent)


def applied(name: str, uid: str = "") -> Resource:
    """A resource as the operator sees it the first time."""
    return Resource("Model", "acme", name, uid or f"uid-Model-{name}", 1, TRAINING, {})


async def test_killed_at_any_moment_it_creates_once_and_leaves_nothing(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    await cluster.create("Model", "birds", TRAINING)

    async def created_in_the_suite() -> None:
        await until_models(cluster, "models/birds")

    async def created_in_the_status() -> None:
        await cluster.until("Model", "birds", lambda status: bool(status.get("created")))

    async def trained() -> None:
        await cluster.until("Model", "birds", lambda status: reason(status) == "Succeeded")

    for moment in (created_in_the_suite, created_in_the_status, trained):
        async with operating(cluster) as process:
            await moment()
            process.kill()
            await process.wait()
        assert await models(cluster) == ["models/birds"]
    await cluster.delete("Model", "birds")
    async with operating(cluster) as process:
        await until_models(cluster)
        process.kill()
        await process.wait()
    await cluster.create("Model", "cats", TRAINING)
    async with operating(cluster):
        await cluster.gone("Model", "birds")
        await cluster.until("Model", "cats", lambda status: bool(status.get("created")))
    assert await models(cluster) == ["models/cats"]


async def test_a_creation_that_was_never_noted_is_found_before_the_resource_goes(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    async with calling(cluster) as calls:
        await KINDS["Model"].create(calls, applied("birds"))
        await KINDS["Model"].create(calls, applied("cats", uid="of another"))
        for name in ("birds", "cats"):
            while not (await remove(calls, applied(name)))[0]:
                await cluster.suite.step()
    assert await models(cluster) == ["models/cats"]


async def test_a_watch_that_is_too_old_is_begun_again(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
    watching = cluster.api[kmock.action.WATCH, plural("Model")]
    _ = watching[:3] << (gone,)
    async with operating(cluster):
        await cluster.create("Model", "birds", TRAINING)
        await cluster.until("Model", "birds", lambda status: reason(status) == "Succeeded")
        assert len(watching) > 3
    assert await models(cluster) == ["models/birds"]


async def test_while_the_suite_is_away_nothing_is_claimed_and_then_it_goes_on(cluster: Cluster):
    await cluster.suite.register("pets", "operator")
    trainer = cluster.environment["SIGHTLINE_TRAINER_ADDRESS"]
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(free_port())
        cluster.environment["SIGHTLINE_TRAINER_ADDRESS"] = f"127.0.0.1:{port}"
        await stack.enter_async_context(operating(cluster))
        await cluster.create("Model", "birds", TRAINING)
        away = await cluster.until("Model", "birds", lambda status: bool(status.get("conditions")))
        assert [(one["type"], one["status"]) for one in away["conditions"]] == [("Ready", "Unknown")]
        assert "created" not in away
        await stack.enter_async_context(forwarding(port, trainer))
        await cluster.until("Model", "birds", lambda status: reason(status) == "Succeeded")


async def test_after_a_restart_each_resource_is_asked_for_once_and_few_are_watched(cluster: Cluster):
    cluster.api.forgets = True
    await cluster.suite.register("pets", "operator", work=False)
    names = [f"m{number}" for number in range(MANY)]
    async with calling(cluster) as calls:
        for name in names:
            await KINDS["Model"].create(calls, applied(name))
            await cluster.create("Model", name, TRAINING)
    before = started(cluster)
    async with operating(cluster):
        await cluster.until_all("Model", names, lambda status: status.get("state") == "NOT_STARTED")
        made = started(cluster) - before
    assert MANY <= made <= 3 * MANY
    assert MANY <= cluster.api.updates <= 4 * MANY


async def test_many_steps_at_once_stay_below_a_callers_share(cluster: Cluster):
    await cluster.suite.register("pets", "operator", work=False)
    resources = [applied(f"m{number}") for number in range(MANY)]
    async with calling(cluster) as calls:
        pace = Pace()
        for resource in resources:
            await KINDS["Model"].create(calls, resource)
        before = started(cluster)
        steps = await asyncio.gather(*(step(calls, resource, pace=pace) for resource in resources))
    assert started(cluster) - before == MANY
    assert {taken.status["state"] for taken in steps} == {"NOT_STARTED"}
    assert not any(taken.is_away for taken in steps)


def started(cluster: Cluster) -> int:
    """The calls that the trainer has received."""
    values = cluster.suite.trainer_telemetry.values
    return int(sum(value for (name, _), value in values.items() if name == STARTED.name))


@asynccontextmanager
async def free_port() -> AsyncGenerator[int]:
    """A port at which nothing answers, kept from others."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@asynccontextmanager
async def forwarding(port: int, address: str) -> AsyncGenerator[None]:
    """Connections at the port go to the address."""
    host, _, target = address.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(host, int(target))
        await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(forward, "127.0.0.1", port, reuse_port=True)
    try:
        yield
    finally:
        server.close()
