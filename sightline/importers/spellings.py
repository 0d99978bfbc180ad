"""How the name of a file may have been spelled before archives, downloads and other systems changed it."""

import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

_TAKEN_FOR = ("cp437", "cp850", "cp1252", "latin-1")  # what UTF-8 in archives and listings is taken for
_PAGES = ("utf-8", "cp850", "cp437", "cp1252", "cp932", "gb18030", "big5", "cp949", "cp1251", "cp866")  # Windows's


def plain(path: str) -> str:
    """Equal for paths that differ only in what is easily lost.

    That is blanks and dots at the ends of their parts, invisible characters, and the characters' width.
    """
    text = "".join(one for one in unicodedata.normalize("NFKC", path) if unicodedata.category(one) != "Cf")
    return "/".join(" ".join(part.split()).rstrip(". ") or part for part in text.split("/"))


def written(path: str) -> Iterator[str]:
    """What a file's name may have been before it was percent-encoded, or read in another encoding."""
    yield path
    yield unquote(path)
    if path.isascii():
        return
    for data in _bytes_of(path):
        for page in _PAGES:
            try:
                yield data.decode(page)
            except UnicodeDecodeError:
                continue


def _bytes_of(path: str) -> list[bytes]:
    """What the name may have been in bytes: those that are not UTF-8, or those that were taken for another encoding."""
    if any("\ud800" <= one <= "\udfff" for one in path):
        found = _encoded(path, "utf-8", "surrogateescape")
        return [found] if found else []
    return [found for page in _TAKEN_FOR if (found := _encoded(path, page))]


def _encoded(path: str, page: str, errors: str = "strict") -> bytes:
    try:
        return path.encode(page, errors)
    except UnicodeEncodeError:
        return b""
