"""How fast this machine's device is beside the reference device: `sightline calibrate` runs it.

The reference device is defined by its time for the reference work: decoding and preprocessing photos, and a forward
pass of `mobilenet_v2` over each, at its default size and with as many threads as a worker uses. On the reference device
an image takes what the catalogue says.
"""

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from services.kit.settings import load
from services.trainer.engine.classification.fuse import fused
from services.trainer.engine.prefetch import prefetched
from services.trainer.settings import TrainerSettings
from services.vision import preprocess
from services.vision.backbones import build, embed
from services.vision.catalogue import BACKBONES, FIRST_BACKBONE
from services.vision.device import Device, DeviceUnusable, choose
from sightline.plurals import counted

RUNS = 7
IMAGES = 96  # in a run
BATCH_SIZE = 16
PHOTO = (480, 640)  # height and width
GRAIN = 20  # pixels from one random colour to the next
BUSY = 0.1  # spread of the runs, relative to the median, above which the machine was probably busy


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the runs showed; `factors` ascend."""

    device: str
    threads: int
    seconds_per_image: float  # the median run's
    factors: tuple[float, ...]  # seconds of the reference device for one second of this one, of each run

    @property
    def factor(self) -> float:
        """The median."""
        return statistics.median(self.factors)

    @property
    def is_steady(self) -> bool:
        """Whether the runs agree."""
        return self.factors[-1] - self.factors[0] <= BUSY * self.factor


def main() -> None:
    """Prints the factor."""
    parser = argparse.ArgumentParser(prog="sightline calibrate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    settings = load(TrainerSettings)
    try:
        device = choose(settings.device)
    except DeviceUnusable as error:
        raise SystemExit(str(error)) from None
    found = calibrate(device, settings.threads, arguments.runs)
    sys.stdout.write((as_json(found) if arguments.json else as_text(found)) + "\n")


def calibrate(
    device: Device, threads: int, runs: int, images: int = IMAGES, clock: Callable[[], float] = time.perf_counter
) -> Calibration:
    """Does the reference work `runs` times, after a first time that is not counted."""
    torch.set_num_threads(threads)
    backbone = BACKBONES[FIRST_BACKBONE]
    network = fused(build(backbone.name, 2, seed=0)).to(device.kind)
    photos = [photo(number) for number in range(images)]

    def prepared(start: int) -> Tensor:
        return torch.stack([preprocess.load(data, backbone.rule) for data in photos[start : start + BATCH_SIZE]])

    def work() -> float:
        began = clock()
        for inputs in prefetched(prepared, range(0, images, BATCH_SIZE), threads):
            embed(network, inputs.to(device.kind)).float().cpu()
        return (clock() - began) / images

    work()
    seconds = [work() for _ in range(runs)]
    factors = tuple(sorted(backbone.seconds / each for each in seconds))
    return Calibration(device.name, threads, statistics.median(seconds), factors)


def photo(seed: int) -> bytes:
    """A JPEG of soft random colours, about as hard to decode as a photo."""
    height, width = PHOTO
    coarse = np.random.default_rng(seed).integers(0, 256, (height // GRAIN, width // GRAIN, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def as_json(found: Calibration) -> str:
    """One document, with everything that was measured."""
    return json.dumps(asdict(found) | {"factor": found.factor, "is_steady": found.is_steady}, indent=2)


def as_text(found: Calibration) -> str:
    """For people: the setting, and what it means."""
    low, high, factor = found.factors[0], found.factors[-1], found.factor
    reference = BACKBONES[FIRST_BACKBONE].seconds
    lines = [
        f"device          {found.device}, {counted(found.threads, 'thread')}",
        (
            f"reference work  {1000 * found.seconds_per_image:.1f} ms an image; "
            f"the reference device takes {1000 * reference:.1f} ms"
        ),
        f"device factor   {factor:.2f} ({low:.2f} to {high:.2f} in {counted(len(found.factors), 'run')})",
        "",
        f"Set SIGHTLINE_DEVICE_FACTOR={factor:.2f} for the workers on this device. One second of it is then charged as",
        f"{factor:.2f} s, so that a budget buys as much work here as elsewhere: 60 s last {60 / factor:.0f} s.",
    ]
    if not found.is_steady:
        lines.append("The runs differ by more than a tenth: something else was running. Repeat it on an idle machine.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
