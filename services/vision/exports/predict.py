"""Predicts images with the exported model beside this file, and answers as the suite's predictor does.

    python predict.py IMAGE ...     one line of JSON for each image
    python predict.py --check       compares the answer for sample.png with the one in sample.json

Needs numpy, Pillow, and the package that card.json names under `needs`.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.images.mending import Source
from sightline.images.samples import loaded
from sightline.images.upright import mending, opened, orientation_of, turn_of

Json = dict[str, Any]
Pixels = NDArray[np.uint8]  # [height, width, 3], RGB
Arrays = dict[str, NDArray[Any]]

TOLERANCE = 1e-4  # of scores
GREY, STRIDE = 114, 32  # of a detector's input: what pads it, and what divides its sides
STRIP = 8  # inputs in a row: a longer image is cut before it is resized
MAX_SIDE = 10_240  # larger images are scaled down first
MOST = 100  # tags or objects in an answer


class Model:
    """An exported model."""

    def __init__(self, folder: Path) -> None:
        self.card: Json = json.loads((folder / "card.json").read_text("utf-8"))
        self._run = _runner(folder, self.card)

    def answer(self, data: bytes, threshold: float | None = None) -> Json:
        """The answer for an image file; without a threshold, a detector applies the suggested ones."""
        feeds, width, height = prepared(data, self.card["inputs"])
        return answer_of(self.card, self._run(feeds), width, height, threshold)


def prepared(data: bytes, inputs: list[Json]) -> tuple[Arrays, int, int]:
    """The model's inputs for an image file, and the size of the upright image."""
    feeds: Arrays = {}
    width = height = 0
    for one in inputs:
        if "fit" in one:
            pixels, width, height = decoded(data, one["at_least"])
            framed, inner = framed_as(pixels, width, height, one)
            feeds[one["name"]] = framed[None]
            feeds["inner_size"] = np.array(inner, np.float32)
            feeds["image_size"] = np.array((width, height), np.float32)
    return {one["name"]: feeds[one["name"]] for one in inputs}, width, height


def decoded(data: bytes, at_least: int) -> tuple[Pixels, int, int]:
    """The upright image as RGB, and its size; a JPEG of more than `at_least` pixels may be decoded smaller."""

    def work(image: Image.Image, source: Source) -> tuple[Pixels, int, int]:
        orientation = orientation_of(image)
        turn = turn_of(image, orientation)
        across = turn is not None and orientation >= 5
        width, height = image.size[::-1] if across else image.size
        image.draft(None, (at_least, at_least))
        samples = loaded(image, lambda: opened(source.data))
        source.notes(image)  # raises if too much of the file is missing
        pixels = samples.rgb()
        if max(pixels.size) > MAX_SIDE:
            factor = MAX_SIDE / max(pixels.size)
            sides = tuple(max(1, round(side * factor)) for side in pixels.size)
            pixels = pixels.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
        return np.asarray(pixels if turn is None else pixels.transpose(turn)), width, height

    return mending(data, work)


