"""Recognises the form of an export by its content."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

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
from sightline.importers.files import (
    files_of,
    has_images,
    images_in,
    is_hidden,
    is_packed,
    read_json,
    read_text,
    read_xml,
    subfolders,
    walk,
)
from sightline.importers.model import TITLES, Format, ImportFault, is_image, split_of
from sightline.importers.names import folded
from sightline.importers.yolo_labels import texts_of_images
from sightline.plurals import counted

EXPECTED = (
    "a COCO file; a folder per class; YOLO's data.yaml, obj.data or their folder; a folder of Pascal VOC's XML files; "
    "a CSV or JSON Lines file; JSON of Label Studio, Custom Vision, LabelMe, VIA, VoTT, Supervisely, CreateML, "
    "Datumaro, FiftyOne or Scalabel; XML of CVAT"
)
MOST_FAULTS = 10  # of files that cannot be parsed
FEW = 10  # files beside the one of annotations
DATA = {
    *(".json", ".jsonl", ".ndjson", ".manifest", ".csv", ".tsv", ".xml", ".xlsx", ".xls"),
    *(".parquet", ".arrow", ".tfrecord", ".record"),
}


class Part(NamedTuple):
    """One of several files of an export."""

    prefix: str  # the folder that its names are relative to, with a slash, or nothing
    split: str
    form: Format
    file: Path


def recognise(source: Path) -> tuple[Format, Path]:
    """The form of an export and the file or folder to read; ImportFault if it has none of the known forms."""
    found = _of_file(source) if source.is_file() else _of_folder(source)
    if found == (Format.FOLDERS, source) and _data_in(source) and folders.say_nothing(source):
        found = None
    if found is None:
        content, fix = _content(source)
        message = f"The format of {source} was not recognised: {content}"
        faults = _unreadable(source, walk(source)) if source.is_dir() else []
        raise ImportFault(message, faults, fix=fix or f"choose {EXPECTED}")
    return found


def of_splits(folder: Path) -> list[Part]:
    """The file of each split: in folders, as Roboflow exports them, or side by side; nothing if they differ in form.

    ImportFault if a folder of a split has several, or if one may be meant but cannot be read.
    """
    listed = {one: _annotation_files(one) for one in subfolders(folder) if split_of(one.name)}
    found = [Part(f"{one.name}/", split_of(one.name), *files[0]) for one, files in listed.items() if len(files) == 1]
    if found:
        for one, files in listed.items():
            _require_one(one, files)
    else:
        listed = {folder: _annotation_files(folder)}
        found = [Part("", _split_in(file), form, file) for form, file in listed[folder]]
        if len({part.split for part in found} - {""}) < len(found):
            return []
    if len({part.form for part in found}) != 1:
        return []
    _require_parsed(listed)
    return found


def of_annotation_file(file: Path) -> Format | None:
    """The form of a file in a folder, if it is one of those that annotate all images."""
    if not file.is_file():
        return None
    try:
        if file.suffix.lower() == ".json":
            return _of_json(read_json(file))
        if file.suffix.lower() == ".xml":
            return Format.CVAT if cvat.looks_like(file) else None
        if file.suffix.lower() in (".csv", ".tsv"):
            return _of_table(file)
        if file.suffix.lower() in lines.SUFFIXES:
            return Format.LINES if lines.looks_like(file) else None
    except ImportFault:
        return None
    return None


def not_read(folder: Path) -> list[str]:
    """What to say of the first files of annotations below a folder whose folders' names are the labels."""
    names = _data_in(folder)[:MOST_FAULTS]
    found = ((name, of_annotation_file(folder / name)) for name in names)
    listed = ", ".join(f"{name} ({TITLES[form]})" for name, form in found if form)
    notes = [f"not read, as the folders' names are the labels: {listed}"] if listed else []
    return notes + [f"not read: {fault}" for fault in _unreadable(folder, names)]


