"""Camera raw files are refused as what they are, rather than read as their thumbnails."""

from pathlib import Path

import numpy as np
import pytest

from services.kit.errors import InvalidImageFormat
from services.vision.decode import decode, inspect
from sightline.images.faults import Unusable
from sightline.images.upright import upright
from tests.support.hostile_images import encoded
from tests.support.odd_images import Tag, photo, tags_of, tiff_of

THUMBNAIL = np.asarray(photo(160, 120)).tobytes()
SENSOR = bytes(600 * 400)
REDUCED: Tag = (254, 4, [1])


def raw(more: list[Tag], photometric: int, *, order: str = "<", reduced: bool = True) -> bytes:
    """A thumbnail whose TIFF directory leads to the sensor's samples."""
    first = tags_of(160, 120, photometric=2, bits=(8, 8, 8), more=[*more, *([REDUCED] if reduced else [])])
    return tiff_of([first, tags_of(600, 400, photometric=photometric, bits=(8,))], [THUMBNAIL, SENSOR], order=order)


SUB: Tag = (330, 4, [0])
FILES = {
    "dng": (raw([SUB, (50_706, 1, [1, 4, 0, 0])], 32_803), "(DNG)"),
    "dng, big-endian": (raw([SUB, (50_706, 1, [1, 4, 0, 0])], 32_803, order=">"), "(DNG)"),
    "linear dng": (raw([SUB, (50_706, 1, [1, 4, 0, 0])], 34_892), "(DNG)"),
    "nef": (raw([SUB], 32_803), "such as NEF"),
    "arw, not marked as reduced": (raw([SUB], 32_803, reduced=False), "such as NEF"),
    "pef, in the next directory": (raw([], 32_803), "such as NEF"),
    "cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(400), "(CR2)"),
    "cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(400), "(CR3)"),
    "raf": (b"FUJIFILMCCD-RAW 0201" + bytes(400), "(RAF)"),
    "orf": (b"IIRO\x08\0\0\0" + bytes(400), "(ORF)"),
    "rw2": (b"IIU\0\x18\0\0\0" + bytes(400), "(RW2)"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_camera_raw_file_is_refused_as_one(name: str) -> None:
    data, words = FILES[name]
    for refuse in (inspect, decode):
        with pytest.raises(InvalidImageFormat) as caught:
            refuse(data)
        problem = caught.value.metadata["problem"]
        assert problem.startswith("is a camera raw file (")
        assert words in problem
        assert "save it as JPEG or PNG" in problem


def test_drawing_refuses_it_too(tmp_path: Path) -> None:
    (tmp_path / "a.dng").write_bytes(FILES["dng"][0])
    with pytest.raises(Unusable, match="camera raw"):
        upright(tmp_path / "a.dng")


def test_a_tiff_that_begins_with_a_thumbnail_is_refused_with_both_sizes() -> None:
    with pytest.raises(InvalidImageFormat, match=r"thumbnail of 160 x 120 pixels instead of its 600 x 400 image"):
        decode(raw([SUB], 1))


def test_a_tiff_of_several_pages_gives_its_first() -> None:
    pages = encoded(photo(160, 120), "TIFF", save_all=True, append_images=[photo(600, 400)])
    assert decode(pages).shape == (120, 160, 3)
    pyramid = raw([SUB], 1, reduced=False)
    assert decode(pyramid).shape == (120, 160, 3)


def test_directories_that_lead_in_circles_or_nowhere_end() -> None:
    data = bytearray(raw([SUB], 1, reduced=False))
    first = int.from_bytes(data[4:8], "little")
    entry = data.index((330).to_bytes(2, "little") + (4).to_bytes(2, "little"))
    for place in (first, 8, len(data) - 1, 1 << 31):
        data[entry + 8 : entry + 12] = place.to_bytes(4, "little")
        assert decode(bytes(data)).shape == (120, 160, 3)
