"""The users of NATS, at a real server: each does its work, and nothing that is another's."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import pytest
from nats.aio.client import Client

from services.infra.jetstream import connect
from services.infra.jetstream_queue import JetStreamQueue
from services.infra.jetstream_records import JetStreamRecords
from services.infra.nats_access import NatsAccess
from services.kit import accounts, holds
from services.kit.accounts import Accounts
from services.kit.errors import Unavailable
from services.kit.names import root, split
from services.kit.records import Synced
from sightline.local.nats_users import (
    ADMIN,
    ANNOUNCES,
    COUNTS,
    NOTES,
    REMOVES,
    TAKES,
    USERS,
    WRITES,
    authorization,
    inbox_prefix,
)
from tests.support.servers import ACK_WAIT, NatsServer

ROOT = Path(__file__).parents[2]
PASSWORDS = {user: f"secret of {user}" for user in (*USERS, ADMIN)}
OWN = {
    "dataset-api": ("datasets/d", "uploads/u", "holds/d"),
    "dataset-worker": ("datasets/d", "holds/d"),
    "trainer-api": ("models/m", "models/m/trials/t000", "models/m/evaluations/e", "estimates/e", "holds/d"),
    "trainer-worker": ("models/m/trials/t000", "models/m/evaluations/e", "estimates/e"),
    "predictor": ("batchPredictions/b", "holds/d"),
    "predictor-worker": ("batchPredictions/b",),
}
WORK = [
    (user, f"{root(project)}{key}") for project in ("default", "acme") for user, keys in OWN.items() for key in keys
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    running = NatsServer(tmp_path_factory.mktemp("nats"), config=authorization(PASSWORDS))
    running.start()
    yield running
    running.stop()


@asynccontextmanager
async def connection_of(server: NatsServer, user: str) -> AsyncGenerator[Client]:
    access = NatsAccess(user=user, password=PASSWORDS[user])
    connection = await connect(server.url, "test", access=access)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize(("user", "key"), WORK)
async def test_each_user_writes_its_own_records_in_every_project(server: NatsServer, user: str, key: str) -> None:
    key = f"{key}-{user}"
    async with asyncio.timeout(30), connection_of(server, user) as connection:
        records = JetStreamRecords(connection)
        revision = await records.create(key, b"1")
        revision = await records.update(key, b"2", revision)
        assert (await records.get(key)).value == b"2"
        if not user.endswith("-worker"):
            watch = records.watch(*split(key)[1].split("/")[::2])
            while not isinstance(await anext(watch), Synced):
                pass
            await watch.aclose()
            streams = connection.jetstream()
            while (await streams.stream_info("KV_sightline_records")).state.consumer_count:  # noqa: ASYNC110 - the server removes it
                await asyncio.sleep(0.01)
        if user in REMOVES:
            records._tombstone_age = timedelta(seconds=-1)
            await records.delete(key, revision)


@pytest.mark.parametrize("user", USERS)
async def test_each_user_announces_takes_and_counts_its_own_jobs(server: NatsServer, user: str) -> None:
    async with asyncio.timeout(30), connection_of(server, user) as connection:
        queue = JetStreamQueue(connection, ACK_WAIT)
        for kind in ANNOUNCES.get(user, ()):
            await queue.publish(kind, b"work")
        for kind in COUNTS.get(user, ()):
            assert await queue.depth(kind) >= 0
            assert await queue.waiting(kind) >= 0
    for kind in TAKES.get(user, ()):
        async with connection_of(server, ADMIN) as admin:
            await JetStreamQueue(admin, ACK_WAIT).publish(kind, b"for a worker")
        async with asyncio.timeout(30), connection_of(server, user) as connection:
            delivery = await JetStreamQueue(connection, ACK_WAIT).fetch(kind, timedelta(seconds=10))
            assert delivery is not None
            await delivery.extend()
            await delivery.ack()


def audit_of(user: str) -> str:
    """Where its audit entries go."""
    return f"audit.{NOTES[user]}"


@pytest.mark.parametrize("user", ["dataset-api", "trainer-api", "predictor"])
@pytest.mark.parametrize("root", ["", "projects/acme/"])
async def test_the_apis_write_the_accounts_of_all_projects(server: NatsServer, user: str, root: str) -> None:
    async with asyncio.timeout(30), connection_of(server, user) as connection:
        kept = Accounts(JetStreamRecords(connection), user, {})
        project = root.removeprefix("projects/").removesuffix("/") or "default"
        await kept.change(project, lambda account: replace(account, resources=1), datetime.now(UTC))
        assert (await kept.current(project)).name == f"{root}accounts/{user}"


def forbidden(user: str) -> list[str]:
    """What would change or fake another's state."""
    others = {
        "dataset-api": ["$KV.sightline_records.models.m", "jobs.trainer"],
        "dataset-worker": ["$KV.sightline_records.models.m", "jobs.trainer"],
        "trainer-api": ["$KV.sightline_records.datasets.d", "jobs.ingest-dataset"],
        "trainer-worker": ["$KV.sightline_records.models.m", "$KV.sightline_records.datasets.d", "jobs.ingest-dataset"],
        "predictor": ["$KV.sightline_records.models.m", "$KV.sightline_records.datasets.d", "jobs.predict-chunk"],
        "predictor-worker": ["$KV.sightline_records.models.m", "$KV.sightline_records.accounts.a", "jobs.trainer"],
    }
    others = {
        who: [*subjects, *(audit_of(other) for other in NOTES if other != who)] for who, subjects in others.items()
    }
    api = [
        "$JS.API.STREAM.DELETE.KV_sightline_records",
        "$JS.API.STREAM.UPDATE.KV_sightline_records",
        "$JS.API.STREAM.CREATE.OTHER",
        "$JS.API.STREAM.MSG.DELETE.KV_sightline_records",
        "$JS.API.STREAM.PURGE.SIGHTLINE_JOBS",
        "$JS.API.STREAM.MSG.GET.SIGHTLINE_JOBS",
        "$JS.API.STREAM.SNAPSHOT.KV_sightline_records",
        "$JS.API.CONSUMER.DELETE.SIGHTLINE_JOBS.trainer",
        *(f"$JS.API.STREAM.{verb}.SIGHTLINE_AUDIT" for verb in ("UPDATE", "PURGE", "DELETE", "MSG.DELETE", "RESTORE")),
    ]
    inboxes = [f"{inbox_prefix(other)}.x" for other in USERS if other != user]
    return [*others[user], *api, *inboxes]


