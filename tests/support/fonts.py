"""A font for tests: the letters of Pillow's, for characters that Pillow's does not have."""

import struct
from pathlib import Path

from PIL import ImageFont

_SPACE, _FIRST = 32, 3  # a space's code, and its glyph in Pillow's font


def font_with(characters: str, file: Path) -> Path:
    """Writes a TrueType font that has ASCII and these characters, each with the glyph of another letter."""
    built_in = ImageFont.load_default(16)
    assert isinstance(built_in, ImageFont.FreeTypeFont)
    data = bytearray(built_in.font_bytes)
    glyphs = {code: code - _SPACE + _FIRST for code in range(_SPACE, 127)}
    mapped = glyphs | {ord(character): glyphs[ord("A") + number] for number, character in enumerate(characters)}
    groups = b"".join(struct.pack(">III", code, code, glyph) for code, glyph in sorted(mapped.items()))
    table = struct.pack(">HHI", 12, 0, 16 + len(groups)) + struct.pack(">II", 0, len(mapped)) + groups
    table = struct.pack(">HHHHI", 0, 1, 3, 10, 12) + table
    entry = data.index(b"cmap")  # in the table directory
    struct.pack_into(">II", data, entry + 8, len(data) + len(data) % 2, len(table))
    file.write_bytes(bytes(data) + bytes(len(data) % 2) + table)
    return file
