"""Packs a COCO file and its images into a snapshot of one shard, without services."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from services.kit.errors import InvalidImage
from services.vision.decode import inspect
from services.vision.repack import encode_for_pack
from services.vision.snapshot import (
    AnnotationKind,
    Box,
    Entry,
    Manifest,
    Shard,
    SnapshotDigest,
    count_categories,
    pack_into_bytes,
    write_index,
)


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float] | None = None


class _Category(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def pack(
    coco: Path,
    out: Path,
    kind: AnnotationKind,
    limit: int | None = None,
    keep: Callable[[dict[int, list[int]]], set[int]] | None = None,
) -> Path:
    """Writes a snapshot of the first `limit` images into the new folder `out`; returns the folder.

    `keep` chooses among the ids, given the categories of each. Images that registration refuses are left out.
    """
    data = msgspec.json.decode(coco.read_bytes(), type=_Coco)
    index_of = {category.id: index for index, category in enumerate(data.categories)}
    labels, boxes = defaultdict[int, list[int]](list), defaultdict[int, list[Box]](list)
    for one in data.annotations:
        if kind == AnnotationKind.IMAGE_CLASSIFICATION:
            labels[one.image_id] = [index_of[one.category_id]]
        elif one.bbox:
            boxes[one.image_id].append(Box(*one.bbox, index_of[one.category_id]))
    images = [image for image in data.images if _accepted(coco.parent / image.file_name)]
    kept = keep({image.id: labels[image.id] for image in images}) if keep else {image.id for image in images}
    items: list[tuple[Entry, bytes, str]] = []
    for image in sorted((image for image in images if image.id in kept), key=lambda image: image.id)[:limit]:
        raw = (coco.parent / image.file_name).read_bytes()
        packed = encode_for_pack(raw, inspect(raw))
        entry = Entry(
            image_id=image.id,
            file_name=image.file_name,
            width=packed.width,
            height=packed.height,
            labels=tuple(labels[image.id]),
            boxes=tuple(boxes[image.id]),
        )
        items.append((entry, packed.data, packed.extension))
    return write(out, kind, [(category.id, category.name) for category in data.categories], items)


def labels_of(coco: Path) -> dict[int, list[int]]:
    """The category ids of each image that registration accepts."""
    data = msgspec.json.decode(coco.read_bytes(), type=_Coco)
    labels = {image.id: list[int]() for image in data.images if _accepted(coco.parent / image.file_name)}
    for one in data.annotations:
        if one.image_id in labels:
            labels[one.image_id].append(one.category_id)
    return labels


def write_subset(coco: Path, out: Path, kept: set[int]) -> Path:
    """Writes the COCO file without the other images; returns the new file. Names stay relative to the old folder."""
    data = json.loads(coco.read_bytes())
    data["images"] = [image for image in data["images"] if image["id"] in kept]
    data["annotations"] = [one for one in data["annotations"] if one["image_id"] in kept]
    out.write_text(json.dumps(data))
    return out


def _accepted(file: Path) -> bool:
    try:
        inspect(file.read_bytes())
    except InvalidImage:
        return False
    return True


def write(
    out: Path, kind: AnnotationKind, names: Sequence[tuple[int, str]], items: Sequence[tuple[Entry, bytes, str]]
) -> Path:
    """Writes a snapshot of one shard into the new folder `out`; returns the folder. `names` are of the categories."""
    tar, index = pack_into_bytes(items)
    categories = count_categories(names, [index])
    digest = SnapshotDigest(kind, categories)
    digest.add(index.records)
    shard = Shard(
        key="d/0.tar", index_key="d/0.json", sha256=index.sha256, size_bytes=len(tar), record_count=len(items)
    )
    manifest = Manifest(
        kind=kind, categories=categories, shards=(shard,), image_count=len(items), digest=digest.hexdigest()
    )
    out.mkdir(parents=True)
    (out / "0.tar").write_bytes(tar)
    (out / "0.json").write_bytes(write_index(index))
    (out / "manifest.json").write_bytes(manifest.encode())
    return out
