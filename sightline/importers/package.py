"""What is uploaded for an export: COCO files that the service reads, and exactly the images that they name."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from sightline.blob_keys import fault_of_key
from sightline.importers.coco import STORE, URIS, ids_of_images, key_of
from sightline.importers.image_files import ImagesUnresolved, Unresolved, files_of
from sightline.importers.model import (
    BoxForm,
    Document,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Xywh,
    is_image,
    number_of,
    objects,
    text_of,
)
from sightline.importers.names import folded, slashed
from sightline.importers.per_image import paired
from sightline.plurals import counted
from sightline.text import fault_of_text, replaced, shown

MAX_CATEGORY = 256  # characters of a category's name
Entry = dict[str, Any]  # of a COCO file

_PREFIX = f"uploads/{'0' * 40}/"  # as long as what the service puts before an upload's paths, or shorter


@dataclass(frozen=True, slots=True)
class Placed:
    """An image, its local file, and its path in the upload, which the uploaded COCO file has as its name."""

    image: LabelledImage
    file: Path
    path: str


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """A COCO file to upload: bytes, or a local file as it is."""

    path: str
    content: bytes | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Package:
    """An export whose images were found."""

    imported: Imported
    placed: tuple[Placed, ...]
    box_form: BoxForm  # of the boxes in COCO files
    excluded: frozenset[str] = frozenset()  # paths of images that belong to another part

    @property
    def included(self) -> tuple[Placed, ...]:
        """The images that are uploaded."""
        return tuple(placed for placed in self.placed if placed.path not in self.excluded)

    @property
    def size_bytes(self) -> int:
        """The size of the images."""
        return sum(file.stat().st_size for file in {placed.file for placed in self.included})

    @property
    def unnamed(self) -> list[str]:
        """The images beside these that the annotations do not name, as paths; none if splits were chosen."""
        files = [placed.file for placed in self.placed] if self.imported.whole else []
        named = {folded(str(file)) for file in files}
        beside = (file for folder in {file.parent for file in files} for file in folder.iterdir() if is_image(file))
        rest = (file for file in beside if folded(str(file)) not in named and file.is_file())
        return sorted(upload_path(file, self.imported.folder) for file in rest)

    def without(self, paths: Collection[str]) -> "Package":
        """The part without the images of these paths."""
        return replace(self, excluded=self.excluded | set(paths))

    def annotation_files(self, left_out: Collection[str] = ()) -> tuple[AnnotationFile, ...]:
        """The COCO files without the images whose paths in the upload are given."""
        gone = self.excluded | set(left_out)
        if not self.imported.documents:
            return (AnnotationFile("annotations.json", _encoded(_coco(self, gone))),)
        paths = {id(placed.image.entry): placed.path for placed in self.placed}
        names = _document_names(self.imported)
        return tuple(
            _document(document, name, paths, gone, self.box_form)
            for document, name in zip(self.imported.documents, names, strict=True)
        )


def pack(
    imported: Imported, *, boxes: BoxForm | None = None, url_prefixes: Mapping[str, Path] | None = None
) -> Package:
    """Finds every image's file; ImagesUnresolved with all that were not found.

    `url_prefixes` maps the beginnings of URLs to folders, whose files they stand for. `boxes` overrides what the four
    numbers of a box are.
    """
    if boxes is not None and imported.format not in (Format.COCO, Format.CSV):
        raise ImportFault(f"what the numbers of a box are is known for {imported.format}; leave out --boxes")
    if boxes:
        imported = replace(imported, images=tuple(replace(image, box_form=boxes) for image in imported.images))
    files = files_of(imported, url_prefixes or {})
    placed: list[Placed] = []
    taken: dict[str, Path] = {}
    illegal: list[Unresolved] = []
    found, notes = paired(imported, [files[image.name, image.split] for image in imported.images])
    for image, file in zip(imported.images, found, strict=True):
        path = upload_path(file, imported.folder)
        while taken.setdefault(path, file) != file:
            path = f"_{path}"
        placed.append(Placed(image, file, path))
        if fault := fault_of_upload(file, path):
            illegal.append(Unresolved(image.id, image.name, fault))
    if illegal:
        fix = "rename or remove these files" if imported.format is Format.FOLDERS else ""
        raise ImagesUnresolved(imported.source, tuple(illegal), fix=fix)
    _check_names(imported)
    if not boxes:
        _check_corners(imported)
    _check_finite(imported)
    return Package(replace(imported, notes=(*imported.notes, *notes)), tuple(placed), boxes or BoxForm.XYWH)


def _check_names(imported: Imported) -> None:
    """ImportFault with every category that has a name which the service refuses."""
    used = [name for name, (images, _) in imported.counts.items() if images]
    faults = [f"'{shown(name.strip(), '')}' {fault}" for name in used if (fault := _fault_of_category(name.strip()))]
    if faults:
        fix = "correct the names in the annotations, or those of the folders"
        raise ImportFault(f"{imported.source}: names of categories cannot be used", faults, fix=fix)


def _fault_of_category(name: str) -> str:
    if len(name) > MAX_CATEGORY:
        return f"has more than {MAX_CATEGORY} characters"
    return fault_of_text(name)


def upload_path(file: Path, folder: Path) -> str:
    """A path that the service accepts: relative, with `/`, without characters that are not seen."""
    path = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name
    return replaced(slashed(path), "_")


def fault_of_upload(file: Path, path: str) -> str:
    """Why a file cannot be uploaded under a path; empty if it can."""
    if not file.is_file():
        return f"{file} is a link to a file that does not exist"
    fault = fault_of_key(path) or fault_of_key(f"{_PREFIX}{path}")
    return f"the path {fault}, which the store does not accept; rename the file" if fault else ""


def _check_corners(imported: Imported) -> None:
    """ImportFault if what should be the second corner is often not right of and below the first."""
    drawn = [box for image in imported.images if image.box_form is BoxForm.XYXY for box in image.boxes]
    wrong = sum(box.width <= box.x or box.height <= box.y for box in drawn)
    if wrong > 0.1 * len(drawn):
        boxes = counted(len(drawn), "box has", "boxes have")
        raise ImportFault(
            f"{imported.source}: {wrong} of {boxes} a second corner left of or above the first",
            fix="if the numbers are left, top, width and height, have them read so (--boxes xywh); "
            "if they are corners, say so (--boxes xyxy)",
        )


def _check_finite(imported: Imported) -> None:
    """ImportFault with every box whose numbers are too large to be calculated with."""
    images = imported.images if not imported.documents else ()  # the service judges those of COCO files
    drawn = ((image, box) for image in images for box in image.boxes)
    faults = [
        f"{image.name}: {box.label}" for image, box in drawn if not isfinite(sum(image.box_form.to_xywh(*box[1:])))
    ]
    if faults:
        raise ImportFault(f"{imported.source}: boxes are larger than any image", faults, fix="correct their numbers")


def _coco(package: Package, left_out: Collection[str]) -> dict[str, Any]:
    """A COCO file with the categories that occur."""
    imported = package.imported
    kept = [placed for placed in package.placed if placed.path not in left_out]
    used = {name for one in kept for name in (*one.image.labels, *(box.label for box in one.image.boxes))}
    numbers = {name: number for number, name in enumerate((n for n in imported.categories if n in used), 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, placed in enumerate(kept, 1):
        sides = {"width": placed.image.width, "height": placed.image.height}
        known = {side: value for side, value in sides.items() if value} if all(sides.values()) else {}
        images.append({"id": number, "file_name": placed.path, **known})
        for mark in _marks(placed.image, numbers, detection=imported.detection):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **mark})
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _marks(image: LabelledImage, numbers: Mapping[str, int], *, detection: bool) -> Iterator[dict[str, Any]]:
    if not detection:
        yield from ({"category_id": numbers[label]} for label in image.labels)
    for label, *numbers_ in image.boxes:
        yield {"category_id": numbers[label], "bbox": list(image.box_form.to_xywh(*numbers_))}


def _document_names(imported: Imported) -> list[str]:
    names = [replaced(document.file.name, "_") for document in imported.documents]
    return (
        [f"{one.split}-{name}" for one, name in zip(imported.documents, names, strict=True)]
        if len(names) > 1
        else names
    )


def _document(
    document: Document, name: str, paths: Mapping[int, str], left_out: Collection[str], form: BoxForm
) -> AnnotationFile:
    """A COCO file as it is, if its names are the paths and its boxes [x, y, width, height]."""
    entries = objects(document.content.get("images"))
    placed = {id(entry): _placed(entry, paths[id(entry)]) for entry in entries if id(entry) in paths}
    renamed = [entry for entry in entries if placed.get(id(entry), entry) != entry]
    gone = [entry for entry in entries if paths.get(id(entry)) in left_out]
    if not renamed and not gone and not document.changed and form is BoxForm.XYWH:
        return AnnotationFile(name, file=document.file)
    skipped = {id(entry) for entry in gone}
    changed = dict(document.content)
    changed["images"] = [placed.get(id(entry), entry) for entry in entries if id(entry) not in skipped]
    if "annotations" in changed:
        marks = _of_images(objects(changed["annotations"]), entries, gone)
        changed["annotations"] = [{**_with_box(one, form, document.outlined), "image_id": id_} for id_, one in marks]
    return AnnotationFile(name, _encoded(changed))


def _placed(entry: Entry, path: str) -> Entry:
    """The image with this path, and without a uri that the service would follow instead."""
    kept = {field: value for field, value in entry.items() if field not in URIS or not text_of(value).startswith(STORE)}
    return {**kept, "file_name": path}


def _of_images(annotations: list[Entry], images: list[Entry], gone: list[Entry]) -> Iterator[tuple[object, Entry]]:
    """The annotations without those of images that are gone, each with the id of its image, whose name may change."""
    ids, left_out = ids_of_images(images), {key_of(image.get("id")) for image in gone} - {""}
    for annotation in annotations:
        image_id = annotation.get("image_id")
        id_ = ids.get(key_of(image_id), image_id)
        if key_of(id_) not in left_out:
            yield id_, annotation


def _with_box(annotation: dict[str, Any], form: BoxForm, outlined: Mapping[int, Xywh]) -> dict[str, Any]:
    if id(annotation) in outlined:
        return {**annotation, "bbox": list(outlined[id(annotation)])}
    bbox = annotation.get("bbox")
    numbers = [number_of(value) for value in bbox] if isinstance(bbox, list) else []
    known = [number for number in numbers if number is not None]
    if form is BoxForm.XYWH or len(known) != 4 or len(numbers) != 4:
        return annotation
    return {**annotation, "bbox": list(form.to_xywh(known[0], known[1], known[2], known[3]))}


def _encoded(content: dict[str, Any]) -> bytes:
    """As JSON for every reader: infinite numbers become null, halves of characters question marks."""
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
        text = json.dumps(finite, ensure_ascii=False)
    return text.encode("utf-8", "replace")
