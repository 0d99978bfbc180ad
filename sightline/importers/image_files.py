"""Finds the local files of an export's images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sightline.importers.files import is_there, walk
from sightline.importers.folders import packed_in
from sightline.importers.model import Imported, ImportFault, LabelledImage, text_of
from sightline.importers.names import Match, Resolver, leaves_folder, slashed, unshared
from sightline.importers.per_image import folder_of
from sightline.plurals import counted

ANNOTATIONS = {".json", ".xml", ".txt", ".csv", ".tsv", ".yaml", ".yml"}  # are never images
Mapped = tuple[Path, Resolver]


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An image whose file was not found."""

    id: object
    name: str
    problem: str


class ImagesUnresolved(ImportFault):
    """Images whose files were not found."""

    def __init__(self, source: Path, images: tuple[Unresolved, ...], *, fix: str = "") -> None:
        super().__init__(
            f"{source} names {counted(len(images), 'image that was', 'images that were')} not found", fix=fix
        )
        self.source, self.images = source, images


def files_of(imported: Imported, url_prefixes: Mapping[str, Path]) -> dict[tuple[str, str], Path]:
    """The file of each image, by its name and split; ImagesUnresolved with all that were not found.

    `url_prefixes` maps the beginnings of URLs to folders, whose files they stand for.
    """
    prefixes = {url: (folder, _resolver(folder)) for url, folder in url_prefixes.items()}
    found: dict[tuple[str, str], Path] = {}
    for image in imported.images:
        file = _mapped(image, prefixes) or _literal(image, imported.folder)
        if file:
            found[image.name, image.split] = file
    rest = [image for image in imported.images if (image.name, image.split) not in found]
    if rest:
        resolver = _resolver(imported.folder)
        literal = (file.relative_to(imported.folder).as_posix() for file in found.values() if _below(file, imported))
        matches = unshared(
            {(image.name, image.split): _match(image, resolver, folder_of(imported, image)) for image in rest}, literal
        )
        found |= {key: imported.folder / match.path for key, match in matches.items() if match.path}
        if len(found) < len({(image.name, image.split) for image in imported.images}):
            missing = tuple(
                Unresolved(image.id, image.name, _problem(image.name, match, imported.folder))
                for image in rest
                if not (match := matches[image.name, image.split]).path
            )
            packed = packed_in(imported.folder)
            fix = f"unpack {', '.join(packed)} if that has the images" if packed else ""
            raise ImagesUnresolved(imported.source, missing, fix=fix)
    return found


def _resolver(folder: Path) -> Resolver:
    return Resolver(name for name in walk(folder) if Path(name).suffix.lower() not in ANNOTATIONS)


def _below(file: Path, imported: Imported) -> bool:
    return file.is_relative_to(imported.folder)


def _mapped(image: LabelledImage, prefixes: Mapping[str, Mapped]) -> Path | None:
    entry = image.entry or {}
    for uri in (text_of(entry.get("absolute_url")), text_of(entry.get("coco_url")), image.name):
        for prefix, (folder, resolver) in prefixes.items():
            rest = uri.removeprefix(prefix)
            if rest != uri:
                match = resolver.find(rest.partition("?")[0].lstrip("/"))
                return folder / match.path if match.path else None
    return None


def _literal(image: LabelledImage, folder: Path) -> Path | None:
    for name in (*image.other_names, image.name) if image.entry is not None else (image.name,):
        if not leaves_folder(name):
            for path in (name, slashed(name)):
                if is_there(folder / path, Path.is_file):
                    return folder / path
    return None


def _match(image: LabelledImage, resolver: Resolver, folder: str) -> Match:
    matches = [resolver.find(name, near=folder) for name in (image.name, *image.other_names)]
    unclear = (match for match in matches if "could be" in match.problem)
    return next((match for match in matches if match.path), next(unclear, matches[0]))


def _problem(name: str, match: Match, folder: Path) -> str:
    if "://" in name:
        return f"is a URL, and {folder} has no such file; add the image, or say where it is with --url PREFIX=DIR"
    if leaves_folder(name) and "mean" not in match.problem and "could be" not in match.problem:
        return "is outside the folder of the images, and no file below that has the end of its path"
    said = match.problem.removeprefix("there is no such file").removeprefix("; ")
    return f"there is no file {folder / slashed(name)}" + (f"; {said}" if said else "")
