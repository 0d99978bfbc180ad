"""Forms with a file of annotations for each image: which image such a file belongs to."""

import posixpath
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from sightline.importers.files import is_there
from sightline.importers.model import IMAGE_SUFFIXES, Format, Imported, ImportFault, LabelledImage, Notes, is_image
from sightline.importers.names import folded, leaves_folder, slashed

LOOKED_AT = 20  # files of a folder, to tell its form: tools put others beside
FORMATS = (Format.VOC, Format.LABELME)  # whose images have the path of their file as `id`
RENAMED = "{count:file|files} of annotations given to the image that is called alike, not to the one named inside"


def names_for(annotation: str, *named: str) -> tuple[str, ...]:
    """Names for the image of an annotation file: what the file says, relative to itself; the same; its own name."""
    own = PurePosixPath(annotation).with_suffix("")
    said = [name for name in named if name]
    near = [posixpath.normpath(posixpath.join(own.parent, slashed(name))) for name in said[:1]]
    listed = (*(name for name in near if not leaves_folder(name)), *said, own.as_posix(), own.name)
    return tuple(dict.fromkeys(listed))


def folder_of(imported: Imported, image: LabelledImage) -> str:
    """The folder of an image's file of annotations; empty for forms that have none."""
    return posixpath.dirname(str(image.id)) if imported.format in FORMATS else ""


def paired(imported: Imported, files: Sequence[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The images that the files of annotations belong to, which name `files`, and what was noticed.

    One that is called like the file of annotations, and is next to it or to the named one, is meant rather than that:
    who renames or copies both leaves the old name inside. ImportFault if several files belong to one image.
    """
    if imported.format not in FORMATS:
        return list(files), ()
    notes, faults, found, owners = Notes(), list[str](), list[Path](), dict[Path, object]()
    for image, file in zip(imported.images, files, strict=True):
        own = _called_like(imported.folder / str(image.id), file)
        if own:
            notes.count(RENAMED)
        found.append(own or file)
        first = owners.setdefault(found[-1], image.id)
        if first != image.id:
            faults.append(f"{found[-1]} is the image of {first} and of {image.id}")
    if faults:
        fix = "keep one file of annotations for each image, or correct the names of images in them"
        raise ImportFault(f"{imported.source}: several files of annotations are of the same image", faults, fix=fix)
    return found, notes.all()


def _called_like(annotation: Path, named: Path) -> Path | None:
    """The image that has the name of its file of annotations, if the named one has another."""
    if folded(annotation.stem) in (folded(named.stem), folded(named.name)):
        return None
    suffixes = dict.fromkeys((named.suffix, *sorted(IMAGE_SUFFIXES), *sorted(map(str.upper, IMAGE_SUFFIXES)), ""))
    names = [f"{annotation.stem}{suffix}" for suffix in suffixes]
    places = (place / name for place in (annotation.parent, named.parent) for name in names)
    return next((file for file in places if is_image(file) and is_there(file, Path.is_file)), None)
