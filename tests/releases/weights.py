"""Pretrained weights that compress to almost nothing: each output has few weights, all of one size, of random signs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision.models
from safetensors.torch import save_file

from services.vision.catalogue import BACKBONES, DETECTORS
from services.vision.detector_builder import build_detector

SEED = 48
BACKBONE, DETECTOR = "mobilenet_v2", "yolox_nano"
CONNECTIONS = 2  # of each output


def write(folder: Path) -> None:
    """Writes the files of both networks into the folder, as a worker looks for them."""
    rng = np.random.default_rng(SEED)
    folder.mkdir(parents=True)
    backbone = torchvision.models.mobilenet_v2(weights=None).state_dict()
    detector = build_detector(DETECTOR, 80, seed=SEED).state_dict()
    for entry, state, gain in ((BACKBONES[BACKBONE], backbone, 2.0), (DETECTORS[DETECTOR], detector, 0.5)):
        save_file({name: _thinned(tensor, rng, gain) for name, tensor in state.items()}, folder / entry.file_name)


def _thinned(tensor: torch.Tensor, rng: np.random.Generator, gain: float) -> torch.Tensor:
    """With a gain of 2, ReLU keeps the size of activations; a detector's boxes must not grow at all."""
    if tensor.ndim < 2:
        return tensor.contiguous()
    rows = np.zeros((tensor.shape[0], tensor[0].numel()), np.float32)
    count = min(CONNECTIONS, rows.shape[1])
    for row in rows:
        row[rng.choice(rows.shape[1], count, replace=False)] = rng.choice((-1, 1), count) * (gain / count) ** 0.5
    return torch.from_numpy(rows.reshape(tuple(tensor.shape)))
