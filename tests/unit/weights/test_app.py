"""Adding, fetching and verifying packs, in a folder and in the store."""

import io
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pytest
import safetensors.torch
import timm
import torch

from services.kit.errors import InvalidRequest, Unavailable
from services.kit.memory import MemoryBlobs
from services.vision.catalogue import BACKBONES
from services.vision.packs import PackUnusable, description_of, read_pack
from services.vision.weights import WeightsResolver
from services.weights import app
from services.weights.listing import listed
from services.weights.shelves import FolderShelf, Shelf, StoreShelf
from tests.support.packs import SQUEEZENET, add_description, tensors, write_weights

SMALLEST = "repvit_m1_0.dist_450e_in1k"


@pytest.fixture(params=["folder", "store"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return FolderShelf(tmp_path / "packs") if request.param == "folder" else StoreShelf(MemoryBlobs())


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def serving(data: bytes, asked: list[str]) -> Callable[[str], AbstractContextManager[BinaryIO]]:
    @contextmanager
    def open_(url: str) -> Generator[BinaryIO]:
        asked.append(url)
        yield io.BytesIO(data)

    return open_


def unreachable(url: str) -> AbstractContextManager[BinaryIO]:
    raise OSError(f"no route to host of {url}")


async def test_a_file_becomes_a_pack_that_is_sound_and_that_a_training_reads(shelf: Shelf, tmp_path: Path) -> None:
    torch.save(tensors(0.5), tmp_path / "weights.pth")
    added = await app.add(shelf, tmp_path / "weights.pth", SQUEEZENET.name)
    assert await shelf.networks() == [SQUEEZENET.name]
    assert [(row.described, row.problem, row.sha256) for row in await app.verify(shelf)] == [(True, "", added.sha256)]
    path = await shelf.fetch(SQUEEZENET.name, tmp_path)
    found = WeightsResolver(path.parent, download=False).resolve(SQUEEZENET)
    assert found.pack is not None
    assert (found.pack.licence, found.pack.source, found.sha256) == ("BSD-3-Clause", "weights.pth", added.sha256)
    assert all(bool((tensor == 0.5).all()) for tensor in found.state.values())


async def test_a_pack_keeps_its_description_when_it_is_added_elsewhere(shelf: Shelf, tmp_path: Path) -> None:
    path = write_weights(tmp_path / SQUEEZENET.file_name, 1.0)
    pack = add_description(path, id="squeezenet1_1.other", mean=(0.5, 0.5, 0.5), licence="MIT")
    await app.add(shelf, path, SQUEEZENET.name)
    kept = read_pack(await shelf.fetch(SQUEEZENET.name, _made(tmp_path / "copy")))
    assert kept is not None
    assert (kept.id, kept.mean, kept.licence, kept.source) == (pack.id, pack.mean, "MIT", pack.source)
    write_weights(path, 2.0)
    with pytest.raises(PackUnusable, match="was replaced"):
        await app.add(shelf, path, SQUEEZENET.name)


async def test_another_tag_of_timm_s_brings_its_own_colours(shelf: Shelf, tmp_path: Path) -> None:
    state = timm.create_model("efficientnet_lite0", pretrained=False).state_dict()
    safetensors.torch.save_file(state, tmp_path / "lite.safetensors")
    await app.add(shelf, tmp_path / "lite.safetensors", "efficientnet_lite0.ra_in1k", source="https://example.org/w")
    pack = read_pack(await shelf.fetch("efficientnet_lite0", _made(tmp_path / "copy")))
    assert pack is not None
    assert pack.mean != BACKBONES["efficientnet_lite0"].rule.mean
    named = "efficientnet_lite0.ra_in1k", "Apache-2.0", "https://example.org/w"
    assert (pack.id, pack.licence, pack.source) == named
    with pytest.raises(InvalidRequest, match="timm has no weights"):
        await app.add(shelf, tmp_path / "lite.safetensors", "efficientnet_lite0.nobody")


@pytest.mark.parametrize("network", [SMALLEST, SMALLEST.partition(".")[0]])
async def test_a_network_s_own_weights_are_described_as_the_catalogue_does_with_or_without_the_tag(
    network: str, shelf: Shelf, tmp_path: Path
) -> None:
    state = timm.create_model(SMALLEST, pretrained=False).state_dict()
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    await app.add(shelf, tmp_path / "mine.safetensors", network, source="https://example.org/w")
    pack = read_pack(await shelf.fetch(SMALLEST, _made(tmp_path / "copy")))
    assert pack is not None
    assert (pack.id, pack.source) == (SMALLEST, "https://example.org/w")


@pytest.mark.parametrize("fault", ["missing", "unknown", "misshapen", "text", "empty", "html"])
async def test_a_file_that_is_not_exactly_the_network_s_is_refused_by_name(
    fault: str, shelf: Shelf, tmp_path: Path
) -> None:
    state, path = tensors(1.0), tmp_path / "weights.pth"
    match fault:
        case "missing":
            state.pop("features.0.weight")
        case "unknown":
            state["features.99.weight"] = torch.zeros(1)
        case "misshapen":
            state["features.0.weight"] = torch.zeros(1)
        case _:
            path.write_bytes({"text": b"not weights", "empty": b"", "html": b"<html>" * 100}[fault])
    if fault in ("missing", "unknown", "misshapen"):
        torch.save(state, path)
    with pytest.raises(InvalidRequest, match=r"weights\.pth: these are not weights of squeezenet1_1"):
        await app.add(shelf, path, SQUEEZENET.name)
    assert await shelf.networks() == []


async def test_a_licence_off_the_list_is_refused_before_the_file_is_read(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    with pytest.raises(PackUnusable, match=r"is CC-BY-NC-4\.0, and only"):
        await app.add(shelf, tmp_path / "weights.pth", SQUEEZENET.name, "CC-BY-NC-4.0")


async def test_an_unknown_network_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="'convnextv2_tiny' is not in the catalogue"):
        await app.add(shelf, tmp_path / "weights.pth", "convnextv2_tiny")


async def test_weights_are_mirrored_from_timm_s_hub(shelf: Shelf, tmp_path: Path) -> None:
    state = timm.create_model(SMALLEST, pretrained=False).state_dict()
    asked: list[str] = []
    added = await app.pull(shelf, SMALLEST, serving(safetensors.torch.save(state), asked))
    assert asked == [f"https://huggingface.co/timm/{SMALLEST}/resolve/main/model.safetensors"]
    assert added.source == asked[0]
    pack = read_pack(await shelf.fetch(SMALLEST, _made(tmp_path / "copy")))
    assert pack is not None
    assert (pack.licence, pack.sha256, pack.source) == ("Apache-2.0", added.sha256, asked[0])
    assert [row.problem for row in await app.verify(shelf)] == [""]


async def test_what_the_hub_answers_is_checked_before_it_is_added(shelf: Shelf) -> None:
    whole = safetensors.torch.save(timm.create_model(SMALLEST, pretrained=False).state_dict())
    other = safetensors.torch.save({"a": torch.zeros(1)})
    for answer in (b"<html>", whole[: len(whole) // 2], other):
        with pytest.raises((InvalidRequest, RuntimeError)):
            await app.pull(shelf, SMALLEST, serving(answer, []))
    assert await shelf.networks() == []


async def test_without_internet_access_the_error_says_how_to_bring_the_weights(shelf: Shelf) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await app.pull(shelf, SMALLEST, unreachable)
    said = str(refused.value)
    assert "no route to host" in said
    assert f"`sightline weights pull {SMALLEST} --folder DIR`" in said
    assert f"`sightline weights add DIR/{SMALLEST}.safetensors --network {SMALLEST}`" in said
    with pytest.raises(InvalidRequest, match="none are published"):
        await app.pull(shelf, "mobilenet_v2_keras", unreachable)


async def test_verifying_names_what_is_wrong_with_each_pack(tmp_path: Path) -> None:
    shelf = FolderShelf(tmp_path)
    write_weights(tmp_path / SQUEEZENET.file_name, 1.0)
    assert [(row.described, row.problem) for row in await app.verify(shelf)] == [(False, "")]
    add_description(tmp_path / SQUEEZENET.file_name)
    write_weights(tmp_path / SQUEEZENET.file_name, 2.0)
    write_weights(tmp_path / "resnet18.safetensors", 1.0)
    write_weights(tmp_path / "somebody_s.safetensors", 1.0)
    (tmp_path / "yolox_nano.safetensors").write_bytes(b"damaged")
    problems = {row.network: row.problem for row in await app.verify(shelf)}
    assert "was replaced" in problems["squeezenet1_1"]
    assert "Missing" in problems["resnet18"]
    assert "no network of the catalogue" in problems["somebody_s"]
    assert problems["yolox_nano"]


class Ending(MemoryBlobs):
    """A store that the process no longer reaches after a number of changes."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 1_000

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Unavailable(what="the store", problem="the process ended")

    async def put(self, key: str, data: bytes) -> None:
        self._count()
        await super().put(key, data)

    async def delete(self, key: str) -> None:
        self._count()
        await super().delete(key)


@pytest.mark.parametrize("changes", range(4))
async def test_a_pack_that_is_replaced_never_has_the_description_of_the_other(changes: int, tmp_path: Path) -> None:
    store = Ending()
    for content in ("old", "new"):
        (tmp_path / content).write_text(content)
    await StoreShelf(store).put("n", tmp_path / "old", b"of old")
    store.left = changes
    with suppress(Unavailable):
        await StoreShelf(store).put("n", tmp_path / "new", b"of new")
    path = await StoreShelf(store).fetch("n", tmp_path)
    description = description_of(path).read_text() if description_of(path).exists() else "none"
    assert (path.read_text(), description) == [("old", "of old"), ("old", "none"), ("new", "none"), ("new", "of new")][
        changes
    ]


async def test_the_list_says_where_each_network_s_weights_are(shelf: Shelf, tmp_path: Path) -> None:
    before = {row.network: row for row in await listed([shelf])}
    assert not before[SQUEEZENET.name].present
    await app.add(shelf, write_weights(tmp_path / "w.safetensors", 1.0), SQUEEZENET.name)
    after = {row.network: row for row in await listed([shelf])}
    assert after[SQUEEZENET.name].present == (shelf.name,)
    assert (after[SMALLEST].family, after[SMALLEST].device, after[SMALLEST].published) == (
        "supervised",
        "2 cores",
        "timm",
    )
    assert after["yolox_nano"].family == "YOLOX"
