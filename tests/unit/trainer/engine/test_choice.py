"""Which network a first training is built on: what the worker's device suits, has weights of, and is fast enough."""

import io
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pytest
import safetensors.torch
import torch

from services.kit.digests import file_digest
from services.kit.errors import InvalidRequest
from services.trainer.engine import choice, pretrained
from services.trainer.engine.classification.linear_head import train_head
from services.trainer.engine.data import open_images
from services.trainer.engine.pretrained import load_backbones, within_reach
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import Result, TrainTask
from services.trainer.recipe import Framing
from services.trainer.used_weights import UsedWeights
from services.vision.backbones import build
from services.vision.card import CardBackbone, WeightsSource
from services.vision.catalogue import BACKBONES
from services.vision.timm_networks import DeviceClass
from tests.support.packs import SQUEEZENET, add_description, write_weights
from tests.unit.trainer.engine.shapes import linear_recipe, task_for, write_snapshot

REPVIT = "repvit_m1_0.dist_450e_in1k"
LARGER = "tiny_vit_21m_224.dist_in22k_ft_in1k"
MOBILE_V4, DINO = "mobilenetv4_conv_medium.e250_r384_in12k_ft_in1k", "vit_small_patch14_reg4_dinov2.lvd142m"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def published(name: str) -> dict[str, torch.Tensor]:
    """Random weights under their published names."""
    state = build(name, 1, seed=0).state_dict()
    prefix = "features.0." if BACKBONES[name].whole else "features." if name.startswith("resnet") else ""
    own = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
    return {key.removeprefix(prefix): tensor.contiguous() for key, tensor in own.items()}


def put(folder: Path, *names: str) -> None:
    for name in names:
        safetensors.torch.save_file(published(name), folder / f"{name}.safetensors")


@pytest.fixture
def task(tmp_path: Path, folder: Path) -> TrainTask:
    recipe = linear_recipe(pretrained=True, backbones=("mobilenet_v2",), choose=True)
    snapshot = write_snapshot(tmp_path / "snapshot", 4)
    return task_for(snapshot, recipe, weights_directory=str(folder))


def chosen(task: TrainTask) -> tuple[str, ...]:
    images = open_images(Path(task.directory), task.dataset)
    return tuple(backbone.name for backbone in load_backbones(task, images))


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_device(device: DeviceClass) -> None:
        monkeypatch.setattr(choice, "device_class", lambda task: device)

    return set_device


