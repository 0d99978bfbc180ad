"""COCO files, Azure's among them: one, or one per split in a folder. Their content is left to the service."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sightline.importers.files import files_of, images_in, is_there, read_json, subfolders
from sightline.importers.masks import around_segmentation
from sightline.importers.model import (
    Box,
    Document,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Notes,
    Xywh,
    exact_number_of,
    mapping,
    number_of,
    objects,
    split_of,
    text_of,
)
from sightline.importers.names import leaves_folder, slashed
from sightline.plurals import counted

STORE = "s3://"
URIS = ("absolute_url", "coco_url")  # of an image; the service follows those in the store
SECTIONS = ("images", "annotations", "categories")
_WORDS = re.compile(r"[a-z]+")


class _Read(NamedTuple):
    """A JSON file's content, and what the service would not take, a sentence each."""

    content: object
    oddities: list[str]


def is_coco(content: object) -> bool:
    """Whether a JSON value is a COCO file, possibly a faulty one."""
    found = mapping(content)
    return isinstance(found.get("images"), list) and ("annotations" in found or "categories" in found)


def may_be_coco(content: object) -> bool:
    """Whether a JSON value has any of the sections that COCO files have."""
    return any(section in mapping(content) for section in SECTIONS)


def files_in(folder: Path) -> list[Path]:
    """The COCO files in a folder, in its `annotations` folder, or in those of its splits."""
    return list(_contents(folder))


def _contents(folder: Path) -> dict[Path, _Read]:
    """Those files, each with what it holds; ImportFault if one may be among them, but cannot be read."""
    places = [folder, *(one for one in subfolders(folder) if one.name.lower() == "annotations" or split_of(one.name))]
    found, faults = dict[Path, _Read](), dict[Path, ImportFault]()
    for file in (file for place in places for file in files_of(place, ".json")):
        try:
            if is_coco((read := _read(file)).content):
                found[file] = read
        except ImportFault as fault:
            faults[file] = fault
    instances = {file: read for file, read in found.items() if _is_of_instances(file)}
    if damaged := [fault for file, fault in faults.items() if found and (not instances or _is_of_instances(file))]:
        raise damaged[0]
    return instances or found


def _is_of_instances(file: Path) -> bool:
    """Whether the file is one of those in COCO's releases that have boxes."""
    return file.name.startswith("instances")


def read(source: Path, images: Path | None = None) -> Imported:
    """A COCO file, or a folder with one or with one per split; ImportFault if it is unclear which."""
    contents = {source: _read(source)} if source.is_file() else _contents(source)
    files = list(contents)
    splits = [_split_of(file, source) for file in files]
    if not files:
        raise ImportFault(f"{source} has no COCO file", fix="leave out --format, or name the file or its folder")
    if len(files) > 1 and (len(set(splits)) < len(files) or "" in splits):
        listed = ", ".join(str(file) for file in files[:5])
        raise ImportFault(f"{source} has {len(files)} COCO files: {listed}", fix="choose one of them")
    folder = images or (_folder_of(source) if source.is_file() else source)
    notes, documents, names = Notes(), list[Document](), dict[str, None]()
    for file, split in zip(files, splits if len(files) > 1 else [""], strict=True):
        document, declared = _document(file, contents[file], split, folder, notes)
        documents.append(document)
        names |= dict.fromkeys(declared)
    listed_images = tuple(image for document in documents for image in document.images)
    used = {box.label for image in listed_images for box in image.boxes}
    if used and (unused := [name for name in names if name and name not in used]):
        notes.add(f"no annotation has the {_categories(unused)}, which the service leaves out")
    detection = any(
        entry.get("bbox") or entry.get("segmentation")
        for document in documents
        for entry in objects(document.content.get("annotations"))
    )
    return Imported(
        Format.COCO, source, folder, listed_images, tuple(names), detection, notes.all(), documents=tuple(documents)
    )


def _folder_of(file: Path) -> Path:
    """The folder of a file's images: its own, or, if it is in one called `annotations`, the one above."""
    above = file.parent.name.lower() == "annotations" and not images_in(file.parent)
    return file.parent.parent if above else file.parent


def _read(file: Path) -> _Read:
    oddities: list[str] = []
    return _Read(read_json(file, oddities), oddities)


def _split_of(file: Path, source: Path) -> str:
    """The split that the file's name or its folder's says."""
    folders = [] if file == source else [file.parent.name]
    words = [*_WORDS.findall(file.stem.lower()), *(folder.lower() for folder in folders)]
    return next((split for word in words if (split := split_of(word))), "")


def _document(file: Path, read: _Read, split: str, folder: Path, notes: Notes) -> tuple[Document, list[str]]:
    """The file, and the names of its categories."""
    content = _checked(file, read.content)
    for oddity in read.oddities:
        notes.add(oddity)
    if "annotations" not in content:
        notes.add(f"{file.name} has no `annotations`: its images count as unlabelled")
    outlined = _outlined(objects(content.get("annotations")), notes)
    names = {key_of(one.get("id")): text_of(one.get("name")) for one in objects(content.get("categories"))}
    marks = _marks(content, names, outlined)
    images = tuple(_images(content, file, split, folder, marks, notes))
    unnamed = sum(
        not text_of(entry.get("file_name") or entry.get("absolute_url") or entry.get("coco_url"))
        for entry in objects(content.get("images"))
    )
    if unnamed:
        notes.add(f"left out: {counted(unnamed, 'image')} of {file.name} without a file_name")
    named_by = {key_of(entry.get("category_id")) for entry in objects(content.get("annotations"))}
    if nameless := [f"category {key} has no name" for key, name in names.items() if not name and key in named_by]:
        raise ImportFault(f"{file} has categories without names", nameless, fix="give each a `name`")
    document = Document(file, split, content, images, changed=bool(read.oddities or outlined), outlined=outlined)
    return document, list(names.values())


