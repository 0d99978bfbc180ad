"""Reads the files of an export."""

import errno
import json
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from sightline.importers.model import ImportFault, is_image

PACKED = frozenset((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"))
JUNK = frozenset(("__MACOSX", "node_modules", "@eaDir", "#recycle", "$RECYCLE.BIN"))  # the last of NAS and Windows

# Of what is outside the first 65,536 characters, JSON may write the two halves, which mean nothing on their own.
_FIRST, _SECOND = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF = re.compile(f"{_FIRST}(?!{_SECOND})|(?<!{_FIRST}){_SECOND}")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: hidden, or left there by a program."""
    return name.startswith(".") or name in JUNK


def walk(folder: Path) -> Iterator[str]:
    """The files below the folder, relative to it and in order, without hidden ones."""
    for place, _, names in _places(folder):
        below = place.relative_to(folder)
        for name in sorted(names):
            if not name.startswith("."):
                yield (below / name).as_posix()


def links_in(folder: Path) -> list[Path]:
    """The links to folders below the folder, which `walk` does not follow, without hidden ones."""
    return [one for place, names, _ in _places(folder) for name in names if (one := place / name).is_symlink()]


def _places(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder from this one on, with the names of its folders, in order and without hidden ones, and its files."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield Path(place), folders, names


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder by name, without hidden ones."""
    return sorted(one for one in folder.iterdir() if one.is_dir() and not is_hidden(one.name))


def files_of(folder: Path, suffix: str = "") -> list[Path]:
    """The files in a folder by name, those that end so, without hidden ones, such as macOS leaves beside the others."""
    return sorted(one for one in folder.glob(f"*{suffix}") if one.is_file() and not is_hidden(one.name))


def images_in(folder: Path) -> list[str]:
    """The image files below the folder, relative to it."""
    return [name for name in walk(folder) if is_image(Path(name))]


def json_files(folder: Path) -> Iterator[str]:
    """The JSON files below the folder, relative to it and in order."""
    return (name for name in walk(folder) if name.lower().endswith(".json"))


def is_there(path: Path, is_such: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether there is such a file or folder; names in exports may be longer than any file's."""
    try:
        return is_such(path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def has_images(folder: Path) -> bool:
    """Whether there is an image file below the folder."""
    return any(is_image(Path(name)) for name in walk(folder))


def is_packed(file: Path) -> bool:
    """Whether the file is an archive, by its name."""
    return file.suffix.lower() in PACKED and file.is_file()


def read_text(file: Path) -> str:
    """A text file in UTF-8, or in UTF-16 with a byte order mark; ImportFault if it is anything else."""
    try:
        return file.read_bytes().decode("utf-16" if _is_utf16(file) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImportFault(
            f"{file} is not in {error.encoding.upper()} (byte {error.start})", fix="save it as UTF-8, and repeat"
        ) from None
    except OSError as error:
        raise ImportFault(f"{file} cannot be read: {error.strerror}") from None


def _is_utf16(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)


def read_json(file: Path, oddities: list[str] | None = None) -> Any:
    """A JSON file; ImportFault with the line of what is wrong.

    `oddities` receives a sentence for everything that is not JSON but that Python takes: NaN and Infinity, which become
    None, UTF-16, and halves of characters.
    """
    text, constants = read_text(file), list[str]()
    try:
        content = json.loads(text, parse_constant=constants.append)
    except (ValueError, RecursionError) as error:
        raise ImportFault(f"{file} cannot be read as JSON: {error}") from None
    if oddities is not None:
        oddities += [f"NaN and Infinity in {file.name} count as missing values"] if constants else []
        oddities += [f"{file.name} is in UTF-16, and is uploaded in UTF-8"] if _is_utf16(file) else []
        oddities += [f"halves of characters in {file.name} become question marks"] if _has_halves(text) else []
    return content


def parsed(file: Path) -> Any:
    """A JSON file's content; None if it cannot be read."""
    try:
        return read_json(file)
    except ImportFault:
        return None


def _has_halves(text: str) -> bool:
    without_backslashes = text.replace(r"\\", "")
    return bool(_HALF.search(without_backslashes))


def read_xml(file: Path) -> ET.Element:
    """An XML file's root; ImportFault with the line of what is wrong."""
    try:
        data = file.read_bytes()
        try:
            return ET.fromstring(data)  # noqa: S314 - expat bounds what entities expand to
        except (ValueError, LookupError):  # expat knows neither encodings of several bytes nor unknown ones
            return ET.fromstring(_declared(file, data))  # noqa: S314 - expat bounds what entities expand to
    except ET.ParseError as error:
        raise ImportFault(f"{file} cannot be read as XML: {error}") from None
    except OSError as error:
        raise ImportFault(f"{file} cannot be read: {error.strerror}") from None


def _declared(file: Path, data: bytes) -> str:
    """An XML file's text in the encoding that it declares."""
    found = re.match(rb"""\s*<\?xml[^>]*?\bencoding\s*=\s*["']([\w.:-]+)""", data)
    name = found[1].decode() if found else "UTF-8"
    fix = f"save {file} as UTF-8, and declare that"
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        raise ImportFault(f"{file} is not in {name}, as it declares (byte {error.start})", fix=fix) from None
    except (LookupError, ValueError):
        raise ImportFault(f"{file} declares the encoding {name}, which is not known here", fix=fix) from None
