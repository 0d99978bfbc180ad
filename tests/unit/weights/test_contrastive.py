"""Packs of contrastive networks: from open_clip's checkpoints, with their text tower."""

import io
import json
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError

import msgspec
import pytest
import safetensors.torch
import torch

from services.kit.digests import file_digest
from services.kit.errors import InvalidRequest
from services.vision.backbones import build, embed
from services.vision.catalogue import BACKBONES
from services.vision.open_clip import CONFIG_FILE, TOKENIZER_FILE
from services.vision.packs import PackUnusable, description_of, read_pack, write_pack
from services.vision.text_tower import load_text_tower
from services.vision.weights import PretrainedWeights, WeightsResolver, pretrained_network
from services.weights import app
from services.weights.shelves import FolderShelf
from tests.support.contrastive import COLOURS, NETWORK, embedded, in_catalogue, pretrained, text_state, tokenizer_json


@pytest.fixture(autouse=True)
def _catalogue() -> Iterator[None]:
    with in_catalogue():
        yield


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint and what is beside it."""
    return pretrained(tmp_path_factory.mktemp("repository"), images=12).parent


@pytest.fixture
def checkpoint(repository: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(repository, tmp_path / "copy")) / "open_clip_model.safetensors"


@pytest.fixture
def shelf(tmp_path: Path) -> FolderShelf:
    return FolderShelf(tmp_path / "packs")


def found_in(folder: Path) -> PretrainedWeights:
    return WeightsResolver(folder, download=False).resolve(NETWORK)


def hub(folder: Path, asked: list[str], *, missing: str = "") -> Callable[[str], AbstractContextManager[BinaryIO]]:
    """The site of a repository whose files are in a folder."""

    @contextmanager
    def open_(url: str) -> Generator[BinaryIO]:
        asked.append(url)
        path = folder / url.rsplit("/", 1)[-1]
        if path.name == missing or not path.exists():
            raise HTTPError(url, 404, "Not Found", None, None)  # pyright: ignore[reportArgumentType] - no headers
        yield io.BytesIO(path.read_bytes())

    return open_


async def test_a_checkpoint_becomes_a_pack_of_both_towers(checkpoint: Path, shelf: FolderShelf, tmp_path: Path) -> None:
    added = await app.add(shelf, checkpoint, NETWORK.name)
    assert [(row.problem, row.sha256) for row in await app.verify(shelf)] == [("", added.sha256)]
    found = found_in(tmp_path / "packs")
    assert found.pack is not None
    assert found.pack.text is not None
    assert found.pack.text.logit_scale == pytest.approx(30)
    assert not any(name.startswith("text.") for name in found.state)
    assert found.text_file is not None
    read = load_text_tower(found.text_file, found.pack.text)
    wanted = embedded(tuple(COLOURS), text_state())
    prompts = found.pack.text.prompts
    texts = [prompt.replace("{}", name) for name in COLOURS for prompt in prompts]
    mean = read.embed(texts).reshape(len(COLOURS), len(prompts), -1).mean(dim=1)
    torch.testing.assert_close(torch.nn.functional.normalize(mean, dim=1), wanted)
    assert read.image_projection.shape == (found.pack.text.embedding, NETWORK.feature_dim)
    network, _ = pretrained_network(NETWORK.name, 2, WeightsResolver(tmp_path / "packs", download=False), seed=5)
    images = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(embed(network, images), embed(build(NETWORK.name, 1, seed=0), images))


async def test_a_pack_with_a_text_tower_keeps_it_when_it_is_added_elsewhere(
    checkpoint: Path, shelf: FolderShelf, tmp_path: Path
) -> None:
    await app.add(shelf, checkpoint, NETWORK.name)
    first = tmp_path / "packs" / NETWORK.file_name
    added = await app.add(FolderShelf(tmp_path / "other"), first, NETWORK.name)
    assert added.sha256 == file_digest(first)
    assert read_pack(tmp_path / "other" / NETWORK.file_name) == read_pack(first)
    assert [row.problem for row in await app.verify(FolderShelf(tmp_path / "other"))] == [""]


@pytest.mark.parametrize("missing", ["", "open_clip_model.safetensors"])
async def test_both_towers_are_fetched_from_the_network_s_repository(
    missing: str, checkpoint: Path, shelf: FolderShelf, tmp_path: Path
) -> None:
    torch.save(safetensors.torch.load_file(checkpoint), checkpoint.with_name("open_clip_pytorch_model.bin"))
    asked: list[str] = []
    added = await app.pull(shelf, NETWORK.name, hub(checkpoint.parent, asked, missing=missing))
    site = "https://huggingface.co/somebody/tiny/resolve/main/"
    names = [CONFIG_FILE, TOKENIZER_FILE, "open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    assert asked == [site + name for name in names[: 4 if missing else 3]]
    assert added.source == asked[-1]
    found = found_in(tmp_path / "packs")
    assert found.text_file is not None
    assert [row.problem for row in await app.verify(shelf)] == [""]


async def test_without_internet_access_the_error_says_how_to_bring_both_towers(shelf: FolderShelf) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await app.pull(shelf, NETWORK.name, hub(Path("nowhere"), []))
    assert "https://huggingface.co/somebody/tiny did not provide the weights" in str(refused.value)
    assert "sightline weights add" in str(refused.value)


@pytest.mark.parametrize("name", [CONFIG_FILE, TOKENIZER_FILE])
async def test_what_must_be_beside_a_checkpoint_is_named(name: str, checkpoint: Path, shelf: FolderShelf) -> None:
    checkpoint.with_name(name).unlink()
    with pytest.raises(InvalidRequest, match=rf"{name} of the same repository must be beside it"):
        await app.add(shelf, checkpoint, NETWORK.name)
    assert await shelf.networks() == []


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "hf_model_name 'roberta-base'"),
        ({"text_cfg": {"pool_type": "last"}}, "pool_type 'last'"),
        ({"text_cfg": {"layers": 3}}, r"resblocks\.2"),
        ({"text_cfg": {"vocab_size": 600}}, "600"),
        ({"text_cfg": {"layers": None}}, "does not describe a text tower"),
        ({"quick_gelu": True}, "trained with QuickGELU"),
        ("nothing", "does not describe a text tower"),
    ],
)
async def test_other_text_towers_than_clip_s_are_refused(
    config: dict[str, object] | str, problem: str, checkpoint: Path, shelf: FolderShelf
) -> None:
    path = checkpoint.with_name(CONFIG_FILE)
    model = json.loads(path.read_text())["model_cfg"]
    if isinstance(config, dict):
        changes = config.get("text_cfg", {})
        assert isinstance(changes, dict)
        model = {**model, **config, "text_cfg": {**model["text_cfg"], **changes}}
    path.write_text(json.dumps({"model_cfg": model if isinstance(config, dict) else config}))
    with pytest.raises(InvalidRequest, match=rf"(?s)open_clip_model\.safetensors: these are not weights.*{problem}"):
        await app.add(shelf, checkpoint, NETWORK.name)
    assert await shelf.networks() == []


async def test_a_sigmoid_trained_checkpoint_is_refused_and_says_what_to_add_instead(
    checkpoint: Path, shelf: FolderShelf
) -> None:
    state = safetensors.torch.load_file(checkpoint)
    safetensors.torch.save_file({**state, "logit_bias": torch.zeros(1)}, checkpoint)
    with pytest.raises(InvalidRequest, match=r"\(logit_bias\).*Add the image tower alone: `model\.safetensors`"):
        await app.add(shelf, checkpoint, NETWORK.name)


@pytest.mark.parametrize("name", ["visual.trunk.norm.bias", "visual.head.proj.weight", "text.ln_final.bias"])
async def test_a_checkpoint_that_lacks_a_tensor_is_refused(name: str, checkpoint: Path, shelf: FolderShelf) -> None:
    state = safetensors.torch.load_file(checkpoint)
    del state[name]
    safetensors.torch.save_file(state, checkpoint)
    with pytest.raises(InvalidRequest, match=r"open_clip_model\.safetensors: these are not weights of test_vit\.tiny"):
        await app.add(shelf, checkpoint, NETWORK.name)


async def test_a_tokenizer_of_another_vocabulary_is_refused(checkpoint: Path, shelf: FolderShelf) -> None:
    checkpoint.with_name(TOKENIZER_FILE).write_text(tokenizer_json([("a", "b")]))
    with pytest.raises(InvalidRequest, match="its tokenizer has 515 tokens, and its text tower 519"):
        await app.add(shelf, checkpoint, NETWORK.name)


async def test_verifying_finds_a_text_tower_that_does_not_fit_its_description(
    checkpoint: Path, shelf: FolderShelf, tmp_path: Path
) -> None:
    await app.add(shelf, checkpoint, NETWORK.name)
    path = tmp_path / "packs" / NETWORK.file_name
    pack, state = read_pack(path), safetensors.torch.load_file(path)
    assert pack is not None
    safetensors.torch.save_file(state, path)  # without the tokenizer
    changed = write_pack(msgspec.structs.replace(pack, sha256=file_digest(path)))
    description_of(path).write_bytes(changed)
    assert "its tokenizer cannot be read" in (await app.verify(shelf))[0].problem
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(PackUnusable, match="damaged or was replaced"):
        found_in(tmp_path / "packs")


async def test_other_weights_of_such_a_network_can_be_added_but_are_not_fetched(
    checkpoint: Path, shelf: FolderShelf
) -> None:
    other = "vit_base_patch32_clip_224.laion2b"
    assert app.known(other).name == "vit_base_patch32_clip_224.datacompxl"
    asked: list[str] = []
    with pytest.raises(InvalidRequest, match=rf"{other} is not fetched, only vit_base_patch32_clip_224\.datacompxl is"):
        await app.pull(shelf, other, hub(checkpoint.parent, asked))
    assert asked == []
    with pytest.raises(PackUnusable, match=r"is cc-by-nc-4\.0, and only"):
        await app.add(shelf, checkpoint, "vit_base_patch32_clip_224.metaclip_400m")


def test_the_catalogue_s_contrastive_networks_name_their_repository() -> None:
    towers = {row.name: row.hub for row in BACKBONES.values() if row.hub}
    assert set(towers) >= {
        "vit_medium_patch32_clip_224.tinyclip_laion400m",
        "vit_base_patch32_clip_224.datacompxl",
        "vit_base_patch16_clip_224.datacompxl",
        "vit_large_patch14_clip_224.datacompxl",
    }
    assert all(repository.count("/") == 1 for repository in towers.values())
