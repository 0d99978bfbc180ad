"""Checkpoints of open_clip, which hold a contrastive network's image tower and its text tower."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from services.kit import codec
from services.vision.catalogue import Backbone, Entry
from services.vision.packs import TEXT_PREFIX, TextSpec
from services.vision.text_tower import IMAGE_PROJECTION

CONFIG_FILE, TOKENIZER_FILE = "open_clip_config.json", "tokenizer.json"  # beside the checkpoint
CHECKPOINT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # in a repository on the hub
IMAGE_PREFIX = "visual."
TEXT_PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
PROJECTIONS = ("visual.proj", "visual.head.proj.weight")  # [features, embedding], [embedding, features]
HEAD_WIDTH = 64  # of an attention head, if nothing else is said


@dataclass(frozen=True, slots=True)
class Towers:
    """What a file of weights holds: an image tower and, maybe, a text tower with its tokenizer."""

    image: dict[str, Tensor]
    text: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    tokenizer: str = ""
    spec: TextSpec | None = None


class _TextConfig(msgspec.Struct):
    """What text towers differ in. CLIP's own has all of the defaults but the first three."""

    width: int
    layers: int
    heads: int = 0
    context_length: int = 77
    vocab_size: int = 49408
    mlp_ratio: float = 4.0
    pool_type: str = "argmax"
    proj_type: str = "linear"
    proj_bias: bool = False
    no_causal_mask: bool = False
    embed_cls: bool = False
    final_ln_after_pool: bool = False
    ls_init_value: float | None = None
    hf_model_name: str | None = None

    def peculiarity(self) -> str:
        """What makes it another tower than CLIP's; empty if nothing does."""
        usual = _TextConfig(width=0, layers=0)
        names = self.__struct_fields__[self.__struct_fields__.index("mlp_ratio") :]
        return next(
            (f"{name} {getattr(self, name)!r}" for name in names if getattr(self, name) != getattr(usual, name)), ""
        )


class _ModelConfig(msgspec.Struct):
    text_cfg: dict[str, Any]
    quick_gelu: bool = False


class _Config(msgspec.Struct):
    model_cfg: _ModelConfig


def is_open_clip(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of both towers."""
    return "logit_scale" in state and any(name.startswith(IMAGE_PREFIX) for name in state)


def towers(file: Path, state: Mapping[str, Tensor], wanted: Entry) -> Towers:
    """Both towers of a checkpoint, the image tower by timm's names.

    Its configuration and its tokenizer are in the same folder. ValueError for anything but CLIP's own text tower, or if
    a file is missing.
    """
    if not isinstance(wanted, Backbone) or not wanted.whole:
        raise ValueError(f"a checkpoint of open_clip cannot be weights of {wanted.name}")
    spec = _spec(file, state, wanted)
    projection = _projection(state)
    text = {name.removeprefix(TEXT_PREFIX): tensor for name, tensor in state.items()}
    text = {name: tensor for name, tensor in text.items() if name.startswith(TEXT_PARTS)}
    named = {f"{TEXT_PREFIX}{name}": tensor.float().contiguous() for name, tensor in text.items()}
    named[f"{TEXT_PREFIX}{IMAGE_PROJECTION}"] = projection.float().contiguous()
    return Towers(_image(state, wanted), named, _beside(file, TOKENIZER_FILE).decode(), spec)


def _spec(file: Path, state: Mapping[str, Tensor], wanted: Backbone) -> TextSpec:
    try:
        model = codec.parse(_beside(file, CONFIG_FILE), _Config).model_cfg
        config = msgspec.convert(model.text_cfg, _TextConfig)
    except ValueError as fault:
        raise ValueError(
            f"{CONFIG_FILE} does not describe a text tower of CLIP's: {fault}. {_alone(wanted)}"
        ) from fault
    if other := config.peculiarity() or ("logit_bias" if "logit_bias" in state else ""):
        raise ValueError(f"its text tower is not CLIP's own ({other}), and no other can be read. {_alone(wanted)}")
    if model.quick_gelu != ("quickgelu" in wanted.architecture):
        kind = "QuickGELU" if model.quick_gelu else "GELU"
        raise ValueError(f"it was trained with {kind}, unlike {wanted.name}")
    projection = _projection(state)
    return TextSpec(
        context_length=config.context_length,
        vocabulary=config.vocab_size,
        width=config.width,
        heads=config.heads or config.width // HEAD_WIDTH,
        layers=config.layers,
        embedding=len(projection),
        quick_gelu=model.quick_gelu,
        logit_scale=float(state["logit_scale"].float().exp()),
    )


def _projection(state: Mapping[str, Tensor]) -> Tensor:
    """[embedding, features]"""
    found = next((name for name in PROJECTIONS if name in state), "")
    if not found or "visual.head.proj.bias" in state:
        raise ValueError("its image tower does not end in a linear projection without a bias")
    return state[found] if found == PROJECTIONS[1] else state[found].T


def _image(state: Mapping[str, Tensor], wanted: Backbone) -> dict[str, Tensor]:
    """The image tower by timm's names, as timm itself renames it; its projection is not a part of it."""
    import timm  # noqa: PLC0415 - takes a second, which only what is built on it should wait for

    with torch.device("meta"):
        model: Any = timm.create_model(wanted.architecture, pretrained=False, num_classes=0)
    rename: Any = vars(sys.modules[type(model).__module__])["checkpoint_filter_fn"]
    renamed: dict[str, Tensor] = rename(dict(state), model)
    own = model.state_dict()
    return {name: tensor.float().contiguous() for name, tensor in renamed.items() if name in own or "head." not in name}


def _beside(file: Path, name: str) -> bytes:
    try:
        return file.with_name(name).read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"it is a checkpoint of open_clip, so {name} of the same repository must be beside it, in {file.parent}"
        ) from None


def _alone(wanted: Backbone) -> str:
    return f"Add the image tower alone: `model.safetensors` of timm's repository {wanted.name}."
