"""The feature bank: what one worker computes, no other computes again, and damage costs only compute."""

import asyncio
import dataclasses
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from msgspec import structs
from torch import Tensor

from services.kit.blobs import BlobInfo
from services.kit.errors import Unavailable
from services.kit.memory import MemoryBlobs
from services.kit.records import Versioned
from services.trainer.domain import Trial
from services.trainer.engine.classification import frozen
from services.trainer.engine.run import train
from services.trainer.engine.session import Meter, Session
from services.trainer.feature_blocks import Block, FeatureUse, encode, folder_of, kind, name_of, write
from services.trainer.messages import MANIFEST_FILE, Message, Task, TrainTask, local_name
from services.trainer.recipe import Framing, Recipe
from services.trainer.trial_wire import trial_message
from services.trainer.work import WorkState
from services.trainer.worker import feature_bank
from services.trainer.worker.feature_bank import FeatureBank
from services.vision.backbones import Network
from services.vision.card import ModelKind
from services.vision.snapshot import read_manifest
from tests.unit.trainer.engine.shapes import linear_recipe, write_snapshot
from tests.unit.trainer.support import snapshot
from tests.unit.trainer.worker.test_worker import T0, FlakyBlobs, Script, World, dies, outcome, succeeds

RECIPE = Recipe(
    name="r", rung=0, backbones=("mobilenet_v2",), framings=(Framing.STRETCH, Framing.CROP), views=2, resolution=0
)
PREFIX = "datasets/birds/uid/features/"


def block(
    network: str = "mobilenet_v2", framing: str = "crop", resolution: int = 0, view: int = 0, device: str = "cpu"
) -> str:
    return name_of(kind(device, framing, resolution, view), network, "ab12", 0)


def file_of(name: str, values: bytes = bytes(24)) -> bytes:
    return encode(Block(name=name, images=2, width=3, seconds=1.5, values=values))


