"""timm's networks in the catalogue, by the smallest class of device that they suit, the preferred ones first.

Of each class one is supervised, one contrastive and one self-supervised where such networks are published under a
licence that permits any use: they err on different images. Contrastive ones with their text tower come before those
without, because heads on them can start from the names of the categories.
"""

from enum import StrEnum
from typing import NamedTuple

Colour = tuple[float, float, float]

MANY_CORES = 8
LARGE_GPU_BYTES = 40 * 2**30


class DeviceClass(StrEnum):
    """What a worker computes on, from the smallest to the largest."""

    CORES_2 = "2 cores"
    CORES_8 = "8 cores"
    GPU_16 = "16-GB GPU"
    GPU_80 = "80-GB GPU"

    @classmethod
    def of(cls, device: str, cores: int, memory_bytes: int) -> "DeviceClass":
        """The class of a CPU with so many cores, or of a GPU with so much memory."""
        if device == "cpu":
            return cls.CORES_8 if cores >= MANY_CORES else cls.CORES_2
        return cls.GPU_80 if memory_bytes >= LARGE_GPU_BYTES else cls.GPU_16

    @property
    def rank(self) -> int:
        """0 for the smallest."""
        return list(DeviceClass).index(self)


class Pretraining(StrEnum):
    """What a network learned from before."""

    SUPERVISED = "supervised"
    CONTRASTIVE = "contrastive"  # images and their captions
    SELF_SUPERVISED = "self-supervised"


class TimmNetwork(NamedTuple):
    """A network by its id in timm, tag included. Colours, interpolation and crop are those of timm's configuration."""

    id: str
    device: DeviceClass
    pretraining: Pretraining
    parameters: float  # millions, without the classifier
    gflops: float  # 1e9 multiply-adds at `size`
    seconds: float  # of the reference device, for one image at `size`
    size: int
    crop: float  # share of the shorter side that the centre crop keeps
    feature_dim: int
    pooling: str = "avg"
    patch: int = 1  # sides of the input are multiples of it
    mean: Colour = (0.485, 0.456, 0.406)
    std: Colour = (0.229, 0.224, 0.225)
    licence: str = "Apache-2.0"
    worth_download: bool = False  # small enough that a training may fetch it
    towers: str = ""  # a repository on the Hugging Face hub with open_clip's checkpoint of both towers


_HALF: Colour = (0.5, 0.5, 0.5)
_CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)
_2, _8, _16, _80 = DeviceClass
_SUPERVISED, _CONTRASTIVE, _SELF = Pretraining

# fmt: off
SMALL = (
    TimmNetwork("mobilenetv4_conv_medium.e250_r384_in12k_ft_in1k", _2, _SUPERVISED, 8.43, 0.83, 0.028, 224, 0.95, 1280,
                worth_download=True),
    TimmNetwork("vit_medium_patch32_clip_224.tinyclip_laion400m", _2, _CONTRASTIVE, 39.43, 2.00, 0.040, 224, 0.9, 512,
                pooling="token", patch=32, mean=_CLIP_MEAN, std=_CLIP_STD, licence="MIT",
                towers="timm/vit_medium_patch32_clip_224.tinyclip_laion400m"),
    TimmNetwork("tiny_vit_5m_224.dist_in22k_ft_in1k", _2, _SUPERVISED, 5.07, 1.25, 0.048, 224, 0.95, 320),
    TimmNetwork("repvit_m1_0.dist_450e_in1k", _2, _SUPERVISED, 6.40, 1.11, 0.038, 224, 0.95, 448),
)
LARGE = (
    TimmNetwork("tiny_vit_21m_224.dist_in22k_ft_in1k", _8, _SUPERVISED, 20.62, 4.25, 0.10, 224, 0.95, 576,
                worth_download=True),
    TimmNetwork("vit_base_patch32_clip_224.datacompxl", _8, _CONTRASTIVE, 87.46, 4.41, 0.085, 224, 1.0, 768,
                pooling="token", patch=32, mean=_CLIP_MEAN, std=_CLIP_STD,
                towers="laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K"),
    TimmNetwork("vit_small_patch14_reg4_dinov2.lvd142m", _8, _SELF, 22.06, 6.23, 0.12, 224, 1.0, 384,
                pooling="token", patch=14, worth_download=True),
    TimmNetwork("vit_base_patch32_siglip_256.v2_webli", _8, _CONTRASTIVE, 94.55, 5.74, 0.11, 256, 0.9, 768,
                pooling="map", patch=32, mean=_HALF, std=_HALF),
    TimmNetwork("convnext_tiny.in12k_ft_in1k", _8, _SUPERVISED, 27.82, 4.45, 0.085, 224, 0.95, 768),
    TimmNetwork("convnext_base.clip_laion2b_augreg_ft_in12k_in1k", _16, _CONTRASTIVE, 87.57, 20.05, 0.36, 256, 1.0,
                1024, mean=_CLIP_MEAN, std=_CLIP_STD),
    TimmNetwork("vit_base_patch16_clip_224.datacompxl", _16, _CONTRASTIVE, 85.80, 17.56, 0.32, 224, 1.0, 768,
                pooling="token", patch=16, mean=_CLIP_MEAN, std=_CLIP_STD,
                towers="laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K"),
    TimmNetwork("vit_base_patch14_reg4_dinov2.lvd142m", _16, _SELF, 86.58, 23.54, 0.42, 224, 1.0, 768,
                pooling="token", patch=14),
    TimmNetwork("vit_base_patch16_siglip_256.v2_webli", _16, _CONTRASTIVE, 92.93, 23.41, 0.42, 256, 0.9, 768,
                pooling="map", patch=16, mean=_HALF, std=_HALF),
    TimmNetwork("eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", _80, _SUPERVISED, 304.06, 361.75, 6.6, 448, 1.0,
                1024, patch=14, mean=_CLIP_MEAN, std=_CLIP_STD, licence="MIT"),
    TimmNetwork("vit_large_patch14_clip_224.datacompxl", _80, _CONTRASTIVE, 303.18, 81.01, 1.45, 224, 1.0, 1024,
                pooling="token", patch=14, mean=_CLIP_MEAN, std=_CLIP_STD,
                towers="laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"),
    TimmNetwork("vit_so400m_patch14_siglip_378.v2_webli", _80, _CONTRASTIVE, 428.23, 335.17, 6.1, 378, 0.9, 1152,
                pooling="map", patch=14, mean=_HALF, std=_HALF),
    TimmNetwork("vit_large_patch14_reg4_dinov2.lvd142m", _80, _SELF, 304.37, 508.55, 9.2, 518, 1.0, 1024,
                pooling="token", patch=14),
)
# fmt: on
