"""Where weights come from, in order; no test here touches a network."""

import hashlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pytest
import safetensors
import safetensors.torch
import torch
import torchvision

from services.vision.card import WeightsSource
from services.vision.catalogue import BACKBONES, DETECTORS, Backbone, Download
from services.vision.detector_builder import build_detector
from services.vision.torchvision_detectors import TorchvisionDetector
from services.vision.weights import WeightsResolver, pretrained_detector, pretrained_network

SQUEEZENET = BACKBONES["squeezenet1_1"]
YOLOX = DETECTORS["yolox_nano"]
Opener = Callable[[str], AbstractContextManager[BinaryIO]]


def save(path: Path, value: float) -> Path:
    state = {key: torch.full_like(t, value) for key, t in torchvision.models.squeezenet1_1().state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, path)
    return path


def serving(data: bytes, asked: list[str]) -> Opener:
    @contextmanager
    def open_(url: str) -> Generator[BinaryIO]:
        asked.append(url)
        yield BytesIO(data)

    return open_


def unreachable(asked: list[str]) -> Opener:
    def open_(url: str) -> AbstractContextManager[BinaryIO]:
        asked.append(url)
        raise OSError("no route to host")

    return open_


def published() -> tuple[bytes, Backbone]:
    """A file as published by torchvision, and a catalogue row with its digest."""
    out = BytesIO()
    torch.save(torchvision.models.squeezenet1_1().state_dict(), out)
    digest = hashlib.sha256(out.getvalue()).hexdigest()[:8]
    url = f"https://example.invalid/squeezenet1_1-{digest}.pth"
    return out.getvalue(), replace(SQUEEZENET, download=Download(WeightsSource.TORCHVISION, url, digest))


def test_the_folder_comes_before_the_store_s_copy(tmp_path: Path) -> None:
    folder, cache = tmp_path / "folder", tmp_path / "cache"
    path = save(folder / SQUEEZENET.file_name, 1.0)
    save(cache / SQUEEZENET.file_name, 2.0)
    weights = WeightsResolver(folder, cache, download=False).resolve(SQUEEZENET)
    assert (weights.source, weights.note, weights.pretrained) == (WeightsSource.FOLDER, "", True)
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert WeightsResolver(None, cache, download=False).resolve(SQUEEZENET).source is WeightsSource.STORE


def test_without_weights_the_start_is_random_and_the_note_says_why(tmp_path: Path) -> None:
    resolver = WeightsResolver(tmp_path, tmp_path, download=False)
    weights = resolver.resolve(SQUEEZENET)
    assert (weights.source, weights.state, weights.sha256) == (WeightsSource.RANDOM, {}, "")
    assert "switched off" in weights.note
    assert weights.note.startswith("No pretrained weights for")
    assert not resolver.available(SQUEEZENET)
    assert "none are published" in resolver.resolve(BACKBONES["mobilenet_v2_keras"]).note


def test_an_unreachable_site_is_tried_once(tmp_path: Path) -> None:
    asked: list[str] = []
    resolver = WeightsResolver(None, tmp_path, opener=unreachable(asked))
    for name in ("squeezenet1_1", "resnet18", "squeezenet1_1"):
        weights = resolver.resolve(BACKBONES[name])
        assert weights.source is WeightsSource.RANDOM
        assert "no route to host" in weights.note
    assert len(asked) == 1


def test_a_download_is_checked_converted_and_kept(tmp_path: Path) -> None:
    asked: list[str] = []
    data, squeezenet = published()
    opener = serving(data, asked)
    resolver = WeightsResolver(None, tmp_path / "cache", opener=opener)
    first = resolver.resolve(squeezenet)
    again = WeightsResolver(None, tmp_path / "cache", opener=opener).resolve(squeezenet)
    assert first.source is again.source is WeightsSource.TORCHVISION
    assert first.sha256 == again.sha256
    assert len(asked) == 1
    assert resolver.available(squeezenet)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["squeezenet1_1.torchvision.safetensors"]
    uncached = WeightsResolver(opener=opener).resolve(squeezenet)
    assert uncached.source is WeightsSource.TORCHVISION


def test_a_download_with_another_digest_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, squeezenet = published()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    weights = WeightsResolver(None, tmp_path, opener=serving(b"something else", [])).resolve(squeezenet)
    assert weights.source is WeightsSource.RANDOM
    assert "digest" in weights.note
    assert not list(tmp_path.iterdir())


def test_a_broken_file_in_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / SQUEEZENET.file_name).write_bytes(b"no safetensors")
    with pytest.raises(safetensors.SafetensorError):
        WeightsResolver(tmp_path, download=False).resolve(SQUEEZENET)


