"""JSON Lines, an object per image: of Hugging Face, Azure ML, Vertex AI, SageMaker, Labelbox and Ultralytics."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from sightline.importers.files import read_text
from sightline.importers.model import (
    Box,
    BoxForm,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Notes,
    Xywh,
    in_order,
    mapping,
    number_of,
    objects,
    of_one_kind,
    split_of,
    text_of,
)
from sightline.importers.names import path_in_url
from sightline.importers.shapes import KEYPOINTS, OUTLINES, around, four_of, pairs_of, points_of
from sightline.plurals import counted

SUFFIXES = (".jsonl", ".ndjson", ".manifest", ".jsonlines")
LABELS = (
    *("categories", "category", "category_name", "labels", "label", "classes", "class", "class_name"),
    *("category_ids", "category_id", "class_ids", "class_id", "label_id"),
)  # Hugging Face's, names first
BOXES = ("bbox", "bboxes", "boxes", "box")
Object = Mapping[str, Any]
Names = dict[str, str]  # of classes, by number


class _Mark(NamedTuple):
    """A label, and its box if it has one; `fault` says that it should have one."""

    label: str
    box: Xywh | None = None
    fault: bool = False


def looks_like(file: Path) -> bool:
    """Whether the first line is an object of one of these forms."""
    try:
        found = first(file)
    except ImportFault:
        return False
    return _is_header(found) or _form_of(found) is not None


def first(file: Path) -> Object:
    """The object in the first line; an empty one if there is none. ImportFault if it cannot be read."""
    return next((entry for _, entry in _lines(file)), {})


def read(file: Path) -> Imported:
    """The file; ImportFault with every line at fault."""
    notes, faults, images, names = Notes(), list[str](), list[LabelledImage](), Names()
    for number, entry in _lines(file):
        if _is_header(entry):
            names |= {str(key): text_of(name) for key, name in mapping(entry.get("class_names")).items()}
            continue
        try:
            images.append(_read(entry, names, notes))
        except ImportFault as fault:
            faults.append(f"line {number}: {fault.message}")
    drawn = Counter((image.name, image.split) for image in images if image.boxes)
    faults += [
        f"{name}: {count} lines have its boxes; put them into one" for (name, _), count in drawn.items() if count > 1
    ]
    if faults:
        raise ImportFault(f"{file}: {counted(len(faults), 'line')} cannot be read", faults)
    if not images:
        raise ImportFault(f"{file} names no images")
    found, detection = of_one_kind(images, notes, "labels of whole images are left out: there are boxes too")
    if any(text.isdigit() for image in found for text in (*image.labels, *(box.label for box in image.boxes))):
        notes.add("classes without names are called by their numbers")
    return Imported(Format.LINES, file, file.parent, found, in_order(found), detection, notes.all())


def _read(entry: Object, names: Names, notes: Notes) -> LabelledImage:
    """The image of a line; ImportFault if it cannot be read."""
    form = _form_of(entry)
    if form is None:
        raise ImportFault("it names no image in a form that is known here")
    marks = list(_MARKS[form](entry, names, notes))
    if wrong := sum(mark.fault or not mark.label for mark in marks):
        raise ImportFault(f"{counted(wrong, 'of its labels lacks', 'of its labels lack')} a name or a number")
    return _image(entry, form, marks)


def _lines(file: Path) -> Iterator[tuple[int, Object]]:
    for number, line in enumerate(StringIO(read_text(file), newline=None), 1):  # strings may have other line breaks
        if line.strip():
            try:
                yield number, mapping(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ImportFault(f"{file}, line {number} cannot be read as JSON: {error}") from None


def _is_header(entry: Object) -> bool:
    """Whether it is the first line of Ultralytics' form."""
    return entry.get("type") == "dataset" and "class_names" in entry


def _form_of(entry: Object) -> str | None:
    """The field that names the image, which tells the form."""
    return next((field for field in _MARKS if field in entry), None)


