"""Near-duplicates: which changes of an image are recognised, what real sets have, and how the search's cost grows.

`python bench/bench_near_duplicates.py`. Reads SIGHTLINE_TEST_DATA. Changes are tried on up to 40 images of each set.
The cost is that of random hashes, a hundredth of which have a near-duplicate, and of the frames of one fixed camera.
"""

import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.support import folder, machine
from services.vision.decode import decode
from services.vision.fingerprint import HASH_BYTES, fingerprint, perceptual_hash
from services.vision.near_duplicates import ALIKE_BITS, Hashes, closest, near_groups

TRIED = 40  # images of a set that are changed
Pixels = NDArray[np.uint8]


def changes(pixels: Pixels) -> Iterator[tuple[str, Pixels]]:
    """What often happens to copies of an image."""
    image = Image.fromarray(pixels)
    width, height = image.size
    for quality in (75, 30):
        out = BytesIO()
        image.save(out, "JPEG", quality=quality)
        yield f"JPEG {quality}", decode(out.getvalue())
    half = (max(1, width // 2), max(1, height // 2))
    yield "half size", np.asarray(image.resize(half, Image.Resampling.LANCZOS))
    yield "brighter", np.clip(pixels * 1.15 + 5, 0, 255).astype(np.uint8)
    for percent in (1, 2):
        edge = max(1, round(min(width, height) * percent / 100))
        yield f"{percent} % trimmed", np.ascontiguousarray(pixels[edge:-edge, edge:-edge])
    yield "mirrored", np.ascontiguousarray(pixels[:, ::-1])


def rows(hashes: list[bytes]) -> Hashes:
    """The hashes of those that have one."""
    return np.array([np.frombuffer(each, np.uint8) for each in hashes if each], np.uint8).reshape(-1, HASH_BYTES)


def of_set(path: Path) -> str:
    """A row of the table."""
    images = [decode(file.read_bytes()) for file in sorted((path / "images").iterdir())]
    hashes = [perceptual_hash(pixels) for pixels in images]
    known = rows(hashes)
    repeated = int((near_groups(known) != np.arange(len(known))).sum())
    recognised: dict[str, list[bool]] = {}
    for index in np.random.default_rng(1).choice(len(images), min(TRIED, len(images)), replace=False):
        for name, changed in changes(images[index]):
            found, _ = closest(rows([perceptual_hash(changed)]), rows([hashes[index]]))
            recognised.setdefault(name, []).append(0 in found)
    cells = [f"{np.mean(found):.0%}" for found in recognised.values()]
    return " | ".join(
        ["", path.name, str(len(images)), str(len(images) - len(known)), str(repeated), *cells, ""]
    ).strip()


def seconds(hashes: Hashes) -> float:
    """CPU seconds of grouping them."""
    started = time.process_time()
    near_groups(hashes)
    return time.process_time() - started


def main() -> int:
    """Prints the tables."""
    data = folder("SIGHTLINE_TEST_DATA")
    names = [name for name, _ in changes(np.zeros((100, 100, 3), np.uint8))]
    print(machine())
    print("| set | images | of one colour | repeated | " + " | ".join(names) + " |\n|---|" + "---|" * (len(names) + 3))
    for path in sorted(path.parent for path in data.glob("*/train.json")):
        print(of_set(path), flush=True)
    random = np.random.default_rng(0)
    print("| hashes | random, CPU seconds | one fixed camera, CPU seconds |\n|---|---|---|")
    for count in (1_000, 10_000, 100_000, 1_000_000):
        many = random.integers(0, 256, (count, HASH_BYTES), np.uint8)
        many[: count // 100] = many[-(count // 100) :]
        many[: count // 100, :2] ^= 1
        frames = many[:1] ^ np.packbits(random.random((count, HASH_BYTES * 8)) < ALIKE_BITS / 2 / 256 / 2, axis=1)
        print(f"| {count:,} | {seconds(many):.2f} | {seconds(frames):.2f} |", flush=True)
    pixels = decode(next(iter(sorted((data / "trash" / "images").iterdir()))).read_bytes())
    started = time.process_time()
    for _ in range(200):
        fingerprint(pixels)
    print(f"fingerprint of {pixels.shape[1]} x {pixels.shape[0]}: {(time.process_time() - started) * 5:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
