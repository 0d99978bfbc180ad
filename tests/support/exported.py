"""Models to export, and exported ones that run with nothing but what their archives ask for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from services.vision.backbones import build, load_weights
from services.vision.card import CardBackbone, ModelCard
from services.vision.catalogue import BACKBONES, DETECTORS
from services.vision.classifier import Classifier, ClassifierNetwork
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector, load_detector_weights
from tests.support.detectors import detector
from tests.support.environments import distributions
from tests.support.hostile_images import encoded

NETWORKS = ("mobilenet_v2", "squeezenet1_1", "yolox_nano")  # of the models below


def combination(card: ModelCard) -> Classifier:
    """Two networks, one of which sees the image in two ways and is read at two stages; no output is nearly 0."""
    first, second = (build(name, 1, seed=0) for name in NETWORKS[:2])
    random = torch.Generator().manual_seed(1)
    for network in (first, second):
        for key, tensor in network.state_dict().items():
            if key.endswith((".running_var", ".running_mean")):
                tensor.copy_(0.1 + 0.2 * torch.rand(tensor.shape, generator=random))
    cropped = replace(card.backbones[0], name=NETWORKS[0], rule=BACKBONES[NETWORKS[0]].rule.resized(64))
    small = replace(cropped, name=NETWORKS[1], rule=BACKBONES[NETWORKS[1]].rule.resized(96))
    whole = replace(cropped, rule=replace(cropped.rule, fit="stretch"), shares=0, normalised=True, middle=True)
    made = replace(card, backbones=(cropped, small, whole), temperature=1.7)
    width = 2 * first.backbone.feature_dim + second.backbone.feature_dim + first.backbone.middle_dim
    head = _head(width, len(card.categories), 1 / width**0.5)
    return Classifier(made, ClassifierNetwork(made.backbones, [first, second, first], head))


def pretrained_classifier(card: ModelCard, weights: Path) -> Classifier:
    """One network with published weights, and a random head."""
    network = build(NETWORKS[0], 1, seed=0)
    load_weights(network, load_file(weights / "mobilenet_v2.safetensors"))
    backbone: CardBackbone = replace(card.backbones[0], name=NETWORKS[0], rule=BACKBONES[NETWORKS[0]].rule)
    made = replace(card, backbones=(backbone,), temperature=0.7)
    head = _head(network.backbone.feature_dim, len(card.categories), 1 / 8)
    return Classifier(made, ClassifierNetwork(made.backbones, [network], head))


def _head(width: int, categories: int, scale: float) -> nn.Linear:
    head = nn.Linear(width, categories)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1)) * scale)
        head.bias.zero_()
    return head


def pretrained_detector(weights: Path) -> Detector:
    """YOLOX's published network, which finds COCO's objects."""
    network = build_detector("yolox_nano", 80)
    load_detector_weights(network, load_file(weights / "yolox_nano.safetensors"), keep_head=True)
    made = detector("yolox_nano", 80, DETECTORS["yolox_nano"].rule.size, network)
    made.card = replace(made.card, suppression=DETECTORS["yolox_nano"].suppression, thresholds=(0.05,) * 80)
    return made


def pictures(photo: Path) -> dict[str, bytes]:
    """A photo in several formats and orientations, by file name."""
    with Image.open(photo) as opened:
        rgb = opened.convert("RGB")
    made = {photo.name: photo.read_bytes()}
    small = rgb.resize((rgb.width // 2, rgb.height // 2))
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        made[f"turned-{orientation}.jpg"] = encoded(small, "JPEG", exif=exif, quality=95)
    for form in ("PNG", "WEBP", "TIFF", "BMP", "GIF"):
        made[f"photo.{form.lower()}"] = encoded(small, form)
    half = small.convert("RGBA")
    half.putalpha(Image.linear_gradient("L").resize(half.size))
    made["transparent.png"] = encoded(half, "PNG")
    made["grey.jpg"] = encoded(small.convert("L"), "JPEG")
    made["inks.jpg"] = encoded(small.convert("CMYK"), "JPEG")
    deep = (np.asarray(small.convert("L"), np.uint16) << 4) + 3
    made["deep.png"] = encoded(Image.fromarray(deep), "PNG")  # 12 bits in 16
    made["cut-off.jpg"] = photo.read_bytes()[: photo.stat().st_size * 95 // 100]
    made["tall.png"] = encoded(small.resize((50, 400)), "PNG")
    return made


class Archive:
    """An extracted archive, and the packages that it asks for."""

    def __init__(self, data: bytes | Path, folder: Path) -> None:
        with zipfile.ZipFile(BytesIO(data) if isinstance(data, bytes) else data) as opened:
            self.infos = opened.infolist()
            opened.extractall(folder / "archive")
        self.folder, self._packages = folder / "archive", folder / "packages"
        self._packages.mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        for line in (self.folder / "requirements.txt").read_text().splitlines():
            for name in distributions(line.partition("==")[0]):
                self._link(name)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs the script; nothing can be imported but the standard library and what the archive asks for."""
        return self._python("predict.py", *words)

    def answers(self, images: Sequence[Path]) -> list[dict[str, Any]]:
        """The script's answers."""
        done = self.run(*map(str, images))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def can_import(self, name: str) -> bool:
        """Whether the script could import it."""
        return self._python("-c", f"import {name}").returncode == 0

    def _python(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(self._packages), "PATH": os.environ["PATH"], "HOME": str(self.home)}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        command = [sys.executable, "-S", *words]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=100
        )

    def _link(self, name: str) -> None:
        try:
            one = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # only for another platform
            return
        for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            link = self._packages / top
            if not link.exists():
                link.symlink_to(Path(str(one.locate_file(top))))
