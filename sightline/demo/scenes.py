"""A small set for detection, made from real images: handwritten digits written on pieces of two photographs.

The digits and both photographs (a temple in China, a flower) come with scikit-learn. Training and test pictures show
different scans, on pieces of different parts of the photographs; what is made depends on the seed alone.
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
PIECES = (0.75, 1.0)  # a piece's side as a share of the largest that its part of the photograph allows
SIZES = (56, 110)  # pixels: the longer side of a digit
TURN = 12.0  # degrees to either side
MOST = 4  # digits in a picture
INKED = 96  # 0..255: what is inked more than this belongs to the digit
TRIES = 20  # for a free place; then the picture has one digit less
GAP = 4  # pixels between two digits

Box = tuple[int, int, int, int]  # x, y, width, height in pixels, tight around a digit's ink
Scene = tuple[Image.Image, list[tuple[int, Box]]]  # a picture and the digits in it
SceneSet = ImageSet[tuple[Found, ...]]


def write(
    folder: Path, *, names: int = 4, train: int = 240, test: int = 60, side: int = 256, seed: int = 0
) -> tuple[SceneSet, SceneSet]:
    """Writes `train` and `test` pictures of `side` pixels with the first `names` digits; raises DigitsMissing."""
    train_scans, test_scans = digits.split(names, None, 0.25, seed)
    photos = [Image.open(digits.bundled(name)).convert("RGB") for name in PHOTOS]
    cuts = [round(TRAIN_PART * photo.width) for photo in photos]
    left = [photo.crop((0, 0, cut, photo.height)) for photo, cut in zip(photos, cuts, strict=True)]
    right = [photo.crop((cut, 0, photo.width, photo.height)) for photo, cut in zip(photos, cuts, strict=True)]
    chance = random.Random(seed)  # noqa: S311 - pictures are no secret
    return (
        _write_set(folder, "train", [_scene(chance, left, train_scans, side) for _ in range(train)], names),
        _write_set(folder, "test", [_scene(chance, right, test_scans, side) for _ in range(test)], names),
    )


def _scene(chance: random.Random, photos: Sequence[Image.Image], scans: Sequence[Scan], side: int) -> Scene:
    """A piece of a photograph with up to `MOST` digits on it, none of which touch."""
    picture = _piece(chance, chance.choice(photos), side)
    placed: list[tuple[int, Box]] = []
    for _ in range(chance.randint(1, MOST)):
        label, scan = chance.choice(scans)
        ink = _ink(chance, scan)
        for _ in range(TRIES):
            x, y = chance.randint(0, side - ink.width), chance.randint(0, side - ink.height)
            box = (x, y, ink.width, ink.height)
            if all(_apart(box, other) for _, other in placed):
                _stamp(chance, picture, ink, box)
                placed.append((label, box))
                break
    return picture, placed


def _piece(chance: random.Random, photo: Image.Image, side: int) -> Image.Image:
    """A square of the photograph, mirrored or not, scaled to `side`."""
    size = round(chance.uniform(*PIECES) * min(photo.size))
    x, y = chance.randint(0, photo.width - size), chance.randint(0, photo.height - size)
    piece = photo.resize((side, side), Image.Resampling.BICUBIC, box=(x, y, x + size, y + size))
    return piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if chance.random() < 0.5 else piece


def _ink(chance: random.Random, scan: Image.Image) -> Image.Image:
    """The scan's ink as a mask, enlarged, slightly turned, and cut to what is inked."""
    ink = scan.point([255 - level for level in range(256)])
    ink = ink.resize((256, 256), Image.Resampling.BICUBIC).rotate(chance.uniform(-TURN, TURN), Image.Resampling.BICUBIC)
    ink = ink.crop(ink.point([255 * (level > INKED) for level in range(256)]).getbbox())
    scale = chance.uniform(*SIZES) / max(ink.size)
    return ink.resize((round(ink.width * scale), round(ink.height * scale)), Image.Resampling.BICUBIC)


def _stamp(chance: random.Random, picture: Image.Image, ink: Image.Image, box: Box) -> None:
    """Writes in a light or a dark colour, whichever shows on what lies below."""
    x, y, w, h = box
    below = ImageStat.Stat(picture.crop((x, y, x + w, y + h)).convert("L")).mean[0]
    darkest, lightest = (0, 70) if below > 110 else (185, 255)
    colour = tuple(chance.randint(darkest, lightest) for _ in range(3))
    picture.paste(colour, (x, y), ink)


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
    for number, (picture, placed) in enumerate(scenes, 1):
        file = folder / name / f"{number:04}.jpg"
        picture.save(file, quality=92)
        images.append(
            {"id": number, "file_name": f"{name}/{file.name}", "width": picture.width, "height": picture.height}
        )
        for label, box in placed:
            mark: dict[str, object] = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1}
            annotations.append({**mark, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        truth[file] = tuple(Found(NAMES[label], box) for label, box in placed)
    coco = folder / f"{name}.json"
    coco.write_text(json.dumps({"images": images, "annotations": annotations, "categories": digits.categories(names)}))
    return ImageSet(coco, truth)
