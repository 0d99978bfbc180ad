r"""Finds the files that the names in an annotation file mean; the command and the service share these rules.

A name may have been written on another machine or by another tool. In this order, a file is meant whose path is

1. the name itself (`x:12_y:5.jpg`, `e%20f.jpg` and `c#1.jpg` are ordinary names);
2. one of the name's `readings`: `\` as separator, percent-encoded, a URL, an upload of Label Studio or CVAT, without
   blanks at its ends;
3. one of these in another letter case or Unicode form;
4. the end of one of these, or the other way round: `C:\photos\cats\1.jpg` means `cats/1.jpg`;
5. the name plus an extension, if it has none of images; other files count only if there is no image;
6. the name but for what is easily lost on the way: blanks and dots at the ends of its parts, invisible characters,
   their width, percent-encoding and the characters' encoding of the file's own name, as other unpackers write it.

From step 3 on, exactly one file must match.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from sightline.importers.model import is_image
from sightline.importers.spellings import plain, written

COMPARED = 50  # names for which similar ones are looked up, which is slow
SHARED_PARTS = 2  # of two paths' ends, if neither path ends with the other

K = TypeVar("K", bound=Hashable)

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:/")
_SERVED = re.compile(r"/?data/(?:upload/(?:\d+/)?|local-files/\?d=)")  # before names in Label Studio's exports
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts this before the names of uploaded files


def slashed(name: str) -> str:
    """The name with `/` as separator and without empty and `.` parts; `/` at its start is kept."""
    text = name.replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return ("/" if text.startswith("/") else "") + "/".join(parts)


def leaves_folder(name: str) -> bool:
    """Whether the name is absolute, or leaves the folder that it is relative to."""
    path = slashed(name)
    return path.startswith("/") or bool(_DRIVE.match(path)) or ".." in path.split("/")


def readings(name: str) -> Iterator[str]:
    """The paths that the name may stand for, the most literal first."""
    seen: set[str] = set()
    for text in _decoded(name):
        path = slashed(text)
        parts = path.lstrip("/").split("/")
        bare = [*parts[:-1], _UPLOADED.sub("", parts[-1], count=1)]
        for reading in (path, "/".join(bare)):
            if reading and reading not in seen:
                seen.add(reading)
                yield reading


def _decoded(name: str) -> Iterator[str]:
    yield name
    in_url = path_in_url(name) if _SCHEME.match(name) else name
    for path in dict.fromkeys((in_url or name, name, unquote(name), unquote(unquote(name)))):  # some tools encode twice
        yield path
        if without := _SERVED.match(path):
            yield path[without.end() :]
    if name != name.strip():
        yield from _decoded(name.strip())


def path_in_url(url: str) -> str:
    """The path, without percent-encoding; empty for what is no URL."""
    try:
        return unquote(urlsplit(url).path)
    except ValueError:
        return ""


def folded(path: str) -> str:
    """Equal for paths that differ only in letter case, Unicode form or separator."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", slashed(path)).casefold())


@dataclass(frozen=True, slots=True)
class Match:
    """The file that a name means, or why none was found."""

    path: str = ""
    problem: str = ""  # a clause: `there is no such file; did you mean a.jpg?`
    literal: bool = False  # the name is the path