class Workers:
    """A store with a snapshot's manifest, and the folders of several workers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = MemoryBlobs()

    async def begin(self) -> "Workers":
        await self.blobs.put(snapshot().manifest_key, b"{}")
        return self

    async def stored(self, *names: str) -> None:
        for name in names:
            await self.blobs.put(PREFIX + name, file_of(name))

    def computed(self, worker: str, *names: str) -> None:
        for name in names:
            write(self.folder(worker) / name, file_of(name))

    def bank(self, worker: str) -> FeatureBank:
        return FeatureBank(self.blobs, snapshot(), self.root / worker)

    def folder(self, worker: str) -> Path:
        return folder_of(self.root / worker, snapshot().digest)

    def has(self, worker: str) -> set[str]:
        folder = self.folder(worker)
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    async def keys(self) -> set[str]:
        return {blob.key.removeprefix(PREFIX) async for blob in self.blobs.list(PREFIX)}


@pytest.fixture
async def at(tmp_path: Path) -> Workers:
    return await Workers(tmp_path).begin()


async def test_a_worker_fetches_the_blocks_that_the_recipe_reads_and_no_others(at: Workers) -> None:
    wanted = {block(), block(framing="stretch"), block(view=1), block(framing="stretch", view=1)}
    others = {block("resnet18"), block(resolution=320), block(view=2), block(device="cuda")}
    await at.stored(*wanted, *others)
    await at.bank("w1").fetch(RECIPE, "cpu")
    assert at.has("w1") == wanted
    await at.bank("w2").fetch(RECIPE, "cuda")
    assert at.has("w2") == {block(device="cuda")}


async def test_in_place_of_a_network_that_has_no_blocks_those_of_the_others_are_fetched(at: Workers) -> None:
    await at.stored(block("resnet18"), block("resnet18", view=2))
    await at.bank("w1").fetch(RECIPE, "cpu")
    assert at.has("w1") == {block("resnet18")}


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(name="d", rung=1, kind=ModelKind.GENERIC_DETECTOR, backbones=("mobilenet_v2",)),
        Recipe(name="s", rung=1, backbones=("mobilenet_v2",), pretrained=False),
        Recipe(name="t", rung=1, backbones=("mobilenet_v2",), linear_head=False),
    ],
)
async def test_a_training_that_reads_no_frozen_features_fetches_none(at: Workers, recipe: Recipe) -> None:
    await at.stored(block(framing="stretch"))
    await at.bank("w1").fetch(recipe, "cpu")
    assert at.has("w1") == set()


async def test_what_a_worker_has_is_not_fetched_but_counts_as_used(at: Workers) -> None:
    at.computed("w1", block())
    path = at.folder("w1") / block()
    before = path.stat().st_ino
    os.utime(path, (0, 0))
    await at.stored(block())
    await at.bank("w1").fetch(RECIPE, "cpu")
    assert path.stat().st_ino == before
    assert path.stat().st_mtime > 0


async def test_a_worker_shares_what_it_computed_and_another_fetches_it(at: Workers) -> None:
    at.computed("w1", block(), block(view=1))
    await at.bank("w1").share()
    assert await at.keys() == {block(), block(view=1)}
    await at.bank("w2").fetch(RECIPE, "cpu")
    assert at.has("w2") == {block(), block(view=1)}
    assert (at.folder("w2") / block()).read_bytes() == file_of(block())


async def test_two_workers_that_share_the_same_blocks_at_once_leave_them_whole(at: Workers) -> None:
    for worker in ("w1", "w2"):
        at.computed(worker, block(), block(view=1))
    await asyncio.gather(at.bank("w1").share(), at.bank("w2").share(), at.bank("w3").fetch(RECIPE, "cpu"))
    await at.bank("w4").fetch(RECIPE, "cpu")
    assert at.has("w4") == {block(), block(view=1)}


@pytest.mark.parametrize("damage", ["cut", "turned", "another", "empty"])
async def test_a_damaged_blob_is_removed_with_a_warning_and_replaced_by_whoever_computes_the_block_again(
    at: Workers, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = file_of(block())
    damaged = {
        "cut": whole[:-1],
        "turned": whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
        "another": file_of(block(view=1)),
        "empty": b"",
    }
    await at.blobs.put(PREFIX + block(), damaged[damage])
    with caplog.at_level(logging.WARNING):
        await at.bank("w1").fetch(RECIPE, "cpu")
    assert at.has("w1") == set()
    assert "feature_block_damaged" in caplog.text
    at.computed("w1", block())
    await at.bank("w1").share()
    assert await at.blobs.get(PREFIX + block()) == whole


async def test_a_damaged_file_is_not_shared(at: Workers) -> None:
    at.computed("w1", block(), block(view=1))
    (at.folder("w1") / block()).write_bytes(b"half")
    await at.bank("w1").share()
    assert await at.keys() == {block(view=1)}
    assert at.has("w1") == {block(view=1)}


async def test_a_file_that_is_still_being_written_is_not_shared(at: Workers) -> None:
    at.computed("w1", block())
    (at.folder("w1") / block()).with_name(".ab12-0.7").write_bytes(b"half")
    await at.bank("w1").share()
    assert await at.keys() == {block()}


async def test_blocks_stored_after_their_dataset_was_deleted_are_removed(at: Workers) -> None:
    at.computed("w1", block())
    await at.blobs.delete(snapshot().manifest_key)
    await at.bank("w1").share()
    assert await at.keys() == set()


async def test_blocks_are_removed_even_if_storing_the_rest_takes_too_long(
    at: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(MemoryBlobs):
        async def put(self, key: str, data: bytes) -> None:
            if key.startswith(PREFIX) and await self._some():
                await asyncio.Event().wait()
            await super().put(key, data)

        async def _some(self) -> bool:
            return bool([blob async for blob in self.list(PREFIX)])

    monkeypatch.setattr(feature_bank, "SHARE_SECONDS", 0.05)
    at.blobs = Slow()
    at.computed("w1", block(), block(view=1))
    await at.bank("w1").share()
    assert await at.keys() == set(), "there is no manifest"
    await at.blobs.put(snapshot().manifest_key, b"{}")
    await at.bank("w1").share()
    assert await at.keys() == {block()}


async def test_a_store_that_hangs_or_is_down_costs_a_trial_only_its_savings(
    at: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging(MemoryBlobs):
        async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
            await asyncio.Event().wait()
            return await super().get(key, start, length)

    class Down(MemoryBlobs):
        async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
            raise Unavailable(what="the store", problem="it is down")
            yield BlobInfo("", 0)

    monkeypatch.setattr(feature_bank, "FETCH_SECONDS", 0.05)
    at.computed("w1", block(view=1))
    for blobs in (Hanging(), Down()):
        caplog.clear()
        at.blobs = blobs
        await at.blobs.put(PREFIX + block(), file_of(block()))
        await at.bank("w1").fetch(RECIPE, "cpu")
        assert "features_not_fetched" in caplog.text
    await at.bank("w1").share()
    assert "features_not_shared" in caplog.text


class Trainings:
    """Trainings by real trials, in this process, on a clock that ticks once per batch of embedded images."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.blobs = FlakyBlobs()
        self.batches = 0
        self.directory = write_snapshot(root / "snapshot")
        self.manifest = read_manifest((self.directory / MANIFEST_FILE).read_bytes())
        embed = frozen.embed

        def counted(network: Network, images: Tensor, *, middle: bool) -> Tensor:
            self.batches += 1
            return embed(network, images, middle=middle)

        monkeypatch.setattr(frozen, "embed", counted)

    async def script(self, task: Task) -> AsyncGenerator[Message]:
        assert isinstance(task, TrainTask)
        began = self.batches
        session = Session(Meter(task.allowance, lambda: float(self.batches - began)), lambda message: None)
        yield await asyncio.to_thread(train, task, session)

    async def trained(self, worker: str, recipe: Recipe, script: Script | None = None) -> Trial:
        """The trial of a new training, on the worker."""
        world = World(self.root, blobs=self.blobs)
        training = dataclasses.replace(snapshot(), digest=self.manifest.digest)
        await world.begin(recipe=recipe, training=training)
        for shard in self.manifest.shards:
            for key in (shard.key, shard.index_key):
                await self.blobs.put(key, (self.directory / local_name(key)).read_bytes())
        await self.blobs.put(training.manifest_key, (self.directory / MANIFEST_FILE).read_bytes())
        await world.worker(*([script] if script else []), self.script, name=worker).handle(T0)
        trial = await world.trial()
        assert trial.work.state is WorkState.SUCCEEDED, trial.work.error
        return trial


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    torch.set_num_threads(1)
    return Trainings(tmp_path, monkeypatch)


