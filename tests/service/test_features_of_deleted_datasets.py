"""Features are a dataset's: they are deleted with it, whenever a trainer stores them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from services.kit.blobs import BlobInfo, Blobs, from_uri
from services.kit.memory import MemoryBlobs
from services.trainer.datasets import Snapshot
from services.trainer.feature_blocks import Block, encode, folder_of, write
from services.trainer.worker.feature_bank import FeatureBank
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import dataset_service_pb2 as service_pb
from tests.support.datasets import World, running, tagged


class Interrupted(MemoryBlobs):
    """Another's blobs; `act` runs before the n-th list or deletion."""

    def __init__(self, inner: Blobs, moment: int, act: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._inner, self._act, self._moment = inner, act, moment
        self.calls = 0

    async def _call(self) -> None:
        self.calls += 1
        if self.calls == self._moment:
            await self._act()

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        await self._call()
        async for blob in self._inner.list(prefix):
            yield blob

    async def delete(self, key: str) -> None:
        await self._call()
        await self._inner.delete(key)


def bank_of(dataset: pb.Dataset, blobs: Blobs, folder: Path) -> FeatureBank:
    """Of a worker that has computed two blocks of the dataset's features."""
    key = from_uri(dataset.snapshot_uri, blobs.bucket)
    snapshot = Snapshot(dataset=dataset.name, digest=dataset.snapshot_digest, manifest_key=key, image_count=4)
    for view in range(2):
        name = f"cpu/crop-default/view-{view}/mobilenet_v2/ab-0"
        block = Block(name=name, images=1, width=1, seconds=1.0, values=bytes(4))
        write(folder_of(folder, snapshot.digest) / name, encode(block))
    return FeatureBank(blobs, snapshot, folder)


async def keys(world: World) -> list[str]:
    return [blob.key async for blob in world.blobs.list("datasets/")]


async def test_features_stored_at_any_moment_of_a_deletion_do_not_outlive_it(tmp_path: Path) -> None:
    moment, happened = 0, True
    while happened:
        moment += 1
        async with running(World()) as world:
            dataset = await world.register(*tagged(4))
            bank = bank_of(dataset, world.blobs, tmp_path)
            blobs = Interrupted(world.blobs, moment, bank.share)
            await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name=dataset.name))
            while await world.step(lambda context: replace(context, blobs=blobs)):  # noqa: B023 - called in this turn
                pass
            happened = blobs.calls >= moment
            assert await keys(world) == [], moment
    assert moment > 5


async def test_features_stored_before_a_deletion_are_deleted_and_those_of_other_datasets_stay(tmp_path: Path) -> None:
    async with running(World()) as world:
        dataset = await world.register(*tagged(4))
        await world.blobs.put("datasets/pets2/uid/features/cpu/x", b"another's")
        await bank_of(dataset, world.blobs, tmp_path).share()
        assert len([key for key in await keys(world) if "/features/" in key]) == 3
        await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name=dataset.name))
        await world.work()
        assert await keys(world) == ["datasets/pets2/uid/features/cpu/x"]
