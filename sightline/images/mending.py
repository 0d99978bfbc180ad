"""What can be left out of a damaged file, or added to it, so that its pixels can be read."""

import struct
import zlib
from dataclasses import dataclass

from PIL import Image

from sightline.images import jpeg_end
from sightline.images.faults import Note, Unusable
from sightline.images.metadata import JPEG, without_metadata

# What Pillow's plugins raise for damaged files.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError),
    *(AttributeError, AssertionError, RuntimeError, struct.error, zlib.error),
)
_THOROUGH = 2  # how often metadata can be left out, each time more of it


@dataclass(frozen=True, slots=True)
class Source:
    """A file's bytes, possibly mended."""

    data: bytes
    stripped: int = 0
    closed: bool = False
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: bytes) -> "Source":
        """The first thing to try: the file itself, unless zeros at its end would be taken for pixels."""
        padded = data.startswith(JPEG) and jpeg_end.is_padded(data)
        return cls(jpeg_end.closed(data), closed=True) if padded else cls(data)

    def notes(self, image: Image.Image) -> tuple[Note, ...]:
        """What was mended, given the loaded image; Unusable if too much of it is missing."""
        notes = [Note("imageMetadataIgnored", {"parts": ", ".join(self.left_out)})] if self.left_out else []
        if self.closed or (self.data.startswith(JPEG) and jpeg_end.ends_early(image, self.data)):
            notes.append(jpeg_end.cut_off_note(image, self.data))
        return tuple(notes)


def is_damage(fault: Exception) -> bool:
    """Whether Pillow may have raised it because the file is damaged."""
    return isinstance(fault, _DAMAGE) and not isinstance(fault, Unusable)


def mended(source: Source, fault: Exception) -> Source | None:
    """The next thing to try after this fault; None if nothing is left."""
    if not is_damage(fault):
        return None
    if str(fault).startswith("image file is truncated"):
        if not source.data.startswith(JPEG) or source.closed:
            return None
        return Source(jpeg_end.closed(source.data), source.stripped, True, source.left_out)
    for stripped in range(source.stripped + 1, _THOROUGH + 1):
        if rest := without_metadata(source.data, bare=stripped == _THOROUGH):
            data, left_out = rest
            return Source(data, stripped, source.closed, (*source.left_out, *left_out))
    return None
