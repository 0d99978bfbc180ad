"""COCO files, Azure's among them: one, or one per split in a folder. Their content is left to the service."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.importers.files import images_in, read_json, subfolders
from sightline.importers.model import (
    Box,
    Document,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Notes,
    mapping,
    number_of,
    objects,
    split_of,
    text_of,
)

STORE = "s3://"
_WORDS = re.compile(r"[a-z]+")


def is_coco(content: object) -> bool:
    """Whether a JSON value is a COCO file, possibly a faulty one."""
    found = mapping(content)
    return isinstance(found.get("images"), list) and ("annotations" in found or "categories" in found)


def files_in(folder: Path) -> list[Path]:
    """The COCO files in a folder, in its `annotations` folder, or in those of its splits."""
    return list(_contents(folder))


def _contents(folder: Path) -> dict[Path, object]:
    """Those files, each with what it holds."""
    places = [folder, *(one for one in subfolders(folder) if one.name.lower() == "annotations" or split_of(one.name))]
    parsed = ((file, _parsed(file)) for place in places for file in sorted(place.glob("*.json")))
    found = {file: content for file, content in parsed if is_coco(content)}
    return {file: content for file, content in found.items() if file.name.startswith("instances")} or found


def read(source: Path, images: Path | None = None) -> Imported:
    """A COCO file, or a folder with one or with one per split; ImportFault if it is unclear which."""
    contents = {source: read_json(source)} if source.is_file() else _contents(source)
    files = list(contents)
    splits = [_split_of(file, source) for file in files]
    if not files:
        raise ImportFault(f"{source} has no COCO file")
    if len(files) > 1 and (len(set(splits)) < len(files) or "" in splits):
        listed = ", ".join(str(file) for file in files[:5])
        raise ImportFault(f"{source} has {len(files)} COCO files: {listed}", fix="name one of them")
    folder = images or (_folder_of(source) if source.is_file() else source)
    notes, documents, names = Notes(), list[Document](), dict[str, None]()
    for file, split in zip(files, splits if len(files) > 1 else [""], strict=True):
        document, declared = _document(file, contents[file], split, folder, notes)
        documents.append(document)
        names |= dict.fromkeys(declared)
    listed_images = tuple(image for document in documents for image in document.images)
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


def _parsed(file: Path) -> object:
    try:
        return read_json(file)
    except ImportFault:
        return None


def _split_of(file: Path, source: Path) -> str:
    """The split that the file's name or its folder's says."""
    folders = [] if file == source else [file.parent.name]
    words = [*_WORDS.findall(file.stem.lower()), *(folder.lower() for folder in folders)]
    return next((split for word in words if (split := split_of(word))), "")


def _document(file: Path, content: Any, split: str, folder: Path, notes: Notes) -> tuple[Document, list[str]]:
    if not isinstance(content, dict):
        raise ImportFault(f"{file} is not a COCO file: its top level is not an object")
    if "annotations" not in content:
        notes.add(f"{file.name} has no `annotations`: its images count as unlabelled")
    names = {text_of(entry.get("id")): text_of(entry.get("name")) for entry in objects(content.get("categories"))}
    marks: dict[str, list[Box]] = {}
    for entry in objects(content.get("annotations")):
        label = names.get(text_of(entry.get("category_id")))
        if label:
            marks.setdefault(text_of(entry.get("image_id")), []).append(_box(label, entry.get("bbox")))
    images = tuple(_images(content, file, split, folder, marks))
    used = {box.label for boxes in marks.values() for box in boxes}
    if used and (unused := [name for name in names.values() if name not in used]):
        notes.add(f"no annotation has the {_categories(unused)}, which the service leaves out")
    return Document(file, split, content, images), list(names.values())


def _categories(names: list[str]) -> str:
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"category {listed}" if len(names) == 1 else f"{len(names)} categories {listed}"


def _box(label: str, bbox: object) -> Box:
    """The box for counting; the service judges its numbers."""
    listed: list[object] = list(bbox) if isinstance(bbox, list) else []
    numbers = [number_of(value) or 0.0 for value in listed[:4]]
    one, two, three, four = (*numbers, 0.0, 0.0, 0.0, 0.0)[:4]
    return Box(label, one, two, three, four)


def _images(
    content: dict[str, Any], file: Path, split: str, folder: Path, marks: dict[str, list[Box]]
) -> Iterator[LabelledImage]:
    """The images that are not in the store; those of a document in a folder below are looked for there first."""
    try:
        below = file.parent.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        below = "."
    for entry in objects(content.get("images")):
        uris = [text_of(entry.get(field)) for field in ("absolute_url", "coco_url", "file_name")]
        name = text_of(entry.get("file_name")) or uris[0] or uris[1]
        if not name or any(uri.startswith(STORE) for uri in uris):
            continue
        boxes = tuple(marks.get(text_of(entry.get("id")), ()))
        yield LabelledImage(
            name,
            boxes=boxes,
            split=split,
            other_names=(f"{below}/{name}",) if below != "." else (),
            id=entry.get("id"),
            entry=entry,
        )
