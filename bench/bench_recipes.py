"""What each recipe of the ladder reaches on the real image sets, and what the first one costs over a bare forward.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_recipes.py [SET ...]`; the test images are
only measured on, never chosen by.
"""

import os
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import torch

from services.trainer.engine.data import open_images
from services.trainer.engine.run import run
from services.trainer.engine.warm_up import warm_up
from services.trainer.messages import EvaluateTask, EvaluationResult, Result, TrainTask
from services.trainer.recipe import Recipe
from services.vision import preprocess
from services.vision.backbones import embed
from services.vision.decode import inspect
from services.vision.repack import encode_for_pack
from services.vision.snapshot import (
    AnnotationKind,
    Entry,
    Manifest,
    Shard,
    SnapshotDigest,
    count_categories,
    pack_into_bytes,
    write_index,
)
from services.vision.weights import WeightsResolver, pretrained_network

SETS = ("hemlock_cherry", "trash", "grocery")
ALLOWANCE = timedelta(seconds=180.0)
ONE = ("mobilenet_v2",)
TWO = (*ONE, "mobilenet_v2_keras")
THREE = (*TWO, "squeezenet1_1")
LADDER = (
    *(Recipe(name=f"{ONE[0]} at {side}", rung=0, backbones=ONE, resolution=side) for side in (224, 256, 288, 320)),
    Recipe(name="two at 320, mirrored too", rung=0, backbones=TWO, resolution=320, views=2),
    Recipe(name="three at 320, mirrored too", rung=0, backbones=THREE, resolution=320, views=2),
)


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int


class _Category(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def pack(coco: Path, out: Path) -> Path:
    """A COCO classification file and its images as a snapshot of one shard."""
    data = msgspec.json.decode(coco.read_bytes(), type=_Coco)
    names = [(category.id, category.name) for category in data.categories]
    position = {category.id: index for index, category in enumerate(data.categories)}
    label = {annotation.image_id: position[annotation.category_id] for annotation in data.annotations}
    items: list[tuple[Entry, bytes, str]] = []
    for image in sorted(data.images, key=lambda image: image.id):
        raw = (coco.parent / image.file_name).read_bytes()
        ready = encode_for_pack(raw, inspect(raw))
        entry = Entry(
            image_id=image.id,
            file_name=image.file_name,
            width=ready.width,
            height=ready.height,
            labels=(label[image.id],),
        )
        items.append((entry, ready.data, ready.extension))
    tar, index = pack_into_bytes(items)
    categories = count_categories(names, [index])
    digest = SnapshotDigest(AnnotationKind.IMAGE_CLASSIFICATION, categories)
    digest.add(index.records)
    shard = Shard(key="0.tar", index_key="0.json", sha256=index.sha256, size_bytes=len(tar), record_count=len(items))
    manifest = Manifest(
        kind=AnnotationKind.IMAGE_CLASSIFICATION,
        categories=categories,
        shards=(shard,),
        image_count=len(items),
        digest=digest.hexdigest(),
    )
    out.mkdir(parents=True)
    (out / "0.tar").write_bytes(tar)
    (out / "0.json").write_bytes(write_index(index))
    (out / "manifest.json").write_bytes(manifest.encode())
    return out


def bare_forward_seconds(snapshot: Path, weights: Path) -> float:
    """One forward pass of mobilenet_v2 over the decoded images, in batches of 16: nothing else is timed."""
    images = open_images(snapshot, "bench")
    network, _ = pretrained_network("mobilenet_v2", 2, WeightsResolver(weights, download=False))
    rule = network.backbone.rule
    inputs: list[torch.Tensor] = []
    for index in range(len(images.samples)):
        pixels = images.pixels(index, rule.at_least)
        assert pixels is not None
        inputs.append(preprocess.apply(pixels, rule))
    batches = torch.stack(inputs).contiguous(memory_format=torch.channels_last).split(16)
    started = time.perf_counter()
    for batch in batches:
        embed(network, batch)
    return time.perf_counter() - started


def climb(name: str, data: Path, weights: Path, root: Path) -> None:
    """Every recipe on one set, and one line of figures for each."""
    train, test = (pack(data / name / f"{part}.json", root / name / part) for part in ("train", "test"))
    cache = root / name / "cache"
    bare = bare_forward_seconds(train, weights)
    for number, recipe in enumerate(LADDER):
        out = root / name / str(number)
        task = TrainTask(
            trial=recipe.name,
            dataset=name,
            directory=str(train),
            recipe=recipe,
            allowance=ALLOWANCE,
            output_directory=str(out),
            cache_directory=str(cache),
            weights_directory=str(weights),
        )
        result = run(task, lambda _: None)
        assert isinstance(result, Result), result
        measured = run(
            EvaluateTask(
                evaluation="test",
                dataset=name,
                bundle_directory=result.bundle_directory,
                directory=str(test),
                output_directory=str(out),
            ),
            lambda _: None,
        )
        assert isinstance(measured, EvaluationResult), measured
        print(
            f"{name:15} {recipe.name:28} out of fold {result.selection_score:.3f} ±{result.standard_error:.3f}"
            f" log loss {result.selection_log_loss:.3f} | test top-1 {measured.performance.accuracy_top1:.3f}"
            f" | {result.used.total_seconds():5.1f} s = {result.used.total_seconds() / bare:.2f} bare forward passes",
            flush=True,
        )


def main() -> None:
    """The sets of the command line, or all three."""
    data, weights = Path(os.environ["SIGHTLINE_TEST_DATA"]), Path(os.environ["SIGHTLINE_WEIGHTS_DIR"])
    warm_up()
    with tempfile.TemporaryDirectory() as scratch:
        for name in sys.argv[1:] or SETS:
            climb(name, data, weights, Path(scratch))


if __name__ == "__main__":
    main()
