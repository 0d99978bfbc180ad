"""Recognises the form of an export, and reads it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sightline.importers import (
    coco,
    createml,
    custom_vision,
    cvat,
    folders,
    label_studio,
    labelme,
    supervisely,
    table,
    via,
    voc,
    yolo,
)
from sightline.importers.files import images_in, is_packed, read_json, subfolders, walk
from sightline.importers.model import TITLES, Format, Imported, ImportFault, in_order, is_image, split_of

EXPECTED = (
    "a COCO file; a folder per class; YOLO's data.yaml or its folder; a folder of Pascal VOC's XML files; a CSV file; "
    "JSON of Label Studio, Custom Vision, LabelMe, VIA, Supervisely or CreateML; XML of CVAT"
)


def read(source: Path, *, form: Format | None = None, images: Path | None = None) -> Imported:
    """The export in a file or folder. Without `form`, its content decides.

    Images are relative to `images`, by default the export's folder. ImportFault says what is wrong, with every fault.
    """
    if not source.exists():
        raise ImportFault(f"there is no file or folder {source}", fix="check the path")
    if images is not None and not images.is_dir():
        raise ImportFault(f"there is no folder {images}", fix="check the path after --images")
    found, file = (form, _main_file(source, form)) if form else recognise(source)
    by_split = _of_splits(source) if file == source and source.is_dir() and found in _APART else {}
    imported = _merged(source, found, by_split) if by_split else _readers()[found](file, images)
    if not imported.images and not imported.documents:
        raise ImportFault(f"{source} was read as {TITLES[found]}, but names no images")
    folder = images or imported.folder
    if images is None and source.is_dir() and file != source and found in _APART:
        folder = source
    return replace(imported, source=source, folder=folder)


_APART = (
    Format.CUSTOM_VISION,
    Format.LABEL_STUDIO,
    Format.CVAT,
    Format.CSV,
    Format.VIA,
    Format.CREATEML,
)  # one file, images anywhere in the folder


def _readers() -> dict[Format, Callable[[Path, Path | None], Imported]]:
    return {
        Format.COCO: coco.read,
        Format.FOLDERS: lambda source, _: folders.read(source),
        Format.YOLO: yolo.read,
        Format.VOC: lambda source, _: voc.read(source),
        Format.CUSTOM_VISION: lambda source, _: custom_vision.read(source),
        Format.LABEL_STUDIO: lambda source, _: label_studio.read(source),
        Format.CVAT: lambda source, _: cvat.read(source),
        Format.LABELME: lambda source, _: labelme.read(source),
        Format.VIA: lambda source, _: via.read(source),
        Format.SUPERVISELY: lambda source, _: supervisely.read(source),
        Format.CREATEML: lambda source, _: createml.read(source),
        Format.CSV: lambda source, _: table.read(source),
    }


def recognise(source: Path) -> tuple[Format, Path]:
    """The form of an export and the file or folder to read; ImportFault if it has none of the known forms."""
    found = _of_file(source) if source.is_file() else _of_folder(source)
    if found is None:
        content, fix = _content(source)
        raise ImportFault(f"{source} is in no form that is known here: {content}", fix=fix or f"name {EXPECTED}")
    return found


def _of_file(file: Path) -> tuple[Format, Path] | None:
    match file.suffix.lower():
        case ".json":
            content = read_json(file)
            form = _of_json(content) or _of_one_image(content) or (Format.COCO if coco.may_be_coco(content) else None)
            return (form, file) if form else None
        case ".csv" | ".tsv":
            return Format.CSV, file
        case ".yaml" | ".yml":
            return Format.YOLO, file
        case ".xml":
            return (Format.CVAT if cvat.looks_like(file) else Format.VOC), file
        case _ if is_packed(file):
            raise ImportFault(f"{file} is packed", fix="unpack it, and name the folder")
        case _:
            return None


def _of_one_image(content: object) -> Format | None:
    return Format.LABELME if labelme.is_labelme(content) else None


def _of_json(content: object) -> Format | None:
    if coco.is_coco(content):
        return Format.COCO
    if custom_vision.entries(content):
        return Format.CUSTOM_VISION
    if via.entries(content):
        return Format.VIA
    if createml.entries(content):
        return Format.CREATEML
    return Format.LABEL_STUDIO if label_studio.tasks(content) else None


def _of_folder(folder: Path) -> tuple[Format, Path] | None:
    if coco.files_in(folder):
        return Format.COCO, folder
    if yolo.yaml_of(folder):
        return Format.YOLO, folder
    single = _annotation_files(folder)
    if len(single) > 1:
        listed = ", ".join(f"{file.name} ({TITLES[form]})" for form, file in single[:5])
        raise ImportFault(f"{folder} has several files that could be meant: {listed}", fix="name one of them")
    if single:
        return single[0]
    if by_split := _of_splits(folder):
        return next(form for form, _ in by_split.values()), folder
    if supervisely.looks_like(folder):
        return Format.SUPERVISELY, folder
    if labelme.looks_like(folder):
        return Format.LABELME, folder
    if yolo.looks_like(folder):
        return Format.YOLO, folder
    if voc.looks_like(folder):
        return Format.VOC, folder
    return (Format.FOLDERS, folder) if folders.looks_like(folder) else None


def _annotation_files(folder: Path) -> list[tuple[Format, Path]]:
    """The files in a folder that annotate all images, each with its form."""
    return [(form, file) for file in sorted(folder.iterdir()) if (form := _of_annotation_file(file))]


def _of_splits(folder: Path) -> dict[str, tuple[Format, Path]]:
    """The file of each split's folder, as Roboflow exports most forms; nothing if they differ in form."""
    places = [one for one in subfolders(folder) if split_of(one.name)]
    found = {one.name: files[0] for one in places if len(files := _annotation_files(one)) == 1}
    return found if len({form for form, _ in found.values()}) == 1 else {}


