"""Weight packs: `NAME.safetensors` and, beside it, `NAME.json`, which says what the weights are. No torch.

A file without a description is trusted as it is: it has no digest to check.
"""

import urllib.request
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from services.kit import codec
from services.vision.card import IMAGENET_MEAN, IMAGENET_STD, InputRule
from services.vision.catalogue import BACKBONES, Entry, Package

TIMEOUT_SECONDS = 5.0  # to connect, and between two reads
WEIGHTS_SUFFIX, DESCRIPTION_SUFFIX = ".safetensors", ".json"
ALLOWED_LICENCES = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause")

TEXT_PREFIX = "text."  # of the tensors of a text tower
PROMPTS = ("a photo of a {}.", "a photo of the {}.", "a close-up photo of a {}.", "an image of {}.")

_encoder = msgspec.json.Encoder(order="deterministic")


class PackUnusable(ValueError):
    """A file of weights must not or cannot be used; the message names the file and says what to do."""


class TextSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The text tower of a contrastive network; its tensors and its tokenizer are in the file of weights."""

    context_length: int  # tokens, the first and last included
    vocabulary: int  # tokens
    width: int
    heads: int
    layers: int
    embedding: int  # numbers in what both towers map to
    quick_gelu: bool = False
    logit_scale: float  # cosines times this are logits
    prompts: tuple[str, ...] = PROMPTS  # a category's text is the mean of these


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """What a file of pretrained weights is, and how they expect their input."""

    id: str  # timm's or torchvision's, with or without timm's tag
    licence: str  # SPDX identifier, of the weights
    sha256: str = ""  # of the safetensors file
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    pooling: str = "avg"  # timm's name of how features become a vector; empty for a detector
    input_size: int
    source: str = ""  # for people: a URL, a package, a file
    text: TextSpec | None = None  # of a contrastive network that came with its text tower

    def adapted(self, rule: InputRule) -> InputRule:
        """A classifier's rule with the pack's colours and size."""
        return replace(rule.resized(self.input_size), mean=self.mean, std=self.std)


def description_of(weights: Path) -> Path:
    """Where the description of a file of weights is, if it has one."""
    return weights.with_suffix(DESCRIPTION_SUFFIX)


def write_pack(pack: Pack) -> bytes:
    """The description as JSON."""
    return msgspec.json.format(_encoder.encode(pack), indent=2) + b"\n"


def read_pack(weights: Path) -> Pack | None:
    """The description of a file of weights; None if it has none. PackUnusable if it cannot be read."""
    path = description_of(weights)
    try:
        return codec.parse(path.read_bytes(), Pack)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as fault:
        raise PackUnusable(
            f"{path} does not describe weights: {fault}. Make the pack again with `sightline weights add`."
        ) from fault


def require_allowed(licence: str, path: Path | str) -> None:
    """PackUnusable unless the licence permits any use."""
    if licence not in ALLOWED_LICENCES:
        raise PackUnusable(
            f"{path}: the licence of the weights is {licence or 'not stated'}, and only {', '.join(ALLOWED_LICENCES)}"
            " are accepted. Use another network."
        )


def require_fit(pack: Pack, path: Path, sha256: str, wanted: Entry) -> None:
    """PackUnusable if the licence is not allowed, the digest differs, or the pack is of another network."""
    require_allowed(pack.licence, path)
    if pack.sha256 != sha256:
        raise PackUnusable(
            f"{path} is damaged or was replaced: its SHA-256 is {sha256}, and {description_of(path).name} says"
            f" {pack.sha256}. Fetch the pack again."
        )
    rule = wanted.rule
    if pack.id.partition(".")[0] != wanted.name.partition(".")[0]:
        raise PackUnusable(f"{path} has weights of {pack.id}, not of {wanted.name}: name it after its network.")
    backbone = BACKBONES.get(wanted.name)
    if backbone is None and (pack.mean, pack.std) != (rule.mean, rule.std):
        raise PackUnusable(f"{path}: {wanted.name} takes mean {rule.mean} and std {rule.std}, not those of the pack.")
    if backbone is not None and pack.pooling != backbone.pooling:
        raise PackUnusable(f"{path}: {wanted.name} pools its features by {backbone.pooling!r}, not {pack.pooling!r}.")


def described(wanted: Entry, source: str) -> Pack:
    """The description of weights that agree with the catalogue, still without a digest."""
    backbone = BACKBONES.get(wanted.name)
    return Pack(
        id=wanted.name,
        licence=wanted.licence,
        mean=wanted.rule.mean,
        std=wanted.rule.std,
        pooling=backbone.pooling if backbone else "",
        input_size=wanted.rule.size,
        source=source,
    )


def installed(package: Package) -> Path | None:
    """The package's file, if it is installed."""
    try:
        path = Path(str(metadata.distribution(package.distribution).locate_file(package.file)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def open_url(url: str) -> AbstractContextManager[BinaryIO]:
    """The body of a response."""
    response = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)  # noqa: S310 - only URLs from our catalogue
    return cast(AbstractContextManager[BinaryIO], response)
