"""Packs of weights: what their description says is checked, and their colours and size are used."""

import io
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import timm
import torch

from services.kit.digests import file_digest
from services.vision.card import IMAGENET_MEAN, WeightsSource
from services.vision.catalogue import BACKBONES, DETECTORS
from services.vision.packs import PackUnusable, described, description_of, read_pack, write_pack
from services.vision.weights import WeightsResolver
from tests.support.packs import SQUEEZENET, add_description, install, write_weights

LITE = BACKBONES["efficientnet_lite0"]


def resolver(folder: Path) -> WeightsResolver:
    return WeightsResolver(folder, download=False)


def test_a_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_weights(tmp_path / SQUEEZENET.file_name, 1.0)
    assert read_pack(path) is None
    pack = add_description(path, source="https://example.invalid/x", mean=(0.1, 0.2, 0.3))
    assert read_pack(path) == pack
    assert resolver(tmp_path).resolve(SQUEEZENET).pack == pack


def test_a_name_with_dots_has_its_description_beside_it() -> None:
    assert description_of(Path("a.b_c.safetensors")) == Path("a.b_c.json")


def test_a_changed_file_is_refused_by_name_with_both_digests(tmp_path: Path) -> None:
    path = write_weights(tmp_path / SQUEEZENET.file_name, 1.0)
    pack = add_description(path)
    write_weights(path, 2.0)
    with pytest.raises(PackUnusable) as refused:
        resolver(tmp_path).resolve(SQUEEZENET)
    assert str(path) in str(refused.value)
    assert pack.sha256 in str(refused.value)


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "AGPL-3.0", "apache license", ""])
def test_a_licence_that_restricts_use_is_refused(licence: str, tmp_path: Path) -> None:
    path = write_weights(tmp_path / SQUEEZENET.file_name, 1.0)
    add_description(path, licence=licence)
    with pytest.raises(PackUnusable, match=f"licence of the weights is {licence or 'not stated'}, and only Apache-2.0"):
        resolver(tmp_path).resolve(SQUEEZENET)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"id": "resnet18"}, "not of squeezenet1_1"), ({"pooling": "token"}, "pools its features by 'avg'")],
)
def test_a_pack_of_another_network_is_refused(changes: dict[str, object], problem: str, tmp_path: Path) -> None:
    path = write_weights(tmp_path / SQUEEZENET.file_name, 1.0)
    add_description(path, **changes)
    with pytest.raises(PackUnusable, match=problem):
        resolver(tmp_path).resolve(SQUEEZENET)


def test_other_weights_of_the_same_network_are_taken_with_their_colours_and_size(tmp_path: Path) -> None:
    path = write_weights(tmp_path / SQUEEZENET.file_name, 1.0)
    add_description(path, id="squeezenet1_1.other", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), input_size=288)
    pack = resolver(tmp_path).resolve(SQUEEZENET).pack
    assert pack is not None
    rule = pack.adapted(SQUEEZENET.rule)
    assert (rule.mean, rule.std, rule.size, rule.resize) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 288, 329)


def test_a_detector_s_colours_are_fixed(tmp_path: Path) -> None:
    yolox = DETECTORS["yolox_nano"]
    path = tmp_path / yolox.file_name
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    pack = msgspec.structs.replace(described(yolox, "a test"), sha256=file_digest(path))
    description_of(path).write_bytes(write_pack(pack))
    assert resolver(tmp_path).resolve(yolox).pack == pack
    description_of(path).write_bytes(write_pack(msgspec.structs.replace(pack, mean=IMAGENET_MEAN)))
    with pytest.raises(PackUnusable, match="yolox_nano takes mean"):
        resolver(tmp_path).resolve(yolox)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "squeezenet1_1"}', b"\xff\xfe"])
def test_a_description_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    path = write_weights(tmp_path / SQUEEZENET.file_name, 1.0)
    description_of(path).write_bytes(content)
    with pytest.raises(PackUnusable, match=r"squeezenet1_1\.json does not describe weights"):
        resolver(tmp_path).resolve(SQUEEZENET)


def saved(state: object) -> bytes:
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def test_an_installed_package_s_weights_get_timm_s_names_and_are_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = timm.create_model("efficientnet_lite0", pretrained=False).state_dict()
    package = install(tmp_path / "site", saved({f"_{index}": tensor for index, tensor in enumerate(state.values())}))
    wanted = replace(LITE, package=package)
    cached = WeightsResolver(None, tmp_path / "cache", download=False)
    assert not cached.available(wanted)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert cached.available(wanted)
    first = cached.resolve(wanted)
    assert (first.source, first.note) == (WeightsSource.PACKAGE, "")
    assert first.state.keys() == state.keys()
    assert all(torch.equal(first.state[name], tensor) for name, tensor in state.items())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read again"))
    assert cached.resolve(wanted).sha256 == first.sha256


def test_a_package_whose_file_was_changed_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = install(tmp_path / "site", b"something else")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(PackUnusable, match="Install tiny-weights again"):
        resolver(tmp_path).resolve(replace(LITE, package=replace(package, sha256="0" * 64)))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_the_extra_pins_the_packages_that_the_catalogue_names(name: str) -> None:
    package = BACKBONES[name].package
    assert package is not None
    extras = Path(__file__).parents[3].joinpath("services", "pyproject.toml").read_text()
    assert f'"{package.distribution}==0.1.0"' in extras
    assert len(package.sha256) == 64
    assert f"-{package.sha256[:8]}.pth" in package.file


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_the_real_package_has_the_real_weights(name: str, weights_dir: Path, tmp_path: Path) -> None:
    wanted = BACKBONES[name]
    found = WeightsResolver(None, tmp_path, download=False)
    if not found.available(wanted):
        pytest.skip("the extra `weights` is not installed")
    state, real = found.resolve(wanted).state, resolver(weights_dir).resolve(wanted).state
    assert state.keys() == real.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in real.items())
