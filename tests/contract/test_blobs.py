"""The law of Blobs, over the double, a folder and a real S3 server."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import uuid
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.infra.files import TEMPORARY, FolderBlobs
from services.infra.s3 import S3Blobs, s3_client
from services.infra.store import open_blobs
from services.kit.blobs import PIECE_BYTES, BlobInfo, Blobs, delete_prefix, read_pieces
from services.kit.errors import BlobDamaged, BlobNotFound, StoreRefused, Unavailable
from services.kit.memory import MemoryBlobs
from services.kit.settings import Settings, load
from services.kit.telemetry import MemoryTelemetry
from tests.support.s3 import S3_SERVERS, S3Server
from tests.support.servers import free_port

BIG = 20 * 1024**2 + 17


def unsigned(port: int) -> Settings:
    """Settings for a server that checks no keys."""
    key = SecretStr("unused")
    return Settings(s3_endpoint=f"127.0.0.1:{port}", s3_access_key=key, s3_secret_key=key, s3_secure=False)


async def s3_blobs(server: S3Server, bucket: str) -> S3Blobs:
    client = s3_client(server.settings())
    blobs = S3Blobs(client, bucket)
    await blobs.ensure_bucket()
    return blobs


@pytest.fixture(params=["memory", "folder", *S3_SERVERS])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """An empty bucket named `bucket-...`."""
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    if request.param == "memory":
        return MemoryBlobs(name)
    if request.param == "folder":
        folder = FolderBlobs(tmp_path / "store", name)
        await folder.ensure_bucket()
        return folder
    return await s3_blobs(request.getfixturevalue(request.param), name)


async def keys(blobs: Blobs, prefix: str = "") -> list[str]:
    return [blob.key async for blob in blobs.list(prefix)]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_get_returns_what_was_put(blobs: Blobs) -> None:
    await blobs.put("datasets/a/1.bin", b"\0content")
    await blobs.put("empty", b"")
    assert await blobs.get("datasets/a/1.bin") == b"\0content"
    assert await blobs.get("empty") == b""
    assert await blobs.stat("datasets/a/1.bin") == BlobInfo("datasets/a/1.bin", 8)


async def test_a_bucket_has_its_name_and_answers_a_ping(blobs: Blobs) -> None:
    assert blobs.bucket.startswith("bucket-")
    await blobs.ping()


async def test_putting_a_key_again_replaces_the_blob(blobs: Blobs) -> None:
    await blobs.put("key", b"a long first value")
    await blobs.put("key", b"second")
    assert await blobs.get("key") == b"second"
    assert await keys(blobs) == ["key"]


@pytest.mark.parametrize("key", ["plain", "with space/and+plus", "ünï/cödé.jpg", "a=b&c?d#e%41", "x" * 200])
async def test_a_normal_key_may_contain_any_character(blobs: Blobs, key: str) -> None:
    await blobs.put(key, b"1")
    assert await blobs.get(key) == b"1"
    assert await keys(blobs) == [key]
    await blobs.delete(key)
    assert await keys(blobs) == []


ILLEGAL_KEYS = (
    "",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "../x",
    "a/./b",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\x85b",
    "\ud800",
)
TOO_LONG_KEYS = ("x" * 256, "/".join(["y" * 200] * 6), "/".join(["ä" * 128]))


@pytest.mark.parametrize("key", [*ILLEGAL_KEYS, *TOO_LONG_KEYS, TEMPORARY, f"{TEMPORARY}/x"])
async def test_an_illegal_key_is_a_value_error_in_every_store(blobs: Blobs, key: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    for call in (
        blobs.put(key, b""),
        blobs.put_file(key, file),
        blobs.get(key),
        blobs.get_file(key, tmp_path / "out"),
        blobs.stat(key),
        blobs.delete(key),
    ):
        with pytest.raises(ValueError, match="the key "):
            await call


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (4, None, b"456789"),
        (4, 3, b"456"),
        (0, 10, b"0123456789"),
        (8, 5, b"89"),
        (10, 1, b""),
        (99, None, b""),
        (99, 5, b""),
        (3, 0, b""),
        (0, 0, b""),
    ],
)
async def test_a_range_returns_the_part_of_it_that_the_blob_has(
    blobs: Blobs, start: int, length: int | None, expected: bytes
) -> None:
    await blobs.put("key", b"0123456789")
    assert await blobs.get("key", start, length) == expected


async def test_a_negative_range_is_a_value_error(blobs: Blobs) -> None:
    await blobs.put("key", b"0123456789")
    for start, length in ((-1, None), (0, -1)):
        with pytest.raises(ValueError, match="negative"):
            await blobs.get("key", start, length)


async def test_a_missing_key_raises_blob_not_found_but_can_be_deleted(blobs: Blobs, tmp_path: Path) -> None:
    await blobs.put("folder/blob", b"1")
    for key in ("missing", "folder", "folder/missing", "folder/blob/below"):
        for call in (blobs.get(key), blobs.get(key, 0, 0), blobs.get_file(key, tmp_path / "out"), blobs.stat(key)):
            with pytest.raises(BlobNotFound, match=key):
                await call
        await blobs.delete(key)
    assert not (tmp_path / "out").exists()
    assert await keys(blobs) == ["folder/blob"]


async def test_a_deleted_blob_is_gone_and_can_be_put_again(blobs: Blobs) -> None:
    await blobs.put("a/b/c", b"1")
    await blobs.delete("a/b/c")
    await blobs.delete("a/b/c")
    with pytest.raises(BlobNotFound):
        await blobs.get("a/b/c")
    await blobs.put("a/b/c", b"2")
    assert await blobs.get("a/b/c") == b"2"


async def test_a_listing_is_ordered_by_whole_keys(blobs: Blobs, request: pytest.FixtureRequest) -> None:
    names = ["a/z", "a-b", "a.b/c", "a0", "B", "a/b/c", "a/b-c", "ä", "z/1", "z/10", "z/2"]
    for index, name in enumerate(names):
        await blobs.put(name, b"x" * index)
    by_folder = "seaweed" in request.node.name  # it lists the folder `a` before the blob `a-b`
    assert await keys(blobs) == sorted(names, key=lambda name: name.split("/") if by_folder else [name])
    assert {b.key: b.size_bytes async for b in blobs.list("")} == {name: i for i, name in enumerate(names)}


async def test_a_prefix_selects_by_characters_not_by_folders(blobs: Blobs) -> None:
    for name in ("up/one", "up/on/two", "up/other", "upper", "down"):
        await blobs.put(name, b"")
    assert await keys(blobs, "up/") == ["up/on/two", "up/one", "up/other"]
    assert await keys(blobs, "up/on") == ["up/on/two", "up/one"]
    assert await keys(blobs, "up") == ["up/on/two", "up/one", "up/other", "upper"]
    assert await keys(blobs, "up/one") == ["up/one"]
    assert await keys(blobs, "up/one/") == []
    assert await keys(blobs, "nothing/here") == []


async def test_a_long_listing_is_complete(blobs: Blobs) -> None:
    names = [f"many/{i:04}" for i in range(1205)]  # more than a page of S3, and than a batch of ours
    limit = asyncio.Semaphore(16)

    async def put(name: str) -> None:
        async with limit:
            await blobs.put(name, b"")

    await asyncio.gather(*(put(name) for name in names))
    assert await keys(blobs, "many/") == names
    assert await delete_prefix(blobs, "many/") == len(names)
    assert await keys(blobs) == []


async def test_a_large_file_survives_the_round_trip(blobs: Blobs, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(BIG))
    await blobs.put_file("packs/0.tar", source)
    assert (await blobs.stat("packs/0.tar")).size_bytes == BIG
    copy.write_bytes(b"an older file")
    await blobs.get_file("packs/0.tar", copy)
    assert copy.read_bytes() == source.read_bytes()
    assert await blobs.get("packs/0.tar", 6 * 1024**2, 100) == source.read_bytes()[6 * 1024**2 :][:100]
    assert names_in(tmp_path) - {"store"} == {"copy", "source"}


async def test_large_bytes_are_stored_completely(blobs: Blobs) -> None:
    data = os.urandom(BIG)
    await blobs.put("big", data)
    assert await blobs.get("big") == data


async def test_an_empty_file_is_a_blob(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    await blobs.put_file("empty", tmp_path / "empty")
    await blobs.get_file("empty", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b""


async def test_a_missing_source_file_is_the_callers_error(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await blobs.put_file("key", tmp_path / "missing")
    assert await keys(blobs) == []


async def test_readers_concurrent_with_writers_see_only_whole_blobs(blobs: Blobs) -> None:
    await blobs.put("key", b"0" * 300_000)

    async def write(digit: int) -> None:
        await blobs.put("key", str(digit).encode() * 300_000)

    async def read() -> None:
        data = await blobs.get("key")
        assert len(data) == 300_000
        assert len(set(data)) == 1

    await asyncio.gather(*(step for i in range(8) for step in (write(i), read())))


async def test_the_settings_choose_the_store_and_its_bucket_is_created(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_BUCKET", f"bucket-{uuid.uuid4().hex[:8]}")
    monkeypatch.setenv("SIGHTLINE_S3_ENDPOINT", s3_server.endpoint)
    monkeypatch.setenv("SIGHTLINE_S3_ACCESS_KEY", s3_server.access_key)
    monkeypatch.setenv("SIGHTLINE_S3_SECRET_KEY", s3_server.secret_key)
    monkeypatch.setenv("SIGHTLINE_S3_SECURE", "false")
    s3 = await open_blobs(load(Settings), MemoryTelemetry())
    monkeypatch.setenv("SIGHTLINE_STORE_DIRECTORY", str(tmp_path / "new" / "store"))
    folder = await open_blobs(load(Settings), MemoryTelemetry())
    assert (type(s3.inner), type(folder.inner)) == (S3Blobs, FolderBlobs)
    for blobs in (s3, folder):
        await blobs.ping()


# Folders only.


@pytest.fixture
async def folder(tmp_path: Path) -> FolderBlobs:
    blobs = FolderBlobs(tmp_path / "store")
    await blobs.ensure_bucket()
    return blobs


async def test_a_put_that_fails_midway_leaves_nothing_and_names_a_full_disk(
    folder: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await folder.put("key", b"before")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="no space is left on its disk"):
        await folder.put("key", b"after")
    with pytest.raises(Unavailable, match="no space"):
        await folder.put("other", b"after")
    monkeypatch.undo()
    assert await folder.get("key") == b"before"
    assert await keys(folder) == ["key"]
    assert list((tmp_path / "store" / TEMPORARY).iterdir()) == []


async def test_leftovers_of_a_crashed_writer_are_not_listed_and_are_removed_after_a_day(
    folder: FolderBlobs, tmp_path: Path
) -> None:
    old, young = (tmp_path / "store" / TEMPORARY / name for name in ("old", "young"))
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert await keys(folder) == []
    assert await keys(folder, ".s") == []
    await folder.ensure_bucket()
    assert (old.exists(), young.exists()) == (False, True)
    with pytest.raises(ValueError, match="which the store keeps for itself"):
        await folder.get(f"{TEMPORARY}/young")


async def test_symbolic_links_are_not_followed(folder: FolderBlobs, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tmp_path / "store" / "folder").symlink_to(outside)
    (tmp_path / "store" / "file").symlink_to(outside / "secret")
    for key in ("folder/secret", "file"):
        with pytest.raises(BlobNotFound):
            await folder.get(key)
        with pytest.raises(BlobNotFound):
            await folder.stat(key)
    with pytest.raises(StoreRefused, match="symbolic link"):
        await folder.put("folder/new", b"x")
    await folder.delete("folder/secret")
    assert await keys(folder) == []
    assert await keys(folder, "folder/") == []
    assert [p.name for p in outside.iterdir()] == ["secret"]


async def test_a_key_below_a_blob_is_refused_with_an_explanation(folder: FolderBlobs) -> None:
    await folder.put("a", b"")
    await folder.put("b/c", b"")
    for key in ("a/b", "b"):
        with pytest.raises(StoreRefused, match="both a blob and a folder"):
            await folder.put(key, b"")


async def test_deleting_leaves_no_empty_folders(folder: FolderBlobs, tmp_path: Path) -> None:
    await folder.put("a/b/c/d", b"")
    await folder.put("a/e", b"")
    await folder.delete("a/b/c/d")
    assert sorted(p.name for p in (tmp_path / "store" / "a").iterdir()) == ["e"]


async def test_a_missing_folder_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="missing"):
        await FolderBlobs(tmp_path / "nowhere").ping()


async def test_puts_concurrent_with_deletes_in_one_folder_never_fail(folder: FolderBlobs) -> None:
    async def cycle(name: str) -> None:
        for _ in range(20):
            await folder.put(f"shared/deep/{name}", b"x")
            await folder.delete(f"shared/deep/{name}")

    await asyncio.gather(*(cycle(str(i)) for i in range(4)))
    assert await keys(folder) == []


# S3 only.


async def test_a_wrong_secret_is_refused_with_the_stores_code(s3_server: S3Server) -> None:
    blobs = await s3_blobs(s3_server, f"bucket-{uuid.uuid4().hex[:8]}")
    await blobs.put("key", b"1")
    stranger = S3Blobs(s3_client(s3_server.settings(s3_secret_key="wrong")), blobs.bucket)
    with pytest.raises(StoreRefused, match="SignatureDoesNotMatch"):
        await stranger.get("key")
    with pytest.raises(StoreRefused, match="SignatureDoesNotMatch"):
        await stranger.put("key", b"2")
    with pytest.raises(StoreRefused):
        await stranger.ping()
    assert await blobs.get("key") == b"1"


async def test_a_missing_bucket_is_unavailable_until_several_callers_create_it_at_once(s3_server: S3Server) -> None:
    client = s3_client(s3_server.settings())
    blobs = S3Blobs(client, f"bucket-{uuid.uuid4().hex[:8]}")
    with pytest.raises(Unavailable, match="does not exist"):
        await blobs.ping()
    with pytest.raises(Unavailable, match="NoSuchBucket"):
        await blobs.put("key", b"")
    await asyncio.gather(*(blobs.ensure_bucket() for _ in range(4)))
    await blobs.ping()


async def test_a_server_that_is_down_is_unavailable() -> None:
    blobs = S3Blobs(s3_client(unsigned(free_port()), retries=1))
    for call in (blobs.put("key", b""), blobs.get("key"), blobs.stat("key"), blobs.ping(), keys(blobs)):
        with pytest.raises(Unavailable):
            await call


async def test_a_truncated_body_is_never_returned_as_the_blob(tmp_path: Path) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "e"\r\n\r\nhalf')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(half, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    blobs = S3Blobs(s3_client(unsigned(port), retries=0))
    with pytest.raises(Unavailable):
        await blobs.get("key")
    with pytest.raises(Unavailable):
        await blobs.get_file("key", tmp_path / "out")
    assert names_in(tmp_path) == set()
    server.close()


async def test_a_blob_is_read_in_pieces_from_any_place(blobs: Blobs) -> None:
    data = bytes(range(251)) * (2 * PIECE_BYTES // 251 + 2)
    await blobs.put("large", data)
    for start in (0, 1, PIECE_BYTES, len(data) - 1, len(data), len(data) + 5):
        pieces = [piece async for piece in read_pieces(blobs, "large", len(data), start)]
        assert b"".join(pieces) == data[start:]
        assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)


async def test_a_blob_that_is_gone_or_shorter_ends_the_reading(blobs: Blobs) -> None:
    await blobs.put("short", b"abc")
    for key in ("short", "missing"):
        with pytest.raises(BlobNotFound, match=key):
            _ = [piece async for piece in read_pieces(blobs, key, 4)]


async def test_a_whole_blob_that_was_changed_in_the_store_is_refused(s3_server: S3Server, tmp_path: Path) -> None:
    blobs = await s3_blobs(s3_server, f"bucket-{uuid.uuid4().hex[:8]}")
    (tmp_path / "file").write_bytes(b"whole file")
    await blobs.put("bytes", b"whole")
    await blobs.put_file("file", tmp_path / "file")
    assert (await blobs.get("bytes"), await blobs.get("file")) == (b"whole", b"whole file")
    client = s3_client(s3_server.settings())
    for key, changed in (("bytes", b"whale"), ("file", b"whale file")):
        kept = client.stat_object(blobs.bucket, key).metadata
        assert kept is not None
        digest = {"sha256": kept["x-amz-meta-sha256"]}
        client.put_object(blobs.bucket, key, io.BytesIO(changed), len(changed), metadata={**digest})
        with pytest.raises(BlobDamaged, match=key):
            await blobs.get(key)
        with pytest.raises(BlobDamaged, match=key):
            await blobs.get_file(key, tmp_path / "copy")
        with pytest.raises(BlobDamaged, match=key):
            await blobs.get(key, 0, 1000)  # as much as a caller would take
        assert await blobs.get(key, 1, 3) == changed[1:4]  # a part cannot be checked
    client.put_object(blobs.bucket, "of another tool", io.BytesIO(b"x"), 1)
    assert await blobs.get("of another tool") == b"x"
    assert names_in(tmp_path) == {"file"}


@pytest.mark.parametrize("answer", ["HTTP/1.1 200 OK\r\nETa", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<?xml"])
async def test_an_answer_that_ends_early_is_unavailable(answer: str, tmp_path: Path) -> None:
    async def cut_short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(cut_short, "127.0.0.1", 0)
    blobs = S3Blobs(s3_client(unsigned(server.sockets[0].getsockname()[1]), retries=0))
    with pytest.raises(Unavailable):
        await keys(blobs)
    if "Length" not in answer:
        for call in (blobs.get("key"), blobs.get_file("key", tmp_path / "out"), blobs.stat("key")):
            with pytest.raises(Unavailable):
                await call
    server.close()


async def test_a_body_that_was_damaged_on_its_way_is_read_again(tmp_path: Path) -> None:
    bodies = [b"whale", b"whole", b"while", b"whole"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        digest = hashlib.sha256(b"whole").hexdigest()
        head = f'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "e"\r\nx-amz-meta-sha256: {digest}\r\n\r\n'
        writer.write(head.encode() + bodies.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    blobs = S3Blobs(s3_client(unsigned(server.sockets[0].getsockname()[1]), retries=0))
    assert await blobs.get("key") == b"whole"
    await blobs.get_file("key", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"whole"
    server.close()


async def test_an_upload_that_was_damaged_on_its_way_may_be_repeated() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"<Error><Code>XAmzContentSHA256Mismatch</Code><Message>no</Message></Error>"
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    blobs = S3Blobs(s3_client(unsigned(server.sockets[0].getsockname()[1]), retries=0))
    with pytest.raises(Unavailable, match="XAmzContentSHA256Mismatch"):
        await blobs.put("key", b"whole")
    server.close()