BATCHES = 3  # of 36 images


async def test_a_second_training_on_another_worker_computes_no_features_and_is_charged_none(
    trainings: Trainings,
) -> None:
    first = await trainings.trained("w1", linear_recipe(views=2))
    assert trainings.batches == 2 * BATCHES
    assert first.work.charged == timedelta(seconds=2 * BATCHES)
    assert first.result is not None
    assert first.result.features == FeatureUse(reused=0, computed=2, saved=timedelta())
    second = await trainings.trained("w2", linear_recipe(views=2))
    assert trainings.batches == 2 * BATCHES
    assert second.work.charged == timedelta()
    assert second.result is not None
    assert second.result.features == FeatureUse(reused=2, computed=0, saved=first.work.charged)
    assert second.result.score == first.result.score


async def test_only_the_blocks_that_are_missing_are_computed(trainings: Trainings) -> None:
    await trainings.trained("w1", linear_recipe())
    second = await trainings.trained("w2", linear_recipe(views=2))
    assert second.result is not None
    assert second.result.features == FeatureUse(reused=1, computed=1, saved=timedelta(seconds=BATCHES))
    assert second.work.charged == timedelta(seconds=BATCHES)


async def test_other_weights_have_other_features(trainings: Trainings) -> None:
    await trainings.trained("w1", linear_recipe())
    other = await trainings.trained("w2", linear_recipe(backbones=("mobilenet_v3_large",)))
    assert other.result is not None
    assert other.result.features == FeatureUse(reused=0, computed=1, saved=timedelta())


async def test_features_of_an_attempt_that_died_are_not_computed_again(trainings: Trainings) -> None:
    async def extracts_and_dies(task: Task) -> AsyncGenerator[Message]:
        async for _ in trainings.script(task):
            pass
        async for message in dies(task):
            yield message

    trial = await trainings.trained("w1", linear_recipe(), extracts_and_dies)
    assert trainings.batches == BATCHES
    assert trial.work.attempt == 2
    assert trial.work.charged == timedelta()


async def test_what_reuse_saved_is_counted_on_the_reference_device(tmp_path: Path) -> None:
    use = FeatureUse(reused=1, computed=2, saved=timedelta(seconds=3))

    async def reuses(task: Task) -> AsyncGenerator[Message]:
        yield structs.replace(outcome(task, 1.0), features=use)

    world = World(tmp_path)
    await world.begin()
    await world.worker(reuses, device_factor=4.0).handle(T0)
    trial = await world.trial()
    assert trial.result is not None
    assert trial.result.features == structs.replace(use, saved=timedelta(seconds=12))
    message = trial_message(Versioned(trial, 1)).features
    assert (message.reused_blocks, message.computed_blocks, message.saved.ToTimedelta()) == (
        1,
        2,
        timedelta(seconds=12),
    )


async def test_the_result_is_there_before_the_features_are_stored(tmp_path: Path) -> None:
    """Storing features keeps nobody waiting for the trial."""
    ended: list[bool] = []
    world = World(tmp_path)

    class Watched(FlakyBlobs):
        async def put(self, key: str, data: bytes) -> None:
            if key.startswith(PREFIX):
                ended.append((await world.trial()).work.ended)
            await super().put(key, data)

    async def extracts(task: Task) -> AsyncGenerator[Message]:
        assert isinstance(task, TrainTask)
        write(folder_of(Path(task.cache_directory), snapshot().digest) / block(), file_of(block()))
        async for message in succeeds(task):
            yield message

    world.blobs = Watched()
    await world.begin()
    await world.worker(extracts).handle(T0)
    assert ended == [True]
