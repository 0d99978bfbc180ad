"""A worker's copies of the store's weights."""

import os
from pathlib import Path

import pytest

from services.kit.memory import MemoryBlobs
from services.trainer.worker.workspace import Workspace


class Counting(MemoryBlobs):
    """Counts how often weights are copied."""

    copied = 0

    async def get_file(self, key: str, path: Path) -> None:
        self.copied += 1
        await super().get_file(key, path)


@pytest.fixture
def blobs() -> Counting:
    return Counting()


@pytest.fixture
def workspace(tmp_path: Path, blobs: Counting) -> Workspace:
    return Workspace(tmp_path, blobs)


async def contents(workspace: Workspace) -> dict[str, bytes]:
    await workspace.fetch_weights(["a", "b.c", "d", "e"])
    folder = await workspace.cache()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_the_packs_of_other_networks_are_not_copied(workspace: Workspace, blobs: Counting) -> None:
    for name in ("a.safetensors", "other.safetensors", "a.b.safetensors"):
        await blobs.put(f"weights/{name}", b"weights")
    assert (await contents(workspace)).keys() == {"a.safetensors"}
    assert blobs.copied == 1


async def test_packs_are_copied_once_with_their_descriptions_and_nothing_else_is(
    workspace: Workspace, blobs: Counting
) -> None:
    stored = {"a.safetensors": b"a", "a.json": b"{}", "b.c.safetensors": b"b", "readme.txt": b"?", "d.json": b"{}"}
    for name, content in stored.items():
        await blobs.put(f"weights/{name}", content)
    expected = {name: stored[name] for name in ("a.safetensors", "a.json", "b.c.safetensors")}
    assert await contents(workspace) == expected
    assert await contents(workspace) == expected
    assert blobs.copied == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"a.safetensors": b"new", "a.json": b"of new"},
        {"a.safetensors": b"new", "a.json": None},
        {"a.safetensors": b"longer"},
        {"a.json": b"another"},
    ],
)
async def test_a_pack_that_was_replaced_or_described_in_the_store_is_copied_again(
    workspace: Workspace, blobs: Counting, changes: dict[str, bytes | None]
) -> None:
    stored = {"a.safetensors": b"old", "a.json": b"of old"}
    for name, content in stored.items():
        await blobs.put(f"weights/{name}", content)
    await contents(workspace)
    for name, content in changes.items():
        await (blobs.delete(f"weights/{name}") if content is None else blobs.put(f"weights/{name}", content))
    now = {name: content for name, content in {**stored, **changes}.items() if content is not None}
    assert await contents(workspace) == now


async def test_weights_are_kept_when_old_features_are_removed(
    workspace: Workspace, blobs: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.trainer.worker.workspace.CACHE_BYTES", 0)
    for name in ("a.safetensors", "a.json"):
        await blobs.put(f"weights/{name}", b"{}")
    await contents(workspace)
    folder = await workspace.cache()
    (folder / "features-1.npy").write_bytes(b"features")
    os.utime(folder / "a.safetensors", (0, 0))
    assert (await contents(workspace)).keys() == {"a.safetensors", "a.json"}
    assert blobs.copied == 1
