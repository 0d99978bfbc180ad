"""The catalogue of networks against what is published about them, and against the docs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from services.vision.backbones import build
from services.vision.card import InputRule, ModelKind, WeightsSource
from services.vision.catalogue import (
    BACKBONES,
    DETECTORS,
    FIRST_BACKBONE,
    NETWORKS,
    RANDOM_START,
    Download,
    Family,
    Library,
    preferred,
)
from services.vision.detector_builder import build_detector
from services.vision.packs import ALLOWED_LICENCES
from services.vision.timm_networks import DeviceClass, Pretraining

NAMES = sorted(BACKBONES)
SMALLER = (  # than the images that the weights were trained on
    "mobilenetv4_conv_medium.e250_r384_in12k_ft_in1k",
    "vit_small_patch14_reg4_dinov2.lvd142m",
    "vit_base_patch14_reg4_dinov2.lvd142m",
)
DOCS = Path(__file__).parents[3] / "docs"


def published(model: str, download: Download) -> Any:
    """Torchvision's own entry for these weights."""
    (weights,) = (entry for entry in torchvision.models.get_model_weights(model) if entry.url == download.url)
    assert download.source is WeightsSource.TORCHVISION
    assert len(download.digest) == 8
    return weights


def rows(title: str) -> list[list[str]]:
    """The rows of the table under a heading of the docs."""
    text = DOCS.joinpath("networks.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_it_imports_no_torch() -> None:
    code = "import sys, services.vision.catalogue; print({'torch', 'torchvision', 'numpy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_the_docs_list_every_network_in_the_order_of_the_catalogue() -> None:
    assert rows("Classifiers") == [
        [
            f"`{name}`",
            str(row.feature_dim),
            f"{row.gflops:g}",
            f"{row.parameters:g}",
            row.device,
            row.pretraining,
            row.licence,
        ]
        for name, row in BACKBONES.items()
    ]
    assert [row[:6] + row[7:] for row in rows("Detectors")] == [
        [
            f"`{name}`",
            row.family,
            str(row.rule.size),
            f"{row.gflops:g}",
            f"{row.parameters:g}",
            f"{row.coco_ap:g}",
            row.licence,
        ]
        for name, row in DETECTORS.items()
    ]
    text = DOCS.joinpath("networks.md").read_text()
    assert all(f"| `{name}` | `{row.hub}` |" in text for name, row in DETECTORS.items() if row.hub)


def test_every_kind_has_networks_each_with_a_cost() -> None:
    assert set(NETWORKS) == set(ModelKind)
    assert RANDOM_START in BACKBONES
    assert BACKBONES[FIRST_BACKBONE].worth_download
    for networks in NETWORKS.values():
        assert networks
        assert all(row.name == name and row.seconds > 0 for name, row in networks.items())


@pytest.mark.parametrize("name", [name for name, row in BACKBONES.items() if row.library is Library.TORCHVISION])
def test_a_backbone_s_row_agrees_with_torchvision_s_weights(name: str) -> None:
    backbone, download = BACKBONES[name], BACKBONES[name].download
    if download is None:
        assert name == "mobilenet_v2_keras"
        return
    weights = published(backbone.architecture, download)
    transform, rule = weights.transforms(), backbone.rule
    assert (rule.size, rule.resize) == (transform.crop_size[0], transform.resize_size[0])
    assert (list(rule.mean), list(rule.std)) == (transform.mean, transform.std)
    assert rule.interpolation == transform.interpolation.value
    assert backbone.gflops == weights.meta["_ops"]


@pytest.mark.parametrize("name", [name for name in NAMES if BACKBONES[name].whole])
def test_a_backbone_s_row_agrees_with_timm_s_configuration(name: str) -> None:
    """Its size may be smaller than the weights' own where that would cost too much."""
    backbone, config = BACKBONES[name], timm.get_pretrained_cfg(name, allow_unregistered=False)
    assert config is not None
    rule, size = backbone.rule, backbone.rule.size
    assert (rule.mean, rule.std, rule.interpolation) == (config.mean, config.std, config.interpolation)
    assert (config.license or "").lower() == backbone.licence.lower()
    assert rule.resize == int(size / config.crop_pct)
    assert size == config.input_size[1] or (name in SMALLER and size < config.input_size[1])
    assert size % backbone.patch == 0
    assert backbone.download is not None
    assert f"/{config.hf_hub_id}/" in backbone.download.url


@pytest.mark.parametrize("name", NAMES)
def test_size_features_and_cost_are_those_of_the_network(name: str) -> None:
    backbone = BACKBONES[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build(name, 1).eval()
        features = network.embed(torch.empty(1, 3, backbone.rule.size, backbone.rule.size))
    assert features.shape == (1, backbone.feature_dim)
    parameters = sum(value.numel() for key, value in network.named_parameters() if not key.startswith("head."))
    assert backbone.parameters == pytest.approx(parameters / 1e6, abs=0.01)
    if backbone.whole:  # of the others a test above compares what torchvision says
        assert backbone.gflops == pytest.approx(counter.get_total_flops() / 2e9, abs=0.01)
        model: Any = network.features[0]
        assert backbone.pooling == (model.global_pool if backbone.patch > 1 else "avg")


def test_every_licence_permits_any_use() -> None:
    assert {row.licence for networks in NETWORKS.values() for row in networks.values()} <= set(ALLOWED_LICENCES)


def test_a_device_prefers_its_own_class_and_never_gets_a_larger_one() -> None:
    for device in DeviceClass:
        names = preferred(device)
        ranks = [BACKBONES[name].device.rank for name in names]
        assert ranks == sorted(ranks, reverse=True)
        assert ranks[0] == device.rank
        assert len(names) == sum(row.device.rank <= device.rank for row in BACKBONES.values())
    own = [row for row in BACKBONES.values() if row.device in (DeviceClass.GPU_16, DeviceClass.GPU_80)]
    assert {row.pretraining for row in own} == set(Pretraining)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_rules_pad_to_strides_and_match_how_the_weights_were_trained(name: str) -> None:
    spec = DETECTORS[name]
    assert (spec.rule.fit, spec.rule.size % 32, spec.file_name) == ("letterbox", 0, f"{name}.safetensors")
    assert spec.gflops > 0
    download = spec.download
    if download is None:
        assert spec.transformer, "its weights are put into the folder"
        assert spec.hub.count("/") == 1
        return
    assert download.url.startswith("https://")
    if spec.family is not Family.YOLOX:
        transform: Any = torchvision.models.get_model(name, weights=None, weights_backbone=None).transform
        assert (list(spec.rule.mean), list(spec.rule.std)) == (transform.image_mean, transform.image_std)
        weights = published(name, download)
        assert weights.name == "COCO_V1"
        assert spec.coco_ap == weights.meta["_metrics"]["COCO-val2017"]["box_map"]
    else:
        assert (spec.rule.channel_order, spec.rule.scale, download.source) == ("BGR", 1, WeightsSource.YOLOX)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_detector_has_the_parameters_that_the_catalogue_names(name: str) -> None:
    with torch.device("meta"):
        network = build_detector(name, 91 if DETECTORS[name].family is Family.RF_DETR else 80)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(DETECTORS[name].parameters, rel=0.05)


def test_rules_are_hashable_data() -> None:
    assert len({BACKBONES[name].rule for name in NAMES}) < len(NAMES)
    assert isinstance(BACKBONES["resnet18"].rule, InputRule)
