"""JPEG files without their end: how much of the image is missing, and whether the rest is of use."""

import re
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageChops

from sightline.images.faults import Note, Unusable
from sightline.images.metadata import jpeg_segments

MAX_MISSING = 0.1  # share of the image; if more is missing, it is refused

_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # that ends a scan's data
_PADDING = 64  # bytes
_ROWS = 256  # compared at a time
_MORE = b"\x5a" * 4_096
_SEQUENTIAL = (0xC0, 0xC1)
_FRAMES = (*_SEQUENTIAL, 0xC2)
_MAX_SCANS = 1_000
_FILL = range(127, 130)  # the samples of missing blocks, in every mode
_SCALES = (1, 2, 4, 8)  # at which a decoder makes the image smaller; its sides are rounded up
_COPY = "replace it with an intact copy"


@dataclass(frozen=True, slots=True)
class _Scan:
    """Which coefficients of which components it sends, for the first time or more precisely."""

    components: bytes
    first: int
    last: int


def closed(data: bytes) -> bytes:
    """The file with an end marker, in place of any zeros at its end."""
    return data.rstrip(b"\0") + _END


def is_padded(data: bytes) -> bool:
    """Whether zeros are in place of the end, as in an interrupted download; they would be decoded as pixels."""
    return data.endswith(bytes(_PADDING)) and data.rfind(_END) < data.rfind(_SCAN)


def ends_early(image: Image.Image, data: bytes) -> bool:
    """Whether the loaded image is grey at its end because its data ends before its end marker.

    Only then does more data change it.
    """
    width, height = image.size
    if not _is_grey(image.getpixel((width - 1, height - 1))):
        return False
    header = next((segment for segment in jpeg_segments(data) if segment.marker == _SCAN[1]), None)
    end = _MARKER.search(data, header.end) if header else None
    if end is None:
        return False
    with Image.open(BytesIO(data[: end.start()] + _MORE + data[end.start() :]), formats=("JPEG",)) as longer:
        scale = next(one for one in _SCALES if -(-longer.width // one) == image.width)
        longer.draft(None, (longer.width // scale, longer.height // scale))
        longer.load()
        boxes = ((0, top, width, min(top + _ROWS, height)) for top in range(0, height, _ROWS))
        return any(ImageChops.difference(image.crop(box), longer.crop(box)).getbbox() for box in boxes)


def _is_grey(pixel: float | tuple[int, ...] | None) -> bool:
    return all(sample in _FILL for sample in (pixel if isinstance(pixel, tuple) else (pixel,)))


def cut_off_note(image: Image.Image, data: bytes) -> Note:
    """What is missing from the loaded image of a file without its end; Unusable if that is too much.

    Of an image that is stored from top to bottom, up to MAX_MISSING. Of one that is stored in several passes, only what
    refines it.
    """
    frame = next((segment for segment in jpeg_segments(data) if segment.marker in _FRAMES), None)
    scans = _scans(data)
    if frame is None or not scans:
        raise Unusable(f"is cut off: the end of the JPEG file is missing; {_COPY}")
    components = frame.body[6::3]
    if frame.marker in _SEQUENTIAL and scans[0].components == components:
        share = _missing_share(image, frame.body)
        if share > MAX_MISSING:
            raise Unusable(f"is cut off: the end of the JPEG file is missing, {share:.0%} of the image; {_COPY}")
        lack = f"{share:.1%} of the image is missing and grey" if share >= 0.0005 else "all its pixels are there"
        return Note("imageCutOff", {"lack": lack})
    if not _is_whole(scans[:-1], components):
        raise Unusable(f"is cut off: the end of the JPEG file is missing, and only a coarse image is left; {_COPY}")
    return Note("imageCutOff", {"lack": "the image is whole, but may lack its finest details"})


def _scans(data: bytes) -> list[_Scan]:
    """The scans whose headers are there; a scan's data holds no bytes that look like another's header."""
    found: list[_Scan] = []
    place = next((one.start for one in jpeg_segments(data) if one.marker == _SCAN[1]), -1)
    while place >= 0 and len(found) < _MAX_SCANS:
        count = data[place + 4] if place + 4 < len(data) else 0
        end = place + 5 + 2 * count
        if count and end + 3 <= len(data):
            found.append(_Scan(data[place + 5 : end : 2], data[end], data[end + 1]))
        place = data.find(_SCAN, place + 2)
    return found


def _is_whole(scans: list[_Scan], components: bytes) -> bool:
    """Whether the scans send the mean of every block, and all coefficients of the first component, the brightness."""
    means = {component for scan in scans if scan.first == 0 for component in scan.components}
    sent = {number for scan in scans if components[0] in scan.components for number in range(scan.first, scan.last + 1)}
    return means >= set(components) and sent >= set(range(64))


def _missing_share(image: Image.Image, frame: bytes) -> float:
    """The share of the pixels after the last block that is not grey throughout."""
    grey = bytes(0 if sample in _FILL else 255 for sample in range(256))
    present = Image.new("L", image.size)
    for band in image.split():
        present = ImageChops.lighter(present, band.point(grey))
    box = present.getbbox()
    if box is None:
        return 1.0
    height, factors = int.from_bytes(frame[1:3], "big"), [factor & 15 for factor in frame[7::3]]
    block = max(1, 8 * max(factors) * image.height // height)  # rows; the image may have been decoded smaller
    top = (box[3] - 1) // block * block
    bottom = min(top + block, image.height)
    right = (present.crop((0, top, image.width, bottom)).getbbox() or box)[2]
    return ((image.height - bottom) * image.width + (bottom - top) * (image.width - right)) / (
        image.width * image.height
    )