def _of_file(file: Path) -> tuple[Format, Path] | None:
    match file.suffix.lower():
        case ".json":
            content = read_json(file)
            form = _of_json(content) or _of_one_image(content) or (Format.COCO if coco.may_be_coco(content) else None)
            return (form, file) if form else None
        case ".csv" | ".tsv":
            return _of_table(file) or Format.CSV, file
        case suffix if suffix in lines.SUFFIXES:
            return Format.LINES, file
        case ".yaml" | ".yml" | ".data":
            return Format.YOLO, file
        case ".vott":  # a project, beside which is a file for each image
            return Format.VOTT, file.parent
        case ".xml":
            return (Format.CVAT if cvat.looks_like(file) else Format.VOC), file
        case _ if is_packed(file):
            raise ImportFault(f"{file} is packed", fix="unpack it, and choose the folder")
        case _:
            return None


def _of_table(file: Path) -> Format | None:
    """The form of a CSV file; None if its columns are not known."""
    try:
        head = table.rows_of(file)[0]
    except ImportFault:
        return None
    if via.is_table(head):
        return Format.VIA
    if label_studio.is_table(head):
        return Format.LABEL_STUDIO
    return Format.CSV if table.looks_like(file) else None


def _of_one_image(content: object) -> Format | None:
    if vott.is_asset(content):
        return Format.VOTT
    return Format.LABELME if labelme.is_labelme(content) else None


def _of_json(content: object) -> Format | None:
    """The form of a JSON file that annotates all images."""
    return next((form for form, found_in in _JSON.items() if found_in(content)), None)


_JSON: dict[Format, Callable[[object], object]] = {
    Format.COCO: coco.is_coco,
    Format.CUSTOM_VISION: custom_vision.entries,
    Format.VIA: via.entries,
    Format.VOTT: vott.entries,
    Format.CREATEML: createml.entries,
    Format.DATUMARO: datumaro.is_datumaro,
    Format.FIFTYONE: fiftyone.is_fiftyone,
    Format.SCALABEL: scalabel.frames,
    Format.LABEL_STUDIO: label_studio.tasks,
}


def _of_folder(folder: Path) -> tuple[Format, Path] | None:
    if coco.files_in(folder):
        return Format.COCO, folder
    if (file := yolo.yaml_of(folder)) and not _is_of_folders(folder, file):
        return Format.YOLO, folder
    if datumaro.files_in(folder):
        return Format.DATUMARO, folder
    single = _annotation_files(folder) or _annotation_file_beside(folder)
    if len(single) == 1:
        _require_parsed([folder], single[0][1].suffix)
        return single[0]
    if parts := of_splits(folder):
        return parts[0].form, folder
    _require_one(folder, single)
    if within := _in_only_folder(folder):
        return within
    return next(((form, folder) for form, looks_like in _LOOKS.items() if looks_like(folder)), None)


def _require_one(folder: Path, files: list[tuple[Format, Path]]) -> None:
    """ImportFault if there are several files that annotate all images."""
    if len(files) > 1:
        listed = ", ".join(f"{file.name} ({TITLES[form]})" for form, file in files[:5])
        raise ImportFault(f"{folder} has several files that could be meant: {listed}", fix="choose one of them")


def _require_parsed(folders: Iterable[Path], suffix: str = "") -> None:
    """ImportFault if a file in the folders of an export may annotate images, but is damaged or in another encoding."""
    for folder in folders:
        if faults := _faults(folder, [file.name for file in files_of(folder, suffix)], _PARSERS):
            fix = "mend the files, or move them elsewhere if they are not part of the export"
            raise ImportFault(f"{folder} has files that cannot be read", faults, fix=fix)


def _in_only_folder(folder: Path) -> tuple[Format, Path] | None:
    """The form of the folder that has everything, as archives often do, and where it is; None for a split or class."""
    listed = [one for one in folder.iterdir() if not is_hidden(one.name)]
    if len(listed) != 1 or not listed[0].is_dir() or split_of(listed[0].name):
        return None
    form, place = _of_folder(listed[0]) or (Format.FOLDERS, folder)
    return None if form is Format.FOLDERS else (form, place if place.is_dir() else listed[0])


_LOOKS: dict[Format, Callable[[Path], bool]] = {
    Format.SUPERVISELY: supervisely.looks_like,
    Format.LABELME: labelme.looks_like,
    Format.VOTT: vott.looks_like,
    Format.YOLO: yolo.looks_like,
    Format.VOC: voc.looks_like,
    Format.FOLDERS: folders.looks_like,
}  # of forms with many files of annotations, or none


