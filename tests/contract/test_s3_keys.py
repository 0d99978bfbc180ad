"""S3 keys in files: each request is signed with the current ones, and a rotation fails no call."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from services.infra.s3 import MIN_PART_BYTES, S3Blobs, s3_client
from services.infra.s3_keys import KeyFiles
from services.infra.store import open_blobs
from services.kit.errors import StoreRefused, Unavailable
from services.kit.settings import Settings, load
from services.kit.telemetry import MemoryTelemetry
from tests.support.certificates import Authority, replace
from tests.support.s3 import S3ServerWithKeys

ROTATIONS = 3
GAP_SECONDS = 0.3


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "access-key", tmp_path / "secret-key"


def put_into(files: tuple[Path, Path], keys: tuple[str, str]) -> None:
    for path, key in zip(files, keys, strict=True):
        replace(path, f"{key}\n".encode())


async def put_slowly_into(files: tuple[Path, Path], keys: tuple[str, str]) -> None:
    """Replaces one file after the other; in between, requests signed with the mismatched pair are refused."""
    replace(files[0], keys[0].encode())
    await asyncio.sleep(GAP_SECONDS)
    replace(files[1], keys[1].encode())


def blobs_of(server: S3ServerWithKeys, files: tuple[Path, Path]) -> S3Blobs:
    keys = KeyFiles(*files)
    client = s3_client(server.settings(), keys)
    return S3Blobs(client, f"bucket-{uuid.uuid4().hex[:8]}", keys=keys)


async def use(blobs: S3Blobs, number: int, folder: Path, stop: asyncio.Event) -> None:
    """Runs every operation in turn until stopped, and at least as often as keys are replaced."""
    large, back = folder / f"large-{number}", folder / f"back-{number}"
    large.write_bytes(b"x" * (MIN_PART_BYTES + 1))
    rounds = 0
    while not stop.is_set() or rounds < ROTATIONS:
        key = f"worker-{number}/{rounds}"
        await blobs.put(key, b"content")
        assert await blobs.get(key, 3) == b"tent"
        assert (await blobs.stat(key)).size_bytes == 7
        await blobs.put_file(f"{key}-large", large)
        await blobs.get_file(f"{key}-large", back)
        assert back.stat().st_size == large.stat().st_size
        assert [found.key async for found in blobs.list(f"worker-{number}/")] == [key, f"{key}-large"]
        for each in (key, f"{key}-large"):
            await blobs.delete(each)
        await blobs.ping()
        rounds += 1


async def test_rotating_keys_under_load_fails_no_call(
    s3_server: S3ServerWithKeys, files: tuple[Path, Path], tmp_path: Path
) -> None:
    keys = s3_server.add_key()
    put_into(files, keys)
    blobs, stop = blobs_of(s3_server, files), asyncio.Event()
    await blobs.ensure_bucket()
    users = [asyncio.create_task(use(blobs, number, tmp_path, stop)) for number in range(4)]
    for _ in range(ROTATIONS):
        newer = await asyncio.to_thread(s3_server.add_key)
        await put_slowly_into(files, newer)
        await asyncio.to_thread(s3_server.remove_key, keys[0])
        keys = newer
    stop.set()
    await asyncio.gather(*users)
    await blobs.put("last", b"")
    s3_server.remove_key(keys[0])


async def test_a_listing_continues_after_the_keys_are_replaced(
    s3_server: S3ServerWithKeys, files: tuple[Path, Path]
) -> None:
    first = s3_server.add_key()
    put_into(files, first)
    blobs = blobs_of(s3_server, files)
    await blobs.ensure_bucket()
    names = [f"k{number:04d}" for number in range(1100)]  # S3 lists a thousand at a time
    await asyncio.gather(*(blobs.put(name, b"") for name in names))
    second = s3_server.add_key()
    found: list[str] = []
    async with asyncio.TaskGroup() as group:
        async for blob in blobs.list(""):
            found.append(blob.key)
            if len(found) == 500:
                group.create_task(put_slowly_into(files, second))
                await asyncio.sleep(0)
    assert found == names
    s3_server.remove_key(first[0])


async def test_revoked_keys_are_an_outage_until_there_are_new_ones(
    s3_server: S3ServerWithKeys, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.infra.s3_keys.REPLACE_SECONDS", 0.1)
    first = s3_server.add_key()
    put_into(files, first)
    blobs = blobs_of(s3_server, files)
    await blobs.ensure_bucket()
    s3_server.remove_key(first[0])
    with pytest.raises(Unavailable, match=r"refuses the keys \(InvalidAccessKeyId.*see SIGHTLINE_S3_ACCESS_KEY_FILE"):
        await blobs.put("key", b"")
    with pytest.raises(Unavailable, match="refuses the keys"):
        await blobs.stat("key")
    with pytest.raises(Unavailable, match="refuses the keys"):
        assert [found async for found in blobs.list("")]
    files[0].unlink()
    replace(files[1], b"")
    with pytest.raises(Unavailable, match="refuses the keys"):
        await blobs.ping()
    put_into(files, s3_server.add_key())
    await blobs.put("key", b"")


async def test_processes_read_the_keys_from_the_files_that_their_settings_name(
    s3_server: S3ServerWithKeys, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two keys may be in the environment."""
    keys = s3_server.add_key()
    put_into(files, keys)
    monkeypatch.setenv("SIGHTLINE_BUCKET", f"bucket-{uuid.uuid4().hex[:8]}")
    monkeypatch.setenv("SIGHTLINE_S3_ENDPOINT", s3_server.endpoint)
    monkeypatch.setenv("SIGHTLINE_S3_SECURE", "false")
    monkeypatch.setenv("SIGHTLINE_S3_SECRET_KEY_FILE", str(files[1]))
    monkeypatch.setenv("SIGHTLINE_S3_ACCESS_KEY", keys[0])
    half = await open_blobs(load(Settings), MemoryTelemetry())
    monkeypatch.delenv("SIGHTLINE_S3_ACCESS_KEY")
    monkeypatch.setenv("SIGHTLINE_S3_ACCESS_KEY_FILE", str(files[0]))
    whole = await open_blobs(load(Settings), MemoryTelemetry())
    await half.ping()
    newer = s3_server.add_key()
    put_into(files, newer)
    s3_server.remove_key(keys[0])
    await whole.ping()


def test_unusable_files_are_reported_with_their_settings(files: tuple[Path, Path]) -> None:
    for contents in ({}, {0: b"\n", 1: b"secret"}):
        for number, content in contents.items():
            replace(files[number], content)
        with pytest.raises(StoreRefused, match="see SIGHTLINE_S3_ACCESS_KEY_FILE"):
            KeyFiles(*files)


async def test_the_stores_ca_is_read_again_for_each_new_connection(s3_server: S3ServerWithKeys, tmp_path: Path) -> None:
    ca = Authority("Other").write(tmp_path)
    client = s3_client(s3_server.secure_settings(ca), retries=0)
    blobs = S3Blobs(client, f"bucket-{uuid.uuid4().hex[:8]}")
    with pytest.raises(Unavailable, match="set SIGHTLINE_S3_CA"):
        await blobs.ensure_bucket()
    replace(ca, s3_server.ca.read_bytes())
    await blobs.ensure_bucket()