@pytest.mark.parametrize("user", USERS)
async def test_no_user_can_write_or_hear_what_is_another_s(server: NatsServer, user: str) -> None:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    connection = Client()
    await connection.connect(server.url, user=user, password=PASSWORDS[user], error_cb=note)
    try:
        for subject in forbidden(user):
            await connection.publish(subject, b"{}")
        for heard in (">", "_INBOX.>", "$KV.>", *(f"{inbox_prefix(other)}.>" for other in USERS if other != user)):
            await connection.subscribe(heard)
        await connection.flush()
        async with asyncio.timeout(10):
            while len(refused) < len(forbidden(user)) + 3 + len(USERS) - 1:  # noqa: ASYNC110 - another task appends
                await asyncio.sleep(0.01)
    finally:
        await connection.close()
    assert all("permissions violation" in problem.lower() for problem in refused)


@pytest.mark.parametrize(("user", "password"), [("", ""), ("nobody", "x"), (ADMIN, "wrong")])
async def test_whoever_is_not_a_user_is_not_let_in(server: NatsServer, user: str, password: str) -> None:
    with pytest.raises(Unavailable, match=r"(?i)authorization violation"):
        await connect(server.url, "test", deadline_seconds=1.0, access=NatsAccess(user=user, password=password))


def test_every_kind_of_job_has_users_that_announce_and_take_it() -> None:
    kinds = [{kind for kinds in of.values() for kind in kinds} for of in (TAKES, ANNOUNCES, COUNTS)]
    assert kinds == [{"ingest-dataset", "ingest-chunk", "trainer", "predict-batch", "predict-chunk"}] * 3


def test_every_collection_has_a_user_that_writes_it() -> None:
    written = {pattern.split(".")[0] for patterns in WRITES.values() for pattern in patterns}
    assert written == {*_collections(), accounts.COLLECTION, holds.COLLECTION}


def _collections() -> Iterator[str]:
    """The outermost collections of the records that the services keep, as their code names them."""
    for path in (ROOT / "services").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in calls:
            if isinstance(call.func, ast.Name) and call.func.id == "Collection":
                module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
                yield eval(ast.unparse(call.args[3]), vars(module))


def test_passwords_are_kept_between_runs_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    from sightline.local.nats_users import kept_passwords

    file = tmp_path / "passwords.json"
    first = kept_passwords(file)
    assert first == kept_passwords(file)
    assert len(set(first.values())) == len(USERS) + 1
    assert file.stat().st_mode & 0o777 == 0o600
