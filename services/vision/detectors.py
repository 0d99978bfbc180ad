"""The networks that detectors are built on: one table, and how a network gets its pretrained weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from services.vision.card import InputRule, Suppression
from services.vision.detection import DetectorNetwork
from services.vision.published import Download, WeightsSource, torchvision_download
from services.vision.torchvision_detectors import (
    FasterRcnnDetector,
    FcosDetector,
    Model,
    RetinaNetDetector,
    SsdDetector,
    TorchvisionDetector,
)
from services.vision.yolox import Yolox

_YOLOX_RELEASE = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"
_YOLOX_CLASS_OUTPUTS = ("head.cls_preds.",)


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A network by name: where it comes from, what it wants and what it costs."""

    name: str
    family: str
    make: Callable[[int], DetectorNetwork]  # of so many categories, with random weights
    rule: InputRule
    gflops: float  # multiply-adds of one forward pass over a square of the rule's size, in 1e9
    suppression: Suppression
    coco_ap: float  # of its published weights, as published, in percent
    licence: str  # of the published weights
    published: Callable[[], Download]

    @property
    def file_name(self) -> str:
        """Of its weights, in a folder or in the store."""
        return f"{self.name}.safetensors"

    def download(self) -> Download | None:
        """Where its weights are published."""
        return self.published()


def _letterbox(size: int, mean: float | None = None) -> InputRule:
    """RGB as torchvision normalises it: by ImageNet's mean and deviation, or by one number for both."""
    if mean is None:
        return InputRule(size, size, fit="letterbox")
    return InputRule(size, size, fit="letterbox", mean=(mean, mean, mean), std=(mean, mean, mean))


def _yolox(variant: str, size: int, gflops: float, coco_ap: float) -> DetectorSpec:
    """Pixels as they are, in OpenCV's order of channels; the release says nothing of its files' digests."""
    name = f"yolox_{variant}"
    rule = InputRule(size, size, "letterbox", mean=(0, 0, 0), std=(1, 1, 1), channel_order="BGR", scale=1)
    download = Download(WeightsSource.YOLOX, f"{_YOLOX_RELEASE}/{name}.pth", digest="", entry="model")
    make = partial(Yolox, variant)
    return DetectorSpec(name, "YOLOX", make, rule, gflops, Suppression(0.65), coco_ap, "Apache-2.0", lambda: download)


def _torchvision(
    name: str,
    family: str,
    kind: type[TorchvisionDetector[Model]],
    rule: InputRule,
    gflops: float,
    iou: float,
    coco_ap: float,
) -> DetectorSpec:
    make = partial(kind.built, name)
    published = partial(torchvision_download, name, "COCO_V1")
    return DetectorSpec(name, family, make, rule, gflops, Suppression(iou), coco_ap, "BSD-3-Clause", published)


# Sizes are longer sides: those at which a picture of 4:3 has about the shorter side that torchvision scales it to.
_TABLE = (
    _yolox("nano", 416, 0.523, 25.8),
    _yolox("tiny", 416, 3.21, 32.8),
    _yolox("s", 640, 13.3, 40.5),
    _torchvision(
        "ssdlite320_mobilenet_v3_large",
        "SSDLite",
        SsdDetector,
        _letterbox(320, mean=0.5),
        0.563,
        iou=0.55,
        coco_ap=21.3,
    ),
    _torchvision(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "Faster R-CNN",
        FasterRcnnDetector,
        _letterbox(416),
        3.36,
        iou=0.5,
        coco_ap=22.8,
    ),
    _torchvision("fcos_resnet50_fpn", "FCOS", FcosDetector, _letterbox(1056), 223, iou=0.6, coco_ap=39.2),
    _torchvision(
        "retinanet_resnet50_fpn_v2", "RetinaNet", RetinaNetDetector, _letterbox(1056), 260, iou=0.5, coco_ap=41.5
    ),
    _torchvision(
        "fasterrcnn_resnet50_fpn_v2", "Faster R-CNN", FasterRcnnDetector, _letterbox(1056), 393, iou=0.5, coco_ap=46.7
    ),
)
DETECTORS: Mapping[str, DetectorSpec] = MappingProxyType({spec.name: spec for spec in _TABLE})


def build_detector(name: str, categories: int, *, seed: int | None = None) -> DetectorNetwork:
    """A network with random weights, the same for the same seed; on the device of the context (meta included).

    Raises KeyError for a name that DETECTORS does not have.
    """
    spec = DETECTORS[name]
    if seed is None:
        return _made(spec, categories)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _made(spec, categories)


def load_detector_weights(network: DetectorNetwork, state: Mapping[str, Tensor], *, keep_head: bool = False) -> None:
    """Puts weights in under their published names, all but the outputs that depend on the categories.

    `keep_head` takes those too. Strict: raises RuntimeError for a missing, unknown or misshapen tensor.
    """
    module, outputs = _published(network)
    if keep_head:
        module.load_state_dict(state, strict=True)
        return
    own = {name: tensor for name, tensor in module.state_dict().items() if name.startswith(outputs)}
    missing = own.keys() - state.keys()
    if missing:
        raise RuntimeError(f"not the weights of such a network: {min(missing)} is missing")
    module.load_state_dict({**state, **own}, strict=True)


def _made(spec: DetectorSpec, categories: int) -> DetectorNetwork:
    return spec.make(categories).to(memory_format=torch.channels_last)


def _published(network: DetectorNetwork) -> tuple[nn.Module, tuple[str, ...]]:
    """The module that has the published names, and what those of its outputs by category begin with."""
    if isinstance(network, TorchvisionDetector):
        return network.model, network.class_outputs
    return network, _YOLOX_CLASS_OUTPUTS
