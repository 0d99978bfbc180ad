"""Paths for files whose names come from elsewhere: below the folder, legal and different on every file system."""

import re
from pathlib import PurePosixPath

from sightline.importers.model import IMAGE_SUFFIXES
from sightline.importers.names import folded, slashed

MAX_PART_BYTES = 240  # file systems allow 255; leaves room for the number of a second file of the name

_DRIVE = re.compile(r"^[A-Za-z]:/")
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]')
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])(?:\..*)?", re.IGNORECASE)
_SUFFIXES = {"jpg": {".jpg", ".jpeg", ".jpe", ".jfif"}, "png": {".png"}}


def safe_part(text: str) -> str:
    """The text as one part of a path: not hidden, not reserved, without what Windows forbids."""
    part = _FORBIDDEN.sub("_", re.sub(r"[/\\]", "_", text)).strip()
    if part.endswith("."):
        part = part.rstrip(".") + "_"
    if part.startswith(".") or not part or _RESERVED.fullmatch(part):
        part = f"_{part}"
    return _cut(part)


def safe_path(name: str) -> str:
    """The name as a relative path without `..`; separators of Windows are separators."""
    parts = _DRIVE.sub("", slashed(name)).split("/")
    return "/".join(safe_part(part) for part in parts if part.strip() not in ("", ".", "..")) or "_"


def with_suffix(path: str, extension: str) -> str:
    """The path with a suffix that says what the image's bytes are; as it is if that is not known."""
    suffix = PurePosixPath(path).suffix
    if suffix.lower() in _SUFFIXES.get(extension, IMAGE_SUFFIXES):
        return path
    stem = path.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else path
    return f"{stem}.{extension or 'jpg'}"


class Paths:
    """Gives every file a path of its own, even where letter case or Unicode form does not count."""

    def __init__(self, *taken: str, by_stem: bool = False) -> None:
        """`by_stem`: paths differ in more than their suffix, as each image has a file of labels."""
        self._by_stem = by_stem
        self._files, self._folders = {folded(path) for path in taken}, set[str]()
        self._next: dict[str, int] = {}

    def add(self, path: str) -> str:
        """The path, or with a number before its suffix if it is taken; without folders if one of them is a file."""
        if not self._files.isdisjoint(_above(folded(path))):
            path = path.replace("/", "_")
        suffix = PurePosixPath(path).suffix
        stem = path.removesuffix(suffix)
        number = self._next.get(folded(path), 1)
        found = path
        while self._is_taken(found):
            number += 1
            found = f"{stem}-{number}{suffix}"
        self._next[folded(path)] = number
        self._files.add(self._key(found))
        self._folders |= _above(folded(found))
        return found

    def _is_taken(self, path: str) -> bool:
        return self._key(path) in self._files or folded(path) in self._folders

    def _key(self, path: str) -> str:
        return folded(path.removesuffix(PurePosixPath(path).suffix) if self._by_stem else path)


def _above(path: str) -> set[str]:
    return {str(folder) for folder in PurePosixPath(path).parents} - {"."}


def _cut(part: str) -> str:
    """The part within the limit of file systems, with its suffix."""
    if len(part.encode()) <= MAX_PART_BYTES:
        return part
    suffix = PurePosixPath(part).suffix
    suffix = suffix if len(suffix.encode()) < 16 else ""
    stem = part.removesuffix(suffix).encode()[: MAX_PART_BYTES - len(suffix.encode())]
    return stem.decode(errors="ignore") + suffix