class Resolver:
    """Resolves names among the given paths, which are relative to one folder."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = set(paths)
        self._by_folded: dict[str, list[str]] = {}
        self._by_last: dict[str, list[str]] = {}  # by the last part, folded
        self._by_stem: dict[str, list[str]] = {}
        self._compared = 0
        for path in sorted(self._paths):
            key = folded(path)
            last = key.rpartition("/")[2]
            self._by_folded.setdefault(key, []).append(path)
            self._by_last.setdefault(last, []).append(path)
            self._by_stem.setdefault(last.rpartition(".")[0], []).append(path)

    def all(self, names: Iterable[str]) -> dict[str, Match]:
        """Each name's match. A file that two names mean, neither of them literally, is a match for neither."""
        return unshared({name: self.find(name) for name in names})

    def find(self, name: str, *, by_end: bool = True, near: str = "") -> Match:
        """The match of one name; without `by_end`, steps 1 to 3 only.

        Of several files, the one is meant that shares the most folders with the folder `near`, from the top.
        """
        if name in self._paths:
            return Match(name, literal=True)
        plain = slashed(name)
        if plain in self._paths:
            return Match(plain, literal=True)
        listed = [*readings(name)]
        for path in listed:
            if path.lstrip("/") in self._paths:
                return Match(path.lstrip("/"))
        further = (self._by_end, self._by_name_without_extension, self._by_plain) if by_end else ()
        for step in (self._in_other_form, *further):
            for path in listed:
                alike = _nearest(step(path), near)
                if len(alike) == 1:
                    return Match(alike[0])
                if alike:
                    return Match(problem=f"there is no such file; it could be {_either(alike)}")
        return Match(problem=self._missing(listed))

    def _in_other_form(self, path: str) -> list[str]:
        return self._by_folded.get(folded(path).lstrip("/"), [])

    def _by_end(self, path: str) -> list[str]:
        """The files that share the longest end with the path, if that end is long enough."""
        parts = [part for part in folded(path).split("/") if part not in ("", "..")]
        if not parts:
            return []
        best, longest = list[str](), 0
        for candidate in self._by_last.get(parts[-1], []):
            other = folded(candidate).split("/")
            shared = _shared(parts, other)
            if shared < min(len(parts), len(other), SHARED_PARTS) or shared < longest:
                continue
            best = [*best, candidate] if shared == longest else [candidate]
            longest = shared
        return best

    def _by_name_without_extension(self, path: str) -> list[str]:
        parts = [part for part in folded(path).split("/") if part not in ("", "..")]
        if not parts or is_image(Path(parts[-1])):
            return []
        near = self._by_stem.get(parts[-1], [])
        near = [file for file in near if is_image(Path(file))] or near
        ends = [file for file in near if _shared(parts[:-1], folded(file).split("/")[:-1]) == len(parts) - 1]
        return ends or near

    def _by_plain(self, path: str) -> list[str]:
        return self._plain.get(plain(folded(path)).lstrip("/"), [])

    @cached_property
    def _plain(self) -> Mapping[str, list[str]]:
        """The paths by each plain form of what they may have been."""
        found: dict[str, list[str]] = {}
        for path in sorted(self._paths):
            for key in dict.fromkeys(plain(folded(text)) for text in written(path)):
                found.setdefault(key, []).append(path)
        return found

    def _missing(self, listed: list[str]) -> str:
        problem = "there is no such file"
        last = folded(listed[-1]).rpartition("/")[2] if listed else ""
        near = self._by_last.get(last) or self._by_stem.get(last.rpartition(".")[0] or last) or self._alike(last)
        return f"{problem}; did you mean {_either(near)}?" if near else problem

    def _alike(self, last: str) -> list[str]:
        self._compared += 1
        if self._compared > COMPARED or len(last) > 100:
            return []
        digits = re.findall(r"\d+", last)  # files with other numbers are other files
        close = get_close_matches(last, [key for key in self._by_last if re.findall(r"\d+", key) == digits], 1, 0.8)
        return self._by_last[close[0]] if close else []


def unshared(found: Mapping[K, Match], taken: Iterable[str] = ()) -> dict[K, Match]:
    """The matches, without those whose file is taken or meant by another name too; a literal match stays."""
    uses = Counter(match.path for match in found.values() if match.path) + Counter(taken)
    kept = dict(found)
    for name, match in found.items():
        if match.path and uses[match.path] > 1 and not match.literal:
            kept[name] = Match(problem=f"only {match.path} is like it, which another image means too")
    return kept


def _shared(one: list[str], other: list[str]) -> int:
    """How many parts two paths share at their ends."""
    count = 0
    for left, right in zip(reversed(one), reversed(other), strict=False):
        if left != right:
            break
        count += 1
    return count


def _nearest(paths: list[str], folder: str) -> list[str]:
    """The paths that share the most parts with the folder, from the top."""
    parts = folder.split("/")[::-1]
    shared = [_shared(path.split("/")[::-1], parts) for path in paths]
    return [path for path, count in zip(paths, shared, strict=True) if count == max(shared)]


def _either(paths: list[str]) -> str:
    return " or ".join(paths[:3]) + (" or another" if len(paths) > 3 else "")