def test_a_network_takes_the_weights_and_keeps_its_seeded_head(tmp_path: Path) -> None:
    save(tmp_path / SQUEEZENET.file_name, 0.5)
    first, weights = pretrained_network("squeezenet1_1", 3, WeightsResolver(tmp_path, download=False), seed=1)
    second, _ = pretrained_network("squeezenet1_1", 3, WeightsResolver(tmp_path, download=False), seed=1)
    assert weights.source is WeightsSource.FOLDER
    assert all(bool((parameter == 0.5).all()) for parameter in first.features.parameters())
    assert torch.equal(first.state_dict()["head.weight"], second.state_dict()["head.weight"])


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v2_keras", "squeezenet1_1"])
def test_the_real_folder_serves_its_networks(name: str, weights_dir: Path) -> None:
    _, weights = pretrained_network(name, 3, WeightsResolver(weights_dir, download=False))
    assert weights.source is WeightsSource.FOLDER
    assert weights.state


def checkpoint(content: object) -> bytes:
    """A file of tensors as published by the YOLOX project."""
    out = BytesIO()
    torch.save(content, out)
    return out.getvalue()


def test_yolox_s_release_is_read_converted_and_kept_with_its_digest(tmp_path: Path) -> None:
    asked: list[str] = []
    data = checkpoint({"model": build_detector("yolox_nano", 80, seed=1).state_dict(), "start_epoch": 300})
    resolver = WeightsResolver(None, tmp_path, opener=serving(data, asked))
    network, weights = pretrained_detector("yolox_nano", 3, resolver, seed=2)
    assert (weights.source, weights.note) == (WeightsSource.YOLOX, "")
    assert torch.equal(network.state_dict()["head.stems.0.conv.weight"], weights.state["head.stems.0.conv.weight"])
    again = WeightsResolver(None, tmp_path, opener=serving(data, asked))
    assert again.available(YOLOX)
    assert again.resolve(YOLOX).sha256 == weights.sha256
    assert len(asked) == 1
    assert asked[0].endswith("/yolox_nano.pth")
    with safetensors.safe_open(tmp_path / "yolox_nano.yolox.safetensors", framework="pt") as file:
        assert file.metadata() == {"url": asked[0], "sha256": hashlib.sha256(data).hexdigest()}


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (pytest.fail, ("it ran",))


@pytest.mark.parametrize(
    ("content", "why"),
    [({"model": Harmful()}, "fail"), ({"weights": {}}, "no tensors under model"), ({"model": {"a": 1}}, "no tensors")],
)
def test_a_release_with_more_than_tensors_is_not_used(content: object, why: str, tmp_path: Path) -> None:
    weights = WeightsResolver(None, tmp_path, opener=serving(checkpoint(content), [])).resolve(YOLOX)
    assert weights.source is WeightsSource.RANDOM
    assert why in weights.note
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_release_or_an_html_page_is_not_used(share: float, tmp_path: Path) -> None:
    data = checkpoint({"model": {"a": torch.zeros(1000)}})
    for answer in (data[: int(share * len(data))], b"<html>" * int(1 + 10 * share)):
        weights = WeightsResolver(None, tmp_path, opener=serving(answer, [])).resolve(YOLOX)
        assert weights.source is WeightsSource.RANDOM
        assert "cannot be read" in weights.note
    assert not list(tmp_path.iterdir())


def test_another_site_is_tried_after_one_is_unreachable(tmp_path: Path) -> None:
    asked: list[str] = []
    resolver = WeightsResolver(None, tmp_path, opener=unreachable(asked))
    for spec in (YOLOX, SQUEEZENET, DETECTORS["yolox_s"], DETECTORS["fcos_resnet50_fpn"]):
        assert spec.name in resolver.resolve(spec).note
    assert len(asked) == 2


def test_a_detector_takes_the_folder_s_weights_and_keeps_its_seeded_head(tmp_path: Path) -> None:
    name = "ssdlite320_mobilenet_v3_large"
    source = build_detector(name, 90, seed=5)
    assert isinstance(source, TorchvisionDetector)
    state = {key: tensor.contiguous() for key, tensor in source.model.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / f"{name}.safetensors")
    resolver = WeightsResolver(tmp_path, download=False)
    network, weights = pretrained_detector(name, 3, resolver, seed=1)
    random, nothing = pretrained_detector(name, 3, WeightsResolver(download=False), seed=1)
    assert (weights.source, nothing.source) == (WeightsSource.FOLDER, WeightsSource.RANDOM)
    assert isinstance(network, TorchvisionDetector)
    assert isinstance(random, TorchvisionDetector)
    own = random.model.state_dict()
    for key, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, own[key] if key.startswith(network.class_outputs) else state[key])


def test_the_real_folder_serves_yolox(weights_dir: Path) -> None:
    _, weights = pretrained_detector("yolox_nano", 3, WeightsResolver(weights_dir, download=False))
    assert weights.source is WeightsSource.FOLDER
