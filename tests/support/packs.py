"""Small files of weights: of SqueezeNet, whose tensors all have one value, and a Python package that brings some."""

import hashlib
from pathlib import Path

import msgspec
import safetensors.torch
import torch
import torchvision

from services.vision.catalogue import BACKBONES, Package
from services.vision.packs import Pack, described, description_of, write_pack

SQUEEZENET = BACKBONES["squeezenet1_1"]


def tensors(value: float) -> dict[str, torch.Tensor]:
    """A state of SqueezeNet's shapes."""
    return {key: torch.full_like(t, value) for key, t in torchvision.models.squeezenet1_1().state_dict().items()}


def write_weights(path: Path, value: float) -> Path:
    """Plain safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors(value), path)
    return path


def add_description(path: Path, **changes: object) -> Pack:
    """Makes a file of weights a pack; `changes` override what the catalogue says."""
    pack = described(SQUEEZENET, "a test")
    pack = msgspec.structs.replace(pack, **{"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **changes})
    description_of(path).write_bytes(write_pack(pack))
    return pack


def install(site: Path, content: bytes, distribution: str = "tiny-weights") -> Package:
    """Installs a package with a file of weights into a folder that is on `sys.path`."""
    info = site / f"{distribution.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1.0\n")
    (site / "tiny").mkdir()
    (site / "tiny" / "model.pth").write_bytes(content)
    return Package(distribution, "tiny/model.pth", hashlib.sha256(content).hexdigest())