def reachable(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """Sites that serve these networks' weights and no others; returns what is asked for."""
    asked: list[str] = []

    @contextmanager
    def open_(url: str) -> Generator[BinaryIO]:
        asked.append(url)
        name = next((name for name in names if f"/{name}/" in url), None)
        if name is None:
            raise OSError("not found")
        yield io.BytesIO(safetensors.torch.save(published(name)))

    monkeypatch.setattr(pretrained, "opener", lambda: open_)
    return asked


def test_the_preferred_network_with_weights_is_taken_without_a_warning(task: TrainTask, folder: Path) -> None:
    put(folder, "squeezenet1_1", "mobilenet_v3_large")
    result = train_head(task, Session(Meter(task.allowance), lambda message: None))
    assert isinstance(result, Result)
    assert result.networks == ("mobilenet_v3_large",)
    assert result.backbones == ("mobilenet_v3_large", "squeezenet1_1")
    assert not any("weights" in warning for warning in result.warnings)


def test_a_pack_that_was_changed_since_an_earlier_trial_is_refused_by_name(task: TrainTask, folder: Path) -> None:
    put(folder, "squeezenet1_1")
    file = folder / "squeezenet1_1.safetensors"
    session = Session(Meter(task.allowance), lambda message: None)
    result = train_head(task, session)
    used = UsedWeights(network="squeezenet1_1", source=WeightsSource.FOLDER, sha256=file_digest(file))
    assert result.weights == (used,)
    later = msgspec.structs.replace(task, weights=result.weights)
    assert chosen(later) == ("squeezenet1_1",)
    changed = {name: tensor + 1 for name, tensor in published("squeezenet1_1").items()}
    safetensors.torch.save_file(changed, file)
    with pytest.raises(InvalidRequest, match=rf"{file} was changed while the model is trained: .*{used.sha256}"):
        train_head(later, session)
    assert chosen(task) == ("squeezenet1_1",)  # another model starts from what is there now


@pytest.mark.parametrize("device", [DeviceClass.GPU_16, DeviceClass.GPU_80, DeviceClass.CORES_8])
def test_a_larger_device_does_not_start_with_mobilenet_v2(
    device: DeviceClass, task: TrainTask, folder: Path, on: Any
) -> None:
    put(folder, "mobilenet_v2", DINO)
    on(device)
    assert chosen(task) == (DINO,)
    on(DeviceClass.CORES_2)
    assert chosen(task) == ("mobilenet_v2",)


def test_what_is_too_slow_here_is_passed_over_and_not_planned_again(
    task: TrainTask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, REPVIT, "mobilenet_v3_small")
    task = _with_allowance(task, 1.0)
    measured: list[str] = []

    def pass_seconds(network: Any, *_: Any) -> float:
        measured.append(network.backbone.name)
        return {REPVIT: 0.26, "mobilenet_v3_small": 0.24}[network.backbone.name]

    monkeypatch.setattr(choice, "pass_seconds", pass_seconds)
    assert chosen(task) == ("mobilenet_v3_small",)
    assert measured == [REPVIT, "mobilenet_v3_small"]
    small = CardBackbone("mobilenet_v3_small", BACKBONES["mobilenet_v3_small"].rule, WeightsSource.FOLDER)
    assert within_reach(task, (small,)) == ("mobilenet_v3_small",)
    assert within_reach(task) == (REPVIT, "mobilenet_v3_small")


def test_if_none_is_fast_enough_the_fastest_is_taken_and_slower_ones_are_not_measured(
    task: TrainTask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, REPVIT, "resnet18", "squeezenet1_1", "efficientnet_b0")
    measured: list[str] = []
    monkeypatch.setattr(choice, "pass_seconds", lambda network, *_: measured.append(network.backbone.name) or 9.0)
    assert chosen(_with_allowance(task, 1.0)) == ("squeezenet1_1",)
    assert measured == [REPVIT, "efficientnet_b0", "squeezenet1_1"]


def test_the_speed_is_measured_on_the_dataset_s_images(tmp_path: Path, task: TrainTask) -> None:
    images = open_images(write_snapshot(tmp_path / "with broken ones", 10, broken=3), "datasets/d")
    network = build("mobilenet_v3_small", 1, seed=0)
    assert choice.pass_seconds(network, BACKBONES["mobilenet_v3_small"].rule, images, task) > 0
    assert images.unreadable


def test_with_time_to_spare_nothing_is_measured(task: TrainTask, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "squeezenet1_1")
    monkeypatch.setattr(choice, "pass_seconds", lambda *_: pytest.fail("measured"))
    assert chosen(task) == ("squeezenet1_1",)


def test_small_weights_for_a_larger_device_are_downloaded_and_large_ones_are_not(
    task: TrainTask, folder: Path, on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, "mobilenet_v2")
    asked = reachable(monkeypatch, LARGER)
    online = _with(task, download_weights=True)
    assert chosen(online) == ("mobilenet_v2",)
    assert asked == []
    on(DeviceClass.GPU_80)
    assert chosen(online) == (LARGER,)
    assert [LARGER in url for url in asked] == [True]
    used = CardBackbone(LARGER, BACKBONES[LARGER].rule, WeightsSource.TIMM)
    assert within_reach(online, (used,)) == (LARGER, DINO, MOBILE_V4, "mobilenet_v2")


def test_without_any_weights_the_sites_are_asked_once_and_the_start_is_random(
    task: TrainTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = reachable(monkeypatch)
    assert chosen(_with(task, download_weights=True)) == ("resnet18",)
    assert len(asked) == 2  # timm's hub and torchvision's site


def test_a_transformer_sees_multiples_of_its_patch(task: TrainTask, folder: Path) -> None:
    put(folder, DINO)
    images = open_images(Path(task.directory), task.dataset)
    for resolution, side in ((0, 224), (100, 98), (5, 14)):
        recipe = linear_recipe(
            pretrained=True, backbones=(DINO,), resolution=resolution, framings=(Framing.STRETCH, Framing.CROP)
        )
        sizes = [backbone.rule.size for backbone in load_backbones(_with(task, recipe=recipe), images)]
        assert sizes == [side, side]


def test_a_pack_s_colours_reach_the_card(task: TrainTask, folder: Path) -> None:
    path = write_weights(folder / SQUEEZENET.file_name, 0.01)
    add_description(path, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), input_size=112)
    images = open_images(Path(task.directory), task.dataset)
    (backbone,) = load_backbones(task, images)
    assert (backbone.card().rule.mean, backbone.card().rule.size) == ((0.5, 0.5, 0.5), 128)


def test_a_changed_pack_fails_the_training_by_the_file_s_name(task: TrainTask, folder: Path) -> None:
    path = write_weights(folder / SQUEEZENET.file_name, 0.01)
    add_description(path, sha256="0" * 64)
    with pytest.raises(InvalidRequest, match=r"squeezenet1_1\.safetensors is damaged or was replaced"):
        chosen(task)


@pytest.mark.parametrize(
    ("threads", "expected"), [(1, DeviceClass.CORES_2), (7, DeviceClass.CORES_2), (8, DeviceClass.CORES_8)]
)
def test_cores_make_the_class_of_a_cpu(threads: int, expected: DeviceClass, task: TrainTask) -> None:
    assert choice.device_class(_with(task, threads=threads)) is expected


@pytest.mark.parametrize(("gigabytes", "expected"), [(16, DeviceClass.GPU_16), (80, DeviceClass.GPU_80)])
def test_memory_makes_the_class_of_a_gpu(
    gigabytes: int, expected: DeviceClass, task: TrainTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Properties:
        total_memory = gigabytes * 10**9

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    assert choice.device_class(_with(task, device="cuda")) is expected


def _with_allowance(task: TrainTask, seconds: float) -> TrainTask:
    return _with(task, allowance=timedelta(seconds=seconds))


def _with(task: TrainTask, **changes: Any) -> TrainTask:
    return msgspec.structs.replace(task, **changes)
