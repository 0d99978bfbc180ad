"""Metered ports behave like the originals, and count every operation."""

import asyncio
from datetime import timedelta

import pytest

from services.kit.clock import ManualClock
from services.kit.errors import (
    BlobNotFound,
    Conflict,
    RecordExists,
    RecordNotFound,
    StoreRefused,
    Unavailable,
)
from services.kit.memory import MemoryBlobs, MemoryQueue, MemoryRecords
from services.kit.metered import (
    NATS_OPERATIONS,
    NATS_SECONDS,
    STORE_OPERATIONS,
    STORE_SECONDS,
    MeteredBlobs,
    MeteredQueue,
    MeteredRecords,
    result_of,
)
from services.kit.records import Synced
from services.kit.telemetry import MemoryTelemetry


def counted(telemetry: MemoryTelemetry, metric: object) -> dict[tuple[str, str], float]:
    return {
        (dict(labels)["operation"], dict(labels)["result"]): value
        for (name, labels), value in telemetry.values.items()
        if name == getattr(metric, "name", "")
    }


async def test_every_operation_on_the_store_is_counted_by_how_it_ended(tmp_path):
    telemetry = MemoryTelemetry()
    blobs = MeteredBlobs(MemoryBlobs(), telemetry)
    await blobs.put("a/b", b"12")
    await blobs.put("a/c", b"34")
    assert await blobs.get("a/b", 1) == b"2"
    assert [found.key async for found in blobs.list("a/")] == ["a/b", "a/c"]
    await blobs.get_file("a/b", tmp_path / "copy")
    await blobs.put_file("d", tmp_path / "copy")
    assert (await blobs.stat("d")).size_bytes == 2
    await blobs.delete("d")
    await blobs.ping()
    with pytest.raises(BlobNotFound):
        await blobs.get("d")
    assert counted(telemetry, STORE_OPERATIONS) == {
        **{(name, "ok"): 1 for name in ("get", "list", "get_file", "put_file", "stat", "delete", "ping")},
        ("put", "ok"): 2,
        ("get", "missing"): 1,
    }
    assert len(telemetry.observed[STORE_SECONDS.name, (("operation", "get"),)]) == 2


async def test_a_list_that_its_reader_leaves_is_counted_as_cancelled():
    telemetry = MemoryTelemetry()
    blobs = MeteredBlobs(MemoryBlobs(), telemetry)
    await blobs.put("a", b"")
    listing = blobs.list("")
    await anext(listing)
    await listing.aclose()
    assert counted(telemetry, STORE_OPERATIONS)["list", "cancelled"] == 1


async def test_every_operation_on_the_records_is_counted_by_how_it_ended():
    telemetry = MemoryTelemetry()
    records = MeteredRecords(MemoryRecords(), telemetry)
    revision = await records.create("models/m", b"1")
    with pytest.raises(RecordExists):
        await records.create("models/m", b"1")
    with pytest.raises(Conflict):
        await records.update("models/m", b"2", revision + 7)
    revision = await records.update("models/m", b"2", revision)
    watch = records.watch("models")
    assert (await anext(watch)).revision == revision
    assert isinstance(await anext(watch), Synced)
    await watch.aclose()
    await records.delete("models/m", revision)
    with pytest.raises(RecordNotFound):
        await records.get("models/m")
    assert counted(telemetry, NATS_OPERATIONS) == {
        ("records_create", "ok"): 1,
        ("records_create", "conflict"): 1,
        ("records_update", "conflict"): 1,
        ("records_update", "ok"): 1,
        ("records_watch", "cancelled"): 1,
        ("records_delete", "ok"): 1,
        ("records_get", "missing"): 1,
    }
    assert not telemetry.observed[NATS_SECONDS.name, (("operation", "records_watch"),)], "it would never end"


async def test_a_fetch_without_a_job_does_not_count_as_a_failure():
    telemetry = MemoryTelemetry()
    queue = MeteredQueue(MemoryQueue(ManualClock()), telemetry)
    await queue.publish("train", b"x")
    assert await queue.depth("train") == 1
    assert await queue.waiting("train") == 0
    delivery = await queue.fetch("train", timedelta(0))
    assert delivery
    assert delivery.body == b"x"
    assert await queue.fetch("train", timedelta(0)) is None
    assert counted(telemetry, NATS_OPERATIONS) == {
        ("queue_publish", "ok"): 1,
        ("queue_depth", "ok"): 1,
        ("queue_waiting", "ok"): 1,
        ("queue_fetch", "ok"): 1,
        ("queue_fetch", "empty"): 1,
    }


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (Unavailable(what="the store", problem="gone"), "unavailable"),
        (StoreRefused(what="the store", code="AccessDenied"), "refused"),
        (asyncio.CancelledError(), "cancelled"),
        (ZeroDivisionError(), "error"),
    ],
)
def test_failures_are_distinguished_from_results_for_the_caller_to_handle(error: BaseException, result: str):
    assert result_of(error) == result
