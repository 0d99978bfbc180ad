"""Sets a test part of a package aside: every category in its share, images that look alike on the same side."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import cast

from PIL import Image

from sightline.importers.package import Package, Placed

FEWEST = 50  # images; with fewer, training measures by cross-validation instead
FEWEST_PER_CATEGORY = 5  # images; a rarer category stays in training whole
COMPARED = 3_000  # images; with more, only equal hashes count as alike
ALIKE = 4  # bits of 64 by which the hashes of similar images differ


def hold_out(package: Package, share: float, seed: int) -> tuple[Package, Package | None]:
    """The training part and the test part, which is None if there are too few images; the same for the same seed."""
    placed = list({one.path: one for one in package.included}.values())
    if share <= 0 or len(placed) < FEWEST:
        return package, None
    counts = Counter(name for one in placed for name in set(_names(one)))
    wanted = {name: round(share * count) if count >= FEWEST_PER_CATEGORY else 0 for name, count in counts.items()}
    groups = _groups(placed)
    Random(seed).shuffle(groups)  # noqa: S311 - a split, not a secret
    groups.sort(key=lambda group: min((counts[name] for one in group for name in _names(one)), default=len(placed)))
    background = round(share * sum(not _names(one) for one in placed))
    test: set[str] = set()
    for group in groups:
        has = Counter(name for one in group for name in set(_names(one)))
        plain = sum(not _names(one) for one in group)
        if all(wanted[name] >= count for name, count in has.items()) and background >= plain:
            test |= {one.path for one in group}
            wanted = {name: left - has[name] for name, left in wanted.items()}
            background -= plain
    if not test:
        return package, None
    return package.without(test), package.without({one.path for one in placed} - test)


def _names(placed: Placed) -> list[str]:
    return [*placed.image.labels, *(box.label for box in placed.image.boxes)]


def _groups(placed: Sequence[Placed]) -> list[list[Placed]]:
    """The images that look alike, together."""
    hashes = [_hash(one.file) for one in placed]
    root = list(range(len(placed)))

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for one, other in _pairs(hashes):
        root[find(one)] = find(other)
    groups: dict[int, list[Placed]] = {}
    for number, one in enumerate(placed):
        groups.setdefault(find(number), []).append(one)
    return list(groups.values())


def _pairs(hashes: Sequence[int | None]) -> Iterable[tuple[int, int]]:
    first: dict[int, int] = {}
    for number, value in enumerate(hashes):
        if value is not None and first.setdefault(value, number) != number:
            yield first[value], number
    if len(first) > COMPARED:
        return
    different = list(first.items())
    for number, (value, one) in enumerate(different):
        yield from ((one, other) for near, other in different[number + 1 :] if (value ^ near).bit_count() <= ALIKE)


def _hash(file: Path) -> int | None:
    """Whether each of 8 x 8 places is brighter than its right neighbour; None if the file cannot be decoded."""
    try:
        with Image.open(file) as image:
            image.draft("L", (64, 64))
            pixels = _grey(image).resize((9, 8), Image.Resampling.BILINEAR).tobytes()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    places = [(row * 9 + column) for row in range(8) for column in range(8)]
    return sum((pixels[place] > pixels[place + 1]) << number for number, place in enumerate(places))


def _grey(image: Image.Image) -> Image.Image:
    """The image with 8 bits per pixel. Deeper samples, which Pillow would cut off, are scaled by their extremes."""
    if not image.mode.startswith(("I", "F")):
        return image.convert("L")
    deep = image.convert("F")
    dark, light = cast("tuple[float, float]", deep.getextrema())  # of one band
    return deep.point(lambda sample: (sample - dark) * (255 / max(light - dark, 1e-9))).convert("L")
