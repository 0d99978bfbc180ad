"""What a child does before its task arrives."""

import gc

import torch

from services.vision.backbones import build
from services.vision.detector_builder import build_detector
from services.vision.device import Device, choose


def warm_up(wanted: str = "auto") -> Device:
    """Pays the cost of torch's first use, once; returns the device, or raises DeviceUnusable."""
    device = choose(wanted)
    torch.set_num_threads(1)
    network = build("mobilenet_v2", 2, seed=0).eval()
    with torch.inference_mode():
        network(torch.zeros(2, 3, 64, 64).contiguous(memory_format=torch.channels_last))
        build_detector("yolox_nano", 2, seed=0).eval().candidates(torch.zeros(1, 3, 64, 64))
    gc.collect()
    gc.freeze()  # what is imported by now stays; collections need not scan it again
    return device
