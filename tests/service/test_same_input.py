"""One image, registered in every way that the contract allows, is the same input and target for a detector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from services.kit.blobs import from_uri
from services.trainer.datasets import Snapshot
from services.trainer.engine.detection.data import Scenes, open_scenes
from services.trainer.worker.workspace import Workspace
from services.vision import preprocess
from services.vision.canvas import fitting_canvas, plain, shrunk
from services.vision.card import InputRule
from services.vision.decode import decode
from services.vision.detector_network import Targets
from services.vision.letterbox import letterbox
from sightline.v1 import dataset_pb2 as pb
from tests.support.datasets import World, coco, running

WIDTH, HEIGHT = 230, 150
RULE = InputRule(size=192, resize=192, fit="letterbox", mean=(0, 0, 0), std=(1, 1, 1), channel_order="BGR", scale=1)
# x, y, width, height and category in the upright image; two touch its edges.
TRUTH = ((0.0, 0.0, 57.5, 30.0, 1), (23.0, 45.0, 92.0, 60.0, 2), (138.0, 15.0, 92.0, 135.0, 1))
UNTURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One image as ingest, serving and training prepare it."""

    pixels: NDArray[np.uint8]  # of the pack
    boxes: list[tuple[float, ...]]  # of the snapshot
    served: Tensor
    trained: Tensor
    target: Targets


def upright() -> Image.Image:
    """An image without any symmetry."""
    random = np.random.default_rng(3)
    coarse = Image.fromarray(random.integers(0, 256, (12, 18, 3), np.uint8))
    return coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def stored(orientation: int, form: str, **options: object) -> bytes:
    """The image as a camera stores it that was held in another orientation."""
    turn, exif, out = UNTURNED[orientation], Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    image = upright() if turn is None else upright().transpose(turn)
    image.save(out, form, exif=exif, **options)
    return out.getvalue()


Writer = Callable[[tuple[float, ...]], Sequence[float]]
WAYS: dict[str, Writer] = {
    "in pixels": lambda box: box,
    "in fractions": lambda box: (box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT),
    "in pixels, a millionth over the edges": lambda box: (box[0] - 1e-6, box[1] - 1e-6, box[2] + 2e-6, box[3] + 2e-6),
}


async def registered(folder: Path, files: list[bytes], write: Writer, *, declared: bool) -> Scenes:
    """Registers the files with the service, and opens the snapshot as a trainer worker does."""
    images: list[dict[str, object]] = [{"id": n, "file_name": f"{n}.img"} for n in range(1, len(files) + 1)]
    if declared:
        images = [{**image, "width": WIDTH, "height": HEIGHT} for image in images]
    marks = [
        {"id": 10 * n + k, "image_id": n, "category_id": category, "bbox": write(tuple(box))}
        for n in range(1, len(files) + 1)
        for k, (*box, category) in enumerate(TRUTH)
    ]
    async with running(World()) as world:
        data = {f"{n}.img": file for n, file in enumerate(files, 1)}
        dataset = await world.register(coco(images, marks), data, kind="OBJECT_DETECTION")
        assert dataset.state == pb.Dataset.READY, dataset.error
        assert dataset.finding_counts.error == 0
        key = from_uri(dataset.snapshot_uri, world.blobs.bucket)
        snapshot = Snapshot(
            dataset=dataset.name, digest=dataset.snapshot_digest, manifest_key=key, image_count=len(files)
        )
        return open_scenes(await Workspace(folder, world.blobs).snapshot(snapshot), dataset.name)


def prepared_images(scenes: Scenes) -> list[PreparedImage]:
    """Each image as prepared for serving, and for training without augmentation."""
    rows = np.arange(len(scenes.samples))
    canvas = fitting_canvas(scenes.sizes(rows), RULE.size)
    found: list[PreparedImage] = []
    for row in rows.tolist():
        record, data = scenes.samples[row].record, scenes.read(row)
        boxes, labels = (torch.from_numpy(column) for column in scenes.regions(row))
        pixels = scenes.pixels(row, RULE.at_least)
        assert pixels is not None
        image = shrunk(pixels, boxes, labels, width=record.width, height=record.height, side=canvas.side)
        trained, target = plain(image, canvas, RULE)
        snapshot = [(box.x, box.y, box.w, box.h, box.category) for box in record.boxes]
        found.append(PreparedImage(decode(data), snapshot, preprocess.load(data, RULE), trained, target))
    return found


@pytest.mark.parametrize("declared", [True, False], ids=["sides declared", "sides left out"])
@pytest.mark.parametrize("way", WAYS)
async def test_orientation_and_unit_of_boxes_do_not_change_a_detectors_input(
    tmp_path: Path, way: str, declared: bool
) -> None:
    files = [stored(orientation, "PNG") for orientation in UNTURNED]
    images = prepared_images(await registered(tmp_path, files, WAYS[way], declared=declared))
    assert len(images) == 8
    expected = preprocess.apply(np.asarray(upright()), RULE)
    frame = letterbox(WIDTH, HEIGHT, RULE.size)
    corners = torch.tensor([(x, y, x + w, y + h) for x, y, w, h, _ in TRUTH])
    boxes = corners * torch.tensor([frame.scale_x, frame.scale_y] * 2)
    for image in images:
        assert np.array_equal(image.pixels, np.asarray(upright()))
        assert image.boxes == [pytest.approx((*box, category - 1), abs=1e-5) for *box, category in TRUTH]
        assert torch.equal(image.served, expected)
        # Training resizes by torchvision, which may round a sample differently.
        assert (image.trained - expected).abs().max() <= 1
        assert torch.equal(image.target.labels, torch.tensor([0, 1, 0]))
        torch.testing.assert_close(image.target.boxes, boxes, atol=1e-4, rtol=0)


async def test_a_rotated_jpeg_differs_only_by_its_re_encoding(tmp_path: Path) -> None:
    files = [stored(orientation, "JPEG", quality=95, subsampling=0) for orientation in UNTURNED]
    images = prepared_images(await registered(tmp_path, files, WAYS["in pixels"], declared=True))
    first = images[0]
    assert len(images) == len(files)
    for image in images[1:]:
        assert image.boxes == first.boxes
        assert torch.equal(image.target.boxes, first.target.boxes)
        assert image.served.shape == first.served.shape
        assert (image.served - first.served).abs().mean() < 1.0  # of 255
