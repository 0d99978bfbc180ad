"""Blocks of features, which training children compute and workers share: their names, their files, their use.

A block is what one frozen network computes from consecutive images of a snapshot, in one framing and one view. Its name
begins with words of the recipe, by which a worker without torch finds what a trial reads, and ends with a digest of
everything that the numbers depend on, so that a block never changes. Its file begins with a digest of the rest.
"""

import hashlib
import os
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import NamedTuple

import msgspec

from services.kit import codec
from services.trainer.recipe import Framing, Recipe, is_linear
from services.vision.card import ModelKind

IMAGES = 2048  # of a block, at most
EXTRACTION = 3  # increase it if the same weights and images would give other features than before
_DIGEST_BYTES = hashlib.sha256().digest_size


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Features of consecutive images: float32, little-endian, [images, width]; NaN for an unreadable image."""

    name: str
    images: int
    width: int
    seconds: float  # that computing it took
    values: bytes


class FeaturePass(NamedTuple):
    """A frozen network's pass over all images, in one framing and view; with its features, it need not be repeated."""

    network: str
    framing: Framing
    resolution: int  # as in the recipe
    view: int


class FeatureUse(msgspec.Struct, frozen=True, kw_only=True):
    """The blocks that a trial read."""

    reused: int  # computed by an earlier trial
    computed: int
    saved: timedelta  # that computing the reused ones took
    by_graph: bool = False  # in ONNX Runtime, which takes less time than torch; False of earlier versions


def kind(device: str, framing: str, resolution: int, view: int) -> str:
    """What all blocks of a recipe with the same framing and view have in common; their names begin with it."""
    return f"{device}/{framing}-{resolution or 'default'}/view-{view}/"


def kinds_of(recipe: Recipe, device: str) -> tuple[str, ...]:
    """The kinds that a recipe reads."""
    starts_from_head = recipe.linear_head and recipe.pretrained
    if recipe.kind is not ModelKind.GENERIC_CLASSIFIER or not (is_linear(recipe) or starts_from_head):
        return ()
    inputs = product(recipe.framings, range(recipe.views))
    return tuple(kind(device, framing, recipe.resolution, view) for framing, view in inputs)


def passes_of(recipe: Recipe) -> frozenset[FeaturePass]:
    """The passes whose features a linear head on pretrained networks reads."""
    if not (is_linear(recipe) and recipe.pretrained):
        return frozenset()
    inputs = product(recipe.backbones, recipe.framings, (recipe.resolution,), range(recipe.views))
    return frozenset(FeaturePass(*each) for each in inputs)


def name_of(kind: str, network: str, digest: str, start: int) -> str:
    """The name of the block of images from `start`; the digest is of everything that its numbers depend on."""
    return f"{kind}{network}/{digest}-{start}"


def rows_of_blocks(image_count: int) -> list[range]:
    """The images of each block."""
    return [range(start, min(image_count, start + IMAGES)) for start in range(0, image_count, IMAGES)]


def network_of(name: str) -> str:
    """The network that computed a block."""
    return name.split("/")[-2]


def folder_of(cache: Path, snapshot_digest: str) -> Path:
    """Where the blocks of a snapshot are on a worker's disk, by name; they may vanish, and appear, at any time."""
    return cache / "features" / snapshot_digest.replace(":", "-")


def encode(block: Block) -> bytes:
    """The file of a block."""
    content = msgspec.msgpack.encode(block)
    return hashlib.sha256(content).digest() + content


def decode(data: bytes, name: str) -> Block:
    """The block in a file; ValueError if the file is damaged, or is another block's."""
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its digest is not that of its content")
    block = codec.unpack(content, Block)
    if block.name != name or len(block.values) != 4 * block.images * block.width:
        raise ValueError(f"it is {block.name}, {len(block.values)} bytes of {block.images} x {block.width}")
    return block


def write(path: Path, data: bytes) -> None:
    """Writes a file that appears complete or not at all; OSError."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(data)
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
