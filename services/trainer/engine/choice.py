"""Which network a first training is built on: the one that suits the device best, has weights, and is fast enough."""

import time
from collections.abc import Iterator

import torch

from services.trainer.engine.data import Images
from services.trainer.messages import TrainTask
from services.vision import preprocess
from services.vision.backbones import Network, embed
from services.vision.card import InputRule
from services.vision.catalogue import BACKBONES, Backbone, preferred
from services.vision.device import memory_bytes
from services.vision.timm_networks import DeviceClass
from services.vision.weights import WeightsResolver

PASS_SHARE = 0.25  # of the allowance that one pass over all images may take: the ladder makes several
SURE = 3.0  # a CPU is at most this much slower than the reference device
MEASURED_IMAGES = 16


def device_class(task: TrainTask) -> DeviceClass:
    """What the task runs on."""
    return DeviceClass.of(task.device, task.threads, memory_bytes(task.device))


def candidates(device: DeviceClass, found: WeightsResolver) -> Iterator[str]:
    """The networks that suit the device and may have weights, the preferred ones first.

    Weights on this machine come before those to download, unless these are for a larger class of device.
    """
    names = preferred(device)
    here = [name for name in names if found.available(BACKBONES[name])]
    rank = BACKBONES[here[0]].device.rank if here else -1
    for name in names:
        row = BACKBONES[name]
        if name in here or (row.worth_download and row.device.rank > rank):
            yield name


def surely_fast(backbone: Backbone, rule: InputRule, count: int, task: TrainTask) -> bool:
    """Whether the catalogue's cost alone shows that a pass over the images takes no more than its share."""
    seconds = backbone.seconds * (rule.size / backbone.rule.size) ** 2
    return SURE * count * seconds <= PASS_SHARE * task.allowance.total_seconds()


def pass_seconds(network: Network, rule: InputRule, images: Images, task: TrainTask) -> float:
    """How long this device takes for all images, measured on a few of them: decoding, preparing, embedding."""
    network.to(task.device)
    count = len(images.samples)
    rows = [index * count // MEASURED_IMAGES for index in range(min(MEASURED_IMAGES, count))]
    _embed(network, rule, images, rows[:2], task)  # the first pass of a network takes longer
    began = time.monotonic()
    measured = _embed(network, rule, images, rows, task)
    return (time.monotonic() - began) * count / max(1, measured)


def _embed(network: Network, rule: InputRule, images: Images, rows: list[int], task: TrainTask) -> int:
    """How many images were readable."""
    pixels = [image for row in rows if (image := images.pixels(row, rule.at_least)) is not None]
    if pixels:
        batch = torch.stack([preprocess.apply(image, rule) for image in pixels]).to(task.device)
        embed(network, batch).cpu()  # waits for the device
    return len(pixels)