def framed_as(rgb: Pixels, width: int, height: int, how: Json) -> tuple[Pixels, tuple[int, int]]:
    """The pixels as an input, and the width and height that the image has in it."""
    size = how["size"]

    def resized(across: int, down: int, part: tuple[float, float, float, float] | None = None) -> Pixels:
        if (down, across) == rgb.shape[:2] and part is None:
            return rgb.copy()
        kind = Image.Resampling[how["interpolation"].upper()]
        return np.asarray(Image.fromarray(rgb).resize((across, down), kind, part))

    if how["fit"] == "letterbox":  # undistorted, at the top left of a grey canvas
        inner = max(1, round(width * size / max(width, height))), max(1, round(height * size / max(width, height)))
        sides = [-(-side // STRIDE) * STRIDE for side in inner]
        canvas = np.full((sides[1], sides[0], 3), GREY, np.uint8)
        canvas[: inner[1], : inner[0]] = resized(*inner)
        return canvas, inner
    if how["fit"] == "stretch":
        return resized(size, size), (size, size)
    shorter = min(rgb.shape[:2])
    across, down = (max(size, how["resize"] * side // shorter) for side in (rgb.shape[1], rgb.shape[0]))
    left, top = round((across - size) / 2), round((down - size) / 2)
    if max(across, down) <= STRIP * size:
        return resized(across, down)[top : top + size, left : left + size], (size, size)
    x, y = rgb.shape[1] / across, rgb.shape[0] / down  # of the image's own pixels to one of the input
    part = left * x, top * y, (left + size) * x, (top + size) * y
    return resized(size, size, part), (size, size)


def answer_of(card: Json, outputs: Arrays, width: int, height: int, threshold: float | None = None) -> Json:
    """What reaches its threshold, by falling score: the predictor's answer as JSON."""
    detects = card["kind"] == "GENERIC_DETECTOR"
    scores = outputs["scores"] if detects else outputs["probabilities"][0]
    labels = outputs["labels"] if detects else np.arange(len(scores))
    least = np.full(len(labels), threshold or 0.0)
    if detects and threshold is None:
        least = np.array(card["suggested_thresholds"])[labels]
    order = np.argsort(-scores, kind="stable")
    chosen = order[scores[order] >= least[order]][:MOST]
    tags = [{"name": card["categories"][labels[one]]["name"], "confidence": float(scores[one])} for one in chosen]
    result: Json = {"tagsResult": {"values": tags}}
    if detects:
        boxes = _whole_pixels(outputs["boxes"][chosen], width, height)
        objects = [
            {"id": str(number), "boundingBox": box, "tags": [tag]}
            for number, (box, tag) in enumerate(zip(boxes, tags, strict=True), 1)
        ]
        result = {"objectsResult": {"values": objects}}
    return {
        "modelVersion": card["version"],
        "metadata": {"width": width, "height": height},
        "customModelResult": result,
    }


def difference(expected: Json, found: Json, threshold: float) -> float:
    """The largest difference between the scores of two answers; ValueError if they differ in anything else.

    Whatever is within the tolerance of the threshold, or of a full answer's last score, may be missing.
    """
    theirs, ours = results_of(expected), results_of(found)
    ours_from, theirs_from = (_last(answer, threshold) + TOLERANCE for answer in (ours, theirs))
    largest = 0.0
    for one in theirs:
        same = [other for other in ours if _is_same(one, other)]
        if same:
            ours.remove(nearest := min(same, key=lambda other: abs(other["confidence"] - one["confidence"])))
            largest = max(largest, abs(nearest["confidence"] - one["confidence"]))
        elif one["confidence"] >= ours_from:
            raise ValueError(f"{one} is missing")
    if over := [one for one in ours if one["confidence"] >= theirs_from]:
        raise ValueError(f"{over[0]} should not be there")
    return largest


def results_of(answer: Json) -> list[Json]:
    """The tags, or the objects as tags with a box."""
    result = answer["customModelResult"]
    if "tagsResult" in result:
        return list(result["tagsResult"]["values"])
    return [one["tags"][0] | {"box": one["boundingBox"]} for one in result["objectsResult"]["values"]]


def main() -> int:
    """Returns 0, or 1 if the check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--threshold", type=float, help="the least score; by default, a detector's suggested ones")
    parser.add_argument("--check", action="store_true", help="compare with the service's answer for sample.png")
    given = parser.parse_args()
    if not (given.images or given.check):
        parser.error("name an image, or pass --check")
    folder = Path(__file__).resolve().parent
    model = Model(folder)
    for path in given.images:
        print(json.dumps(model.answer(path.read_bytes(), given.threshold), ensure_ascii=False))
    return _check(model, folder) if given.check else 0


def _check(model: Model, folder: Path) -> int:
    sample = json.loads((folder / "sample.json").read_text("utf-8"))
    found = model.answer((folder / "sample.png").read_bytes(), sample["threshold"])
    try:
        largest = difference(sample["answer"], found, sample["threshold"])
    except ValueError as fault:
        print(f"sample.png: {fault}", file=sys.stderr)
        return 1
    same = largest <= TOLERANCE
    print(f"sample.png: scores differ by {largest:.1e} at most, {TOLERANCE:g} are allowed", file=sys.stderr)
    return 0 if same else 1


def _last(results: list[Json], threshold: float) -> float:
    """The score that a result had to reach: with a full answer, its last one's."""
    return results[-1]["confidence"] if len(results) >= MOST else threshold


def _is_same(one: Json, other: Json) -> bool:
    """Whether both are of one category, and their boxes of the same pixels; half a pixel may be rounded either way."""
    first, second = one.get("box", {}), other.get("box", {})
    sides = [abs(first[side] - second[side]) <= (1 if side in "xy" else 2) for side in first]
    return one["name"] == other["name"] and all(sides)


def _whole_pixels(boxes: NDArray[np.float32], width: int, height: int) -> list[dict[str, int]]:
    """Boxes [n, 4] of left, top, right, bottom, rounded outwards to at least 1 x 1 pixel inside the image."""
    limits = np.array([width, height])
    first = np.clip(np.rint(boxes[:, :2]), 0, limits - 1)
    last = np.clip(np.rint(boxes[:, 2:]), first + 1, limits)
    sides = np.concatenate([first, last - first], axis=1).astype(int)
    return [dict(zip("xywh", box, strict=True)) for box in sides.tolist()]


def _runner(folder: Path, card: Json) -> Callable[[Arrays], Arrays]:
    """What turns named inputs into named outputs, on a CPU, in 32-bit floating point."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # or ONNX Runtime tells its makers of the model
    sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType] - nor does OpenVINO, without it
    package = importlib.import_module(card["needs"])
    file, names = folder / card["file"], card["outputs"]
    if card["needs"] == "onnxruntime":
        session = package.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))
    if card["needs"] == "openvino":
        model = package.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda feeds: dict(zip(names, model(feeds).to_tuple(), strict=True))
    program = package.export.load(file).module()

    def run(feeds: Arrays) -> Arrays:
        with package.inference_mode():
            outputs = program(*(package.from_numpy(feed.copy()) for feed in feeds.values()))
        return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}

    return run


if __name__ == "__main__":
    sys.exit(main())
