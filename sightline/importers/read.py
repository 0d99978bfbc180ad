"""Reads an export of any form."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sightline.importers import (
    coco,
    createml,
    custom_vision,
    cvat,
    datumaro,
    fiftyone,
    folders,
    label_studio,
    labelme,
    lines,
    scalabel,
    supervisely,
    table,
    via,
    voc,
    vott,
    yolo,
)
from sightline.importers.model import TITLES, Format, Imported, ImportFault, in_order
from sightline.importers.recognition import Part, not_read, of_annotation_file, of_splits, recognise


def read(source: Path, *, form: Format | None = None, images: Path | None = None) -> Imported:
    """The export in a file or folder. Without `form`, its content decides.

    Images are relative to `images`, by default the export's folder. ImportFault says what is wrong, with every fault.
    """
    if not source.exists():
        raise ImportFault(f"there is no file or folder {source}", fix="check the path")
    if images is not None and not images.is_dir():
        raise ImportFault(f"there is no folder {images}", fix="check the path after --images")
    found, file = (form, _main_file(source, form)) if form else recognise(source)
    if file.is_dir() and file != source:
        return read(file, form=found, images=images)
    parts = of_splits(source) if file == source and source.is_dir() and found in _APART else []
    imported = _merged(source, found, parts) if parts else _readers()[found](file, images)
    if not imported.images and not imported.documents:
        raise ImportFault(f"{source} was read as {TITLES[found]}, but names no images")
    if not imported.documents and not any(image.labels or image.boxes for image in imported.images):
        problem = f"{source} was read as {TITLES[found]}, but none of its images has a label or a box"
        raise ImportFault(problem, imported.notes, fix="name another form with --format, or annotate the images")
    if form is None and found is Format.FOLDERS:
        imported = replace(imported, notes=(*imported.notes, *not_read(source)))
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
    Format.VOTT,
    Format.CREATEML,
    Format.FIFTYONE,
    Format.SCALABEL,
    Format.LINES,
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
        Format.VOTT: lambda source, _: vott.read(source),
        Format.SUPERVISELY: lambda source, _: supervisely.read(source),
        Format.CREATEML: lambda source, _: createml.read(source),
        Format.DATUMARO: lambda source, _: datumaro.read(source),
        Format.FIFTYONE: lambda source, _: fiftyone.read(source),
        Format.SCALABEL: lambda source, _: scalabel.read(source),
        Format.LINES: lambda source, _: lines.read(source),
        Format.CSV: lambda source, _: table.read(source),
    }


def _merged(folder: Path, form: Format, listed: Sequence[Part]) -> Imported:
    """The files of all splits as one export, whose names are relative to the folder."""
    parts = [(one, _readers()[form](one.file, None)) for one in listed]
    images = tuple(
        replace(
            image,
            name=f"{one.prefix}{image.name}",
            other_names=(*(f"{one.prefix}{name}" for name in image.other_names), image.name),
            split=one.split,
        )
        for one, part in parts
        for image in part.images
    )
    if len({part.detection for _, part in parts}) > 1:
        raise ImportFault(f"{folder}: only some of its splits have boxes", fix="choose one split's folder")
    notes = dict.fromkeys(f"{one.prefix or one.file.name}: {note}" for one, part in parts for note in part.notes)
    declared = dict.fromkeys(name for _, part in parts for name in part.categories)
    categories = in_order(images, list(declared))
    return replace(parts[0][1], source=folder, folder=folder, images=images, categories=categories, notes=tuple(notes))


def _main_file(source: Path, form: Format) -> Path:
    """The file to read in a folder, for the forms that are one file."""
    if source.is_file() or form not in _APART:
        return source
    found = [file for file in sorted(source.iterdir()) if of_annotation_file(file) is form]
    if not found and form is Format.VOTT:
        return source  # which may have a file for each image instead
    if len(found) != 1 and any(part.form is form for part in of_splits(source)):
        return source
    if len(found) != 1:
        raise ImportFault(f"{source} has {len(found)} files of {TITLES[form]}", fix="choose one of them")
    return found[0]