def _image(entry: Object, form: str, marks: list[_Mark]) -> LabelledImage:
    row, drawn = mapping(entry.get("data_row")), any(mark.box for mark in marks)
    width, height = _sides(entry) if drawn else (None, None)
    name, *others = (
        (text_of(row.get(key)) for key in ("external_id", "global_key", "row_data"))
        if row
        else (text_of(entry.get(form)),)
    )
    use = mapping(entry.get("dataItemResourceLabels")).get("aiplatform.googleapis.com/ml_use")
    place = path_in_url(name).rpartition("/")[2] if "://" in name else ""
    return LabelledImage(
        name,
        tuple(dict.fromkeys(mark.label for mark in marks if mark.box is None)),
        tuple(Box(mark.label, *mark.box) for mark in marks if mark.box is not None),
        split_of(text_of(use) or text_of(entry.get("split"))),
        width,
        height,
        other_names=(*((place,) if place else ()), *(other for other in others if other)),
        id=name,
    )


def _sides(entry: Object) -> tuple[float, float] | tuple[None, None]:
    """The image's sides, wherever the form has them; a number may be followed by `px`."""
    jobs = [size for value in entry.values() for size in objects(mapping(value).get("image_size"))[:1]]
    for place in (mapping(entry.get("image_details")), mapping(entry.get("media_attributes")), entry, *jobs):
        width, height = (number_of(text_of(place.get(side)).removesuffix("px")) for side in ("width", "height"))
        if width and height:
            return width, height
    return None, None


def _mark(label: object, values: Sequence[object], form: BoxForm = BoxForm.XYWH) -> _Mark:
    numbers = four_of(list(values))
    return _Mark(text_of(label), form.to_xywh(*numbers)) if numbers else _Mark(text_of(label), fault=True)


def _hugging_face(entry: Object, *_: object) -> Iterator[_Mark]:
    """A label; or boxes with theirs: an object each in `objects`, or lists side by side, there or in the line."""
    found = entry.get("objects")
    beside = found is None and _first(entry, BOXES) is not None
    if isinstance(found, list):
        for one in map(mapping, _listed(found)):
            yield _mark(_first(one, LABELS), _listed(_first(one, BOXES)))
    elif beside or isinstance(found, dict):
        yield from _side_by_side(entry if beside else mapping(found))
    elif found is not None:
        raise ImportFault("its objects are neither a list nor an object")
    if not beside:
        label = _first(entry, ("label", *LABELS))
        listed = [one for one in _listed(label) or [label] if one not in (None, "", [])]
        yield from (_Mark(text_of(one)) for one in listed if found is None or text_of(one))


def _side_by_side(whole: Object) -> Iterator[_Mark]:
    """A box and its label at the same place of two lists; ImportFault if that is not clear."""
    boxes, labels = _first(whole, BOXES), _first(whole, LABELS)
    if isinstance(labels, str | int):
        boxes, labels = [boxes], [labels]
    if boxes is None and any(whole.values()):
        raise ImportFault(f"its objects have no bbox, but {', '.join(whole)}")
    pairs = _listed(boxes), _listed(labels)
    if len(pairs[0]) != len(pairs[1]):
        raise ImportFault(
            f"it has {counted(len(pairs[0]), 'box', 'boxes')}, "
            f"and {counted(len(pairs[1]), 'category', 'categories')} for them"
        )
    for box, label in zip(*pairs, strict=True):
        yield _mark(label, _listed(box))


def _first(entry: Object, keys: Sequence[str]) -> object:
    """The first of the fields that is there."""
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _azure(entry: Object, *_: object) -> Iterator[_Mark]:
    label = entry.get("label")
    for one in objects(label):
        edges = [one.get(key) for key in ("topX", "topY", "bottomX", "bottomY")]
        yield _mark(one.get("label"), edges, BoxForm.XYXY)
    for one in _listed(label) if not objects(label) else ():
        yield _Mark(text_of(one))
    if text_of(label):
        yield _Mark(text_of(label))


