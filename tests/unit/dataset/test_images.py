"""Reading images back: what follows an image is found without reading all that precedes it."""

from __future__ import annotations

import io

from services.dataset.images import Images, read_images
from services.kit.memory import MemoryBlobs
from services.vision.snapshot import AnnotationKind, Category, Entry, Manifest, PackWriter, Shard, write_index

SHARDS, EACH = 100, 5


class CountingBlobs(MemoryBlobs):
    """Knows which blobs were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self.read.append(key)
        return await super().get(key, start, length)


async def stored() -> CountingBlobs:
    """A snapshot of SHARDS shards with EACH images each, whose ids are 10, 20, 30, ..."""
    blobs, shards = CountingBlobs(), list[Shard]()
    for number in range(SHARDS):
        file = io.BytesIO()
        writer = PackWriter(file)
        for place in range(EACH):
            id_ = 10 * (number * EACH + place + 1)
            writer.add(Entry(image_id=id_, file_name=f"{id_}.jpg", width=1, height=1), b"%d" % id_, "jpg")
        index = writer.close()
        await blobs.put(f"{number}.tar", file.getvalue())
        await blobs.put(f"{number}.json", write_index(index))
        shard = Shard(
            key=f"{number}.tar",
            index_key=f"{number}.json",
            sha256=index.sha256,
            size_bytes=index.size_bytes,
            record_count=EACH,
        )
        shards.append(shard)
    category = Category(id=1, name="owl", image_count=SHARDS * EACH, annotation_count=SHARDS * EACH)
    manifest = Manifest(
        kind=AnnotationKind.IMAGE_CLASSIFICATION,
        categories=(category,),
        shards=tuple(shards),
        image_count=SHARDS * EACH,
        digest="sha256:x",
    )
    await blobs.put("manifest.json", manifest.encode())
    return blobs


async def ids(blobs: CountingBlobs, after: int | None) -> list[int]:
    """The ids of all images that follow."""
    pieces = read_images(blobs, "datasets/d", "manifest.json", after, annotations_only=True)
    return [
        one.image_id
        for piece in [piece async for piece in pieces]
        if isinstance(piece, Images)
        for one in piece.records
    ]


async def test_the_images_after_any_id_are_all_that_have_a_higher_one():
    blobs = await stored()
    everything = [10 * number for number in range(1, SHARDS * EACH + 1)]
    assert await ids(blobs, None) == everything
    for after in (-1, 0, 9, 10, 49, 50, 51, 2495, 2500, 4989, 4990):
        assert await ids(blobs, after) == [id_ for id_ in everything if id_ > after]
    assert await ids(blobs, 5000) == await ids(blobs, 10**9) == []


async def test_an_image_is_read_without_the_shards_before_it():
    blobs = await stored()
    pieces = read_images(blobs, "datasets/d", "manifest.json", 4989, annotations_only=False)
    found: list[object] = []
    async for piece in pieces:
        found.append(piece)
        if isinstance(piece, bytes):
            break
    await pieces.aclose()
    assert found[-1] == b"4990"
    assert len([key for key in blobs.read if key.endswith(".json")]) <= 10  # of 100 indexes, with the manifest