def _is_of_folders(folder: Path, file: Path) -> bool:
    """Whether a yaml lists the classes of a folder per class: no image has a text file, and the names are the same."""
    if texts_of_images(folder) or not folders.looks_like(folder):
        return False
    try:
        listed = {folded(name) for name in yolo.names_of(file)}
        return {folded(name) for name in folders.read(folder).categories} <= listed
    except ImportFault:
        return False


def _annotation_files(folder: Path) -> list[tuple[Format, Path]]:
    """The files in a folder that annotate all images, each with its form."""
    return [(form, file) for file in files_of(folder) if (form := of_annotation_file(file))]


def _annotation_file_beside(folder: Path) -> list[tuple[Format, Path]]:
    """The file that annotates all images, if it is in a folder with few files and no image; empty if there are more."""
    places = [one for one in subfolders(folder) if len([*one.iterdir()]) <= FEW and not has_images(one)]
    found = [pair for place in places for pair in _annotation_files(place)]
    if len(found) != 1:
        return []
    _require_parsed(places)
    return found


def _split_in(file: Path) -> str:
    """The split that one of the words in the file's name says."""
    return next((split for word in re.split(r"[\W_]+", file.stem) if (split := split_of(word))), "")


def _content(source: Path) -> tuple[str, str]:
    """What is there instead, and what to do about it, unless that is to name one of the known forms."""
    if source.is_file() and is_image(source):
        return "one image", "choose the folder that has a folder per class"
    if source.is_file():
        return _content_of_file(source), ""
    if packed := folders.packed_in(source):
        return f"it has {', '.join(packed[:5])}", "unpack it, and choose the folder"
    if unknown := _data_in(source):
        listed = ", ".join(_with_content(source, name) for name in unknown[:3])
        listed += " and others" if len(unknown) > 3 else ""
        return f"it has {listed}, whose content is none of them", ""
    count = len(images_in(source))
    if count and all("/" not in name for name in walk(source) if is_image(Path(name))):
        content = f"{counted(count, 'image')} without annotations, in no folders"
        return content, "put the images of each class in a folder with its name, or add the file of annotations"
    if not count and (unread := folders.unread_in(source)):
        return f"it has {unread}, which cannot be read here", "convert them to JPEG or PNG"
    kinds = sorted({Path(name).suffix.lower() or "no suffix" for name in walk(source)})
    return (f"it has files of these kinds: {', '.join(kinds[:10])}" if kinds else "it is empty"), ""


def _data_in(folder: Path) -> list[str]:
    """The files below the folder that might be annotations."""
    return [name for name in walk(folder) if Path(name).suffix.lower() in DATA]


def _with_content(folder: Path, name: str) -> str:
    """The file's name, and what JSON it is."""
    try:
        return f"{name} ({_content_of_file(folder / name)})" if name.lower().endswith(".json") else name
    except ImportFault:
        return name


def _unreadable(folder: Path, names: Iterable[str]) -> list[str]:
    """Why files that might be annotations cannot be read."""
    readers = {".csv": table.read, ".tsv": table.read, **dict.fromkeys(lines.SUFFIXES, lines.read)}
    return _faults(folder, names, {**_PARSERS, **readers})


_PARSERS: dict[str, Callable[[Path], object]] = {
    ".json": read_json,
    ".xml": read_xml,
    ".csv": read_text,
    ".tsv": read_text,
    **dict.fromkeys(lines.SUFFIXES, lines.first),
}  # which ask for nothing but the syntax


def _faults(folder: Path, names: Iterable[str], readers: Mapping[str, Callable[[Path], object]]) -> list[str]:
    """What they raise, up to MOST_FAULTS."""
    faults: list[str] = []
    for name in names:
        try:
            if reader := readers.get(Path(name).suffix.lower()):
                reader(folder / name)
        except ImportFault as error:
            faults.append(": ".join((error.message, *error.faults[:1])))
        if len(faults) == MOST_FAULTS:
            break
    return faults


def _content_of_file(file: Path) -> str:
    if file.suffix.lower() != ".json":
        return f"a {file.suffix or 'nameless'} file"
    content = read_json(file)
    if isinstance(content, dict):
        keys: list[str] = [str(key) for key in content]
        return f"JSON with {', '.join(keys[:8]) or 'nothing'}" + (", …" if len(keys) > 8 else "")
    return f"JSON with a list of {len(content)}" if isinstance(content, list) else "JSON with a single value"
