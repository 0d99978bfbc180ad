"""A small set for detection, made from real images: handwritten digits pasted onto crops of two photographs.

The digits and both photographs (a temple in China, a flower) ship with scikit-learn. Training and test images show
different scans, on crops of different parts of the photographs. The result depends only on the seed.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageStat

from sightline.cli.frames import Found
from sightline.demo import digits
from sightline.demo.digits import NAMES, ImageSet, Scan

PHOTOS = ("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg")
TRAIN_PART = 0.6  # of a photograph's width, from the left; the rest is for the test set
CROPS = (0.75, 1.0)  # a crop's side, as a share of the largest that its part of the photograph allows
SIZES = (56, 110)  # pixels: the longer side of a digit
TURN = 12.0  # degrees to either side
MOST = 4  # digits in an image
INKED = 96  # 0..255: pixels with more ink than this belong to the digit
TRIES = 20  # to find a free place; after these the digit is left out
GAP = 4  # pixels between two digits

Box = tuple[int, int, int, int]  # x, y, width, height in pixels, tight around a digit's ink
Scene = tuple[Image.Image, list[tuple[int, Box]]]  # an image and the digits in it
SceneSet = ImageSet[tuple[Found, ...]]


def write(
    folder: Path, *, names: int = 4, train: int = 240, test: int = 60, side: int = 256, seed: int = 0
) -> tuple[SceneSet, SceneSet]:
    """Writes `train` and `test` images of `side` pixels with the first `names` digits; raises DigitsMissing."""
    train_scans, test_scans = digits.split(names, None, 0.25, seed)
    photos = [Image.open(digits.bundled(name)).convert("RGB") for name in PHOTOS]
    cuts = [round(TRAIN_PART * photo.width) for photo in photos]
    left = [photo.crop((0, 0, cut, photo.height)) for photo, cut in zip(photos, cuts, strict=True)]
    right = [photo.crop((cut, 0, photo.width, photo.height)) for photo, cut in zip(photos, cuts, strict=True)]
    rng = random.Random(seed)  # noqa: S311 - these images are no secret
    return (
        _write_set(folder, "train", [_scene(rng, left, train_scans, side) for _ in range(train)], names),
        _write_set(folder, "test", [_scene(rng, right, test_scans, side) for _ in range(test)], names),
    )


def _scene(rng: random.Random, photos: Sequence[Image.Image], scans: Sequence[Scan], side: int) -> Scene:
    """A crop of a photograph with up to `MOST` digits on it, none of which touch."""
    image = _crop(rng, rng.choice(photos), side)
    placed: list[tuple[int, Box]] = []
    for _ in range(rng.randint(1, MOST)):
        label, scan = rng.choice(scans)
        ink = _ink(rng, scan)
        for _ in range(TRIES):
            x, y = rng.randint(0, side - ink.width), rng.randint(0, side - ink.height)
            box = (x, y, ink.width, ink.height)
            if all(_apart(box, other) for _, other in placed):
                _paste(rng, image, ink, box)
                placed.append((label, box))
                break
    return image, placed


def _crop(rng: random.Random, photo: Image.Image, side: int) -> Image.Image:
    """A square of the photograph, mirrored or not, scaled to `side`."""
    size = round(rng.uniform(*CROPS) * min(photo.size))
    x, y = rng.randint(0, photo.width - size), rng.randint(0, photo.height - size)
    crop = photo.resize((side, side), Image.Resampling.BICUBIC, box=(x, y, x + size, y + size))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def _ink(rng: random.Random, scan: Image.Image) -> Image.Image:
    """The scan's ink as a mask, enlarged, slightly rotated, and cropped to the digit."""
    ink = scan.point([255 - level for level in range(256)])
    ink = ink.resize((256, 256), Image.Resampling.BICUBIC).rotate(rng.uniform(-TURN, TURN), Image.Resampling.BICUBIC)
    ink = ink.crop(ink.point([255 * (level > INKED) for level in range(256)]).getbbox())
    scale = rng.uniform(*SIZES) / max(ink.size)
    return ink.resize((round(ink.width * scale), round(ink.height * scale)), Image.Resampling.BICUBIC)


def _paste(rng: random.Random, image: Image.Image, ink: Image.Image, box: Box) -> None:
    """Pastes the digit in a light or a dark colour, whichever contrasts with the background."""
    x, y, w, h = box
    below = ImageStat.Stat(image.crop((x, y, x + w, y + h)).convert("L")).mean[0]
    darkest, lightest = (0, 70) if below > 110 else (185, 255)
    colour = tuple(rng.randint(darkest, lightest) for _ in range(3))
    image.paste(colour, (x, y), ink)


def _apart(one: Box, other: Box) -> bool:
    return (
        one[0] + one[2] + GAP <= other[0]
        or other[0] + other[2] + GAP <= one[0]
        or one[1] + one[3] + GAP <= other[1]
        or other[1] + other[3] + GAP <= one[1]
    )


def _write_set(folder: Path, name: str, scenes: Sequence[Scene], names: int) -> SceneSet:
    (folder / name).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    truth: dict[Path, tuple[Found, ...]] = {}
    for number, (image, placed) in enumerate(scenes, 1):
        file = folder / name / f"{number:04}.jpg"
        image.save(file, quality=92)
        images.append({"id": number, "file_name": f"{name}/{file.name}", "width": image.width, "height": image.height})
        for label, box in placed:
            mark: dict[str, object] = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1}
            annotations.append({**mark, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        truth[file] = tuple(Found(NAMES[label], box) for label, box in placed)
    coco = folder / f"{name}.json"
    coco.write_text(json.dumps({"images": images, "annotations": annotations, "categories": digits.categories(names)}))
    return ImageSet(coco, truth)