def _checked(file: Path, content: object) -> dict[str, Any]:
    """The content, if its sections are lists of objects; ImportFault with every one that is not."""
    if not isinstance(content, dict):
        raise ImportFault(f"{file} is not a COCO file: its top level is not an object")
    found: dict[str, Any] = content
    faults: list[str] = []
    for section in SECTIONS:
        listed = found.get(section)
        if not isinstance(listed, list):
            if listed is not None or section == "images":
                faults.append(f"`{section}` is {_kind_of(listed)}, not a list")
        elif strange := sum(not isinstance(one, dict) for one in listed):
            faults.append(
                counted(strange, f"entry of `{section}` is not an object", f"entries of `{section}` are not objects")
            )
    if not found.get("categories") and any("category_id" in one for one in objects(found.get("annotations"))):
        faults.append("`categories` lists nothing")
    if faults:
        fix = "write `images`, `annotations` and `categories` as lists of objects, as COCO defines them"
        raise ImportFault(f"{file} is not a COCO file", faults, fix=fix)
    return found


def _kind_of(value: object) -> str:
    return "missing" if value is None else "an object" if isinstance(value, dict) else "a single value"


def _categories(names: list[str]) -> str:
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"category {listed}" if len(names) == 1 else f"{len(names)} categories {listed}"


def _outlined(annotations: list[dict[str, Any]], notes: Notes) -> dict[int, Xywh]:
    """The boxes around the segmentation of annotations without a bbox, by the entries' id()."""
    found: dict[int, Xywh] = {}
    for entry in annotations:
        bbox = entry.get("bbox")
        if entry.get("segmentation") and (not bbox or (isinstance(bbox, list) and not any(bbox))):
            box = around_segmentation(entry["segmentation"])
            if box is not None:
                found[id(entry)] = box
                notes.count("{count:annotation has|annotations have} no box; the box around the outline is used")
    return found


def _marks(content: Mapping[str, Any], names: Mapping[str, str], outlined: Mapping[int, Xywh]) -> dict[str, list[Box]]:
    """The boxes by the key of their image, for counting; the service judges their numbers."""
    ids, labels = ids_of_images(objects(content.get("images"))), set(names.values())
    marks: dict[str, list[Box]] = {}
    for entry in objects(content.get("annotations")):
        image, category = entry.get("image_id"), key_of(entry.get("category_id"))
        label = names.get(category) or (category if category in labels else "")
        if label:
            box = outlined.get(id(entry)) or _box(entry.get("bbox"))
            marks.setdefault(key_of(ids.get(key_of(image), image)), []).append(Box(label, *box))
    return marks


def ids_of_images(images: Sequence[Mapping[str, Any]]) -> Mapping[str, object]:
    """The images' ids by the keys of what annotations may write: the id, a file_name, or the last part of one.

    Names that several images have mean none. The service reads them in the same way.
    """
    named = [(key_of(one.get("file_name")), one.get("id")) for one in images]
    lasts = [(slashed(name).rpartition("/")[2], id_) for name, id_ in named]
    by_last, by_name = _of_one(lasts), _of_one(named)
    return by_last | by_name | {key: id_ for _, id_ in named if (key := key_of(id_))}


def _of_one(named: Sequence[tuple[str, object]]) -> dict[str, object]:
    uses = Counter(name for name, _ in named)
    return {name: id_ for name, id_ in named if name and uses[name] == 1}


def key_of(value: object) -> str:
    """Equal for ids that mean the same to the service: `7`, `7.0`, `"7"` and `"007"`."""
    number = exact_number_of(value)
    return text_of(value) if number is None or number != int(number) else str(int(number))


def _box(bbox: object) -> Xywh:
    listed: list[object] = list(bbox) if isinstance(bbox, list) else []
    numbers = [number_of(value) or 0.0 for value in listed[:4]]
    one, two, three, four = (*numbers, 0.0, 0.0, 0.0, 0.0)[:4]
    return one, two, three, four


def _images(
    content: dict[str, Any], file: Path, split: str, folder: Path, marks: dict[str, list[Box]], notes: Notes
) -> Iterator[LabelledImage]:
    """The images that are not only in the store; those of a document in a folder below are looked for there first."""
    try:
        below = file.parent.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        below = "."
    for entry in objects(content.get("images")):
        uris = [text_of(entry.get(field)) for field in URIS]
        name = _name_of(entry.get("file_name")) or uris[0] or uris[1]
        other_names = (f"{below}/{name}",) if below != "." else ()
        if not name or name.startswith(STORE):
            continue
        if any(uri.startswith(STORE) for uri in uris):
            if not _is_local((*other_names, name), folder):
                continue
            notes.count("{count:image has|images have} an s3:// uri; it is ignored, as the file is here")
        boxes, id_ = tuple(marks.get(key_of(entry.get("id")), ())), entry.get("id")
        yield LabelledImage(name, boxes=boxes, split=split, other_names=other_names, id=id_, entry=entry)


def _name_of(value: object) -> str:
    """A file's name with the blanks around it, which may be part of it."""
    return value if isinstance(value, str) and value.strip() else text_of(value)


def _is_local(names: Iterable[str], folder: Path) -> bool:
    inside = (slashed(name) for name in names if not leaves_folder(name))
    return any(is_there(folder / name, Path.is_file) for name in inside)