def _merged(folder: Path, form: Format, by_split: Mapping[str, tuple[Format, Path]]) -> Imported:
    """The files of all splits as one export, whose names are relative to the folder."""
    parts = {place: _readers()[form](file, None) for place, (_, file) in by_split.items()}
    images = tuple(
        replace(
            image,
            name=f"{place}/{image.name}",
            other_names=(*(f"{place}/{name}" for name in image.other_names), image.name),
            split=split_of(place),
        )
        for place, part in parts.items()
        for image in part.images
    )
    if len({part.detection for part in parts.values()}) > 1:
        raise ImportFault(f"{folder}: only some of its splits have boxes", fix="name one split's folder")
    first = next(iter(parts.values()))
    notes = dict.fromkeys(f"{place}: {note}" for place, part in parts.items() for note in part.notes)
    categories = in_order(images, list(dict.fromkeys(name for part in parts.values() for name in part.categories)))
    return replace(first, source=folder, folder=folder, images=images, categories=categories, notes=tuple(notes))


def _of_annotation_file(file: Path) -> Format | None:
    """The form of a file in a folder, if it is one of those that annotate all images."""
    if not file.is_file():
        return None
    try:
        if file.suffix.lower() == ".json":
            return _of_json(read_json(file))
        if file.suffix.lower() == ".xml":
            return Format.CVAT if cvat.looks_like(file) else None
        if file.suffix.lower() in (".csv", ".tsv"):
            table.read(file)
            return Format.CSV
    except ImportFault:
        return None
    return None


def _main_file(source: Path, form: Format) -> Path:
    """The file to read in a folder, for the forms that are one file."""
    if source.is_file() or form not in _APART:
        return source
    found = [file for file in sorted(source.iterdir()) if _of_annotation_file(file) is form]
    if not found and any(each is form for each, _ in _of_splits(source).values()):
        return source
    if len(found) != 1:
        raise ImportFault(f"{source} has {len(found)} files of {TITLES[form]}", fix="name the file")
    return found[0]


def _content(source: Path) -> tuple[str, str]:
    """What is there instead, and what to do about it, unless that is to name one of the known forms."""
    if source.is_file() and is_image(source):
        return "one image", "name the folder that has a folder per class"
    if source.is_file():
        return _content_of_file(source), ""
    if packed := folders.packed_in(source):
        return f"it has {', '.join(packed[:5])}", "unpack it, and name the folder"
    count = len(images_in(source))
    if count and all("/" not in name for name in walk(source) if is_image(Path(name))):
        one = count == 1
        content = f"{count} {'image' if one else 'images'} without annotations, in no folders"
        return content, "put the images of each class in a folder with its name, or name the file of annotations"
    if not count and (unread := folders.unread_in(source)):
        return f"it has {unread}, which cannot be read here", "convert them to JPEG or PNG"
    kinds = sorted({Path(name).suffix.lower() or "no suffix" for name in walk(source)})
    return (f"it has files of these kinds: {', '.join(kinds[:10])}" if kinds else "it is empty"), ""


def _content_of_file(file: Path) -> str:
    if file.suffix.lower() != ".json":
        return f"a {file.suffix or 'nameless'} file"
    content = read_json(file)
    if isinstance(content, dict):
        keys: list[str] = [str(key) for key in content]
        return f"JSON with {', '.join(keys[:8]) or 'nothing'}" + (", …" if len(keys) > 8 else "")
    return f"JSON with a list of {len(content)}" if isinstance(content, list) else "JSON with a single value"
