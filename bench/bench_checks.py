"""What checking one image costs in CPU, step by step, against Pillow's opening of the same image without decoding it.

`python bench/bench_checks.py [--images N] [--rounds N]`. The images are those of bench_registration.py; steps take
turns, and a ratio is the median of those within a turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from io import BytesIO
from itertools import islice

from PIL import Image

from bench import support
from bench.bench_registration import crops
from services.vision.decode import inspect, read
from services.vision.fingerprint import fingerprint
from services.vision.image_quality import quality_notes
from services.vision.repack import encode_for_pack

OPENING = "Pillow: open"


def main() -> None:
    """Prints microseconds for each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    images = list(islice(crops(), given.images))
    pixels = [read(data).pixels for data in images]
    headers = [inspect(data) for data in images]
    steps: dict[str, Callable[[int], object]] = {
        OPENING: lambda n: Image.open(BytesIO(images[n])).size,
        "Pillow: open and decode": lambda n: Image.open(BytesIO(images[n])).load(),
        "header": lambda n: inspect(images[n]),
        "upright pixels": lambda n: read(images[n]),
        "quality of the pixels": lambda n: quality_notes(pixels[n]),
        "fingerprint of the pixels": lambda n: fingerprint(pixels[n]),
        "all that needs pixels": lambda n: encode_for_pack(images[n], headers[n]),
    }
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.rounds):
        for name, step in steps.items():
            start = time.process_time()
            for number in range(given.images):
                step(number)
            spent[name].append(1e6 * (time.process_time() - start) / given.images)
    print(f"{support.machine()}; {given.images} images, {given.rounds} rounds")
    for name, costs in spent.items():
        ratio = statistics.median(own / other for own, other in zip(costs, spent[OPENING], strict=True))
        print(f"{name:26} {statistics.median(costs):5.0f} us, {ratio:4.1f} x {OPENING}")


if __name__ == "__main__":
    main()
