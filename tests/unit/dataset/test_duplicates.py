"""Findings about images that repeat others."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from services.dataset.duplicates import Duplicates, Indices, note_duplicates
from services.dataset.findings import FindingLog
from services.kit.memory import MemoryBlobs
from services.vision.snapshot import Entry, Shard, pack_into_bytes, write_index


@dataclass(frozen=True)
class Counted(Duplicates):
    """Counts how often the images are compared."""

    compared: ClassVar[list[int]] = []

    @property
    def others(self) -> Indices:
        self.compared.append(1)
        return np.where(self.equal != np.arange(len(self.ids)), self.equal, -1)


async def test_all_images_are_compared_once_however_many_there_are() -> None:
    """They were compared once for each image: of 100,000, that took longer than decoding them."""
    entries = [Entry(image_id=n, file_name=f"{n}.png", width=64, height=64, labels=(0,)) for n in range(6)]
    pack, index = pack_into_bytes([(entry, b"image", "png") for entry in entries])
    blobs, log, found = (
        MemoryBlobs(),
        FindingLog(10),
        Counted(list(range(6)), np.array([0, 1, 0, 3, 0, 3]), np.arange(6)),
    )
    await blobs.put("i", write_index(index))
    shard = Shard(key="p", index_key="i", sha256=index.sha256, size_bytes=len(pack), record_count=6)
    await note_duplicates(blobs, [shard], found, ["c"], log)
    assert [(one.code, one.image_id, one.other_image_id) for one in log.kept] == [
        ("exactDuplicate", 2, 0),
        ("exactDuplicate", 4, 0),
        ("exactDuplicate", 5, 3),
    ]
    assert len(found.compared) == 1