def _vertex(entry: Object, *_: object) -> Iterator[_Mark]:
    for one in objects(entry.get("boundingBoxAnnotations")):
        edges = [one.get(key) for key in ("xMin", "yMin", "xMax", "yMax")]
        yield _mark(one.get("displayName"), edges, BoxForm.XYXY)
    whole = mapping(entry.get("classificationAnnotation"))
    for one in (*([whole] if whole else []), *objects(entry.get("classificationAnnotations"))):
        yield _Mark(text_of(one.get("displayName")))


def _sagemaker(entry: Object, *_: object) -> Iterator[_Mark]:
    """The output of a labelling job, which has a field of the job's name and one with metadata."""
    for field in [key for key in entry if f"{key}-metadata" in entry]:
        about, value = mapping(entry[f"{field}-metadata"]), mapping(entry[field])
        names = {str(key): text_of(name) for key, name in mapping(about.get("class-map")).items()}
        for one in objects(value.get("annotations")):
            number = text_of(one.get("class_id"))
            yield _mark(names.get(number, number), [one.get(key) for key in ("left", "top", "width", "height")])
        if not value and (label := text_of(about.get("class-name")) or text_of(entry[field])):
            yield _Mark(label)


def _labelbox(entry: Object, _: Names, notes: Notes) -> Iterator[_Mark]:
    """The last label of each project."""
    for project in mapping(entry.get("projects")).values():
        for label in objects(mapping(project).get("labels"))[-1:]:
            marks = mapping(label.get("annotations"))
            for one in objects(marks.get("objects")):
                yield from _of_labelbox(one, notes)
            for one in objects(marks.get("classifications")):
                answers = objects(one.get("checklist_answers")) or [mapping(one.get("radio_answer"))]
                if "text_answer" in one:
                    notes.count("left out: {count:answer|answers} in free text")
                else:
                    yield from (_Mark(text_of(answer.get("name"))) for answer in answers)


def _of_labelbox(drawn: Object, notes: Notes) -> Iterator[_Mark]:
    """An object of Labelbox: a box, or something with an outline."""
    name, points = drawn.get("name"), objects(drawn.get("polygon") or drawn.get("line"))
    if points:
        notes.count(OUTLINES)
        yield _mark(name, around(points_of([[point.get("x"), point.get("y")] for point in points])) or ())
    elif "bounding_box" in drawn or not any(kind in drawn for kind in ("mask", "point")):
        box = mapping(drawn.get("bounding_box"))
        yield _mark(name, [box.get(key) for key in ("left", "top", "width", "height")])
    else:
        notes.count("left out: {count:mask or point|masks and points}")


def _ultralytics(entry: Object, names: Names, notes: Notes) -> Iterator[_Mark]:
    """Each box or outline is a list that begins with its class."""
    marks = mapping(entry.get("annotations"))
    kind = next((kind for kind in ("boxes", "pose", "segments", "obb") if marks.get(kind)), "")
    for drawn in _listed(marks.get(kind)):
        number, *rest = _listed(drawn) or [None]
        label = names.get(text_of(number), text_of(number))
        if kind in ("segments", "obb"):
            notes.count(OUTLINES)
            yield _mark(label, around(pairs_of(rest)) or ())
            continue
        if kind == "pose":
            notes.count(KEYPOINTS)
            rest = rest[:4]
        yield _mark(label, rest, BoxForm.CXCYWH)
    for number in _listed(marks.get("classification")):
        yield _Mark(names.get(text_of(number), text_of(number)))


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list) else []


_MARKS: dict[str, Callable[[Object, Names, Notes], Iterator[_Mark]]] = {  # by the field that names the image
    "file_name": _hugging_face,
    "image_url": _azure,
    "imageGcsUri": _vertex,
    "source-ref": _sagemaker,
    "data_row": _labelbox,
    "file": _ultralytics,
    "image": _hugging_face,
}
