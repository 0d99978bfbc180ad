"""Label Studio's JSON and JSON-MIN: choices, or shapes in percent of the image's sides."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sightline.importers.files import read_json
from sightline.importers.model import (
    Box,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Notes,
    Xywh,
    in_order,
    is_image,
    mapping,
    number_of,
    objects,
    of_one_kind,
    text_of,
)
from sightline.importers.shapes import Point, around, four_of, points_of, turned, within
from sightline.importers.table import rows_of
from sightline.plurals import counted

LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels")  # of shapes
AREAS = ("points", "radiusX", "height")  # what a polygon, an ellipse and a rectangle have
OWN_FIELDS = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time")  # of JSON-MIN
CLASSES = ("label", "class", "category", "choice", "tag")  # fields of JSON-MIN that are the class, the likeliest first


class _Result(NamedTuple):
    """A shape, a choice, or something else that an annotator entered."""

    kind: str  # its type, or the field of JSON-MIN
    value: dict[str, Any]
    id: str = ""  # of a shape, and of what was entered about it


def tasks(content: object) -> list[dict[str, Any]]:
    """The tasks of either form; nothing for any other JSON."""
    found = objects(content)
    first = found[0] if found else {}
    whole = "data" in first and ("annotations" in first or "completions" in first)
    small = _image_name(first) and any(key in first for key in OWN_FIELDS[1:])
    return found if whole or small else []


def read(file: Path) -> Imported:
    """The file; ImportFault with every annotation at fault."""
    notes, faults, images = Notes(), list[str](), list[LabelledImage]()
    rows = _rows(file) if file.suffix.lower() == ".csv" else tasks(read_json(file))
    classes, entered = _class_fields(file, rows, notes), False
    for task in rows:
        name = _image_name(mapping(task.get("data")) or task)
        if not name:
            notes.count("left out: {count:task|tasks} without an image")
            continue
        results = list(_results(task, notes)) if "data" in task else list(_small_results(task, classes))
        if not results and "data" in task and not _answers(task):
            notes.count("left out: {count:task|tasks} without an annotation")
            continue
        entered = entered or bool(results)
        images.append(_image(task, name, results, notes, faults))
    if faults:
        raise ImportFault(f"{file}: {counted(len(faults), 'annotation')} cannot be read", faults)
    if not images:
        raise ImportFault(f"{file} has no annotated images")
    if entered and not any(image.boxes or image.labels for image in images):
        fix = "export choices, or rectangles, polygons or ellipses with labels"
        raise ImportFault(f"{file}: nothing that was entered is a choice or a shape with a label", notes.all(), fix=fix)
    found, detection = of_one_kind(images, notes, "choices are left out: the file has boxes too")
    return Imported(Format.LABEL_STUDIO, file, file.parent, found, in_order(found), detection, notes.all())


def is_table(head: Sequence[str]) -> bool:
    """Whether a CSV file has Label Studio's header."""
    return {"annotation_id", "annotator", "lead_time"} <= set(head)


def _rows(file: Path) -> list[dict[str, Any]]:
    """The tasks of a CSV file, whose cells hold what the values of JSON-MIN are."""
    head, *rows = rows_of(file)
    return [{name: _cell(text) for name, text in zip(head, row, strict=False) if text} for row in rows if any(row)]


def _cell(text: str) -> Any:
    try:
        return json.loads(text) if text[:1] in "[{" else text
    except ValueError:
        return text


def _image_name(data: object) -> str:
    """The value that names the image, whatever its field is called."""
    texts = {key: value for key, value in mapping(data).items() if isinstance(value, str)}
    named = [texts[key] for key in ("image", "img", "image_url", "photo") if texts.get(key)]
    return next(iter(named or [text for text in texts.values() if is_image(Path(text.partition("?")[0]))]), "")


def _answers(task: dict[str, Any]) -> list[dict[str, Any]]:
    listed = objects(task.get("annotations")) or objects(task.get("completions"))
    return [answer for answer in listed if not answer.get("was_cancelled")]


def _results(task: dict[str, Any], notes: Notes) -> Iterator[_Result]:
    """What the latest answer has, each as JSON-MIN has it."""
    answers = _answers(task)
    if len(answers) > 1:
        notes.count("{count:task has|tasks have} several annotations; the last is used")
    results = list[_Result]()
    for result in objects(answers[-1].get("result")) if answers else []:
        sides = {key: result.get(key) for key in ("original_width", "original_height")}
        value = {**mapping(result.get("value")), **sides}
        results.append(_Result(text_of(result.get("type")), value, text_of(result.get("id"))))
    yield from _with_choices_of_shapes(results, notes)


def _with_choices_of_shapes(results: list[_Result], notes: Notes) -> Iterator[_Result]:
    """A choice that was entered about a shape is its label, unless it has one."""
    shapes = {result.id: result.value for result in results if result.id and _is_shape(result.value)}
    labelled = {result.id for result in results if _label_of(result.value)}
    for kind, value, id_ in results:
        shape = value if _is_shape(value) else shapes.get(id_)
        if "choices" not in value or shape is None:
            yield _Result(kind, value, id_)
        elif id_ in labelled:
            notes.count("left out: {count:choice|choices} about shapes that have labels")
        else:
            yield _Result(kind, {**_without_choices(shape), "labels": value["choices"]}, id_)


def _without_choices(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in value.items() if key != "choices"}


def _small_results(task: dict[str, Any], classes: Collection[str]) -> Iterator[_Result]:
    for key, value in _fields(task):
        if key in classes and not objects(value):
            yield _Result(key, {"choices": mapping(value).get("choices") or value})
        else:
            yield from (_Result(key, one) for one in objects(value))


def _class_fields(file: Path, rows: list[dict[str, Any]], notes: Notes) -> tuple[str, ...]:
    """The fields of JSON-MIN that are choices and not data; ImportFault if the file does not tell."""
    fields = [field for row in rows if "data" not in row for field in _fields(row)]
    chosen = dict.fromkeys(key for key, value in fields if mapping(value).get("choices"))
    texts = dict.fromkeys(key for key, value in fields if key not in chosen and _may_be_choice(value))
    if any(_label_of(one) for _, value in fields for one in objects(value)):
        return (*chosen, *texts)
    likeliest = [name for name in CLASSES if name in texts] or [*texts]
    found = (*chosen,) or (*likeliest[:1],)
    others = ", ".join(name for name in texts if name not in found)
    if others and not chosen and likeliest[0] not in CLASSES:
        fix = "export the project as JSON, which tells choices from data"
        raise ImportFault(f"{file}: it is not clear which field is the class: {', '.join(texts)}", fix=fix)
    if others:
        notes.add(f"classes are in the field {', '.join(found)}; left out: {others}")
    return found


def _fields(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields with data or results, without the image's."""
    name = _image_name(row)
    yield from ((key, value) for key, value in row.items() if key not in OWN_FIELDS and value != name)


def _may_be_choice(value: object) -> bool:
    """Whether it is a text, or several, and names no file."""
    listed: list[Any] = value if isinstance(value, list) else [value]
    return bool(listed) and all(isinstance(one, str) and one and not _is_address(one) for one in listed)


def _is_address(text: str) -> bool:
    return "://" in text or is_image(Path(text.partition("?")[0]))


def _image(task: dict[str, Any], name: str, results: list[_Result], notes: Notes, faults: list[str]) -> LabelledImage:
    labels: dict[str, None] = {}
    boxes: list[Box] = []
    where = f"task {text_of(task.get('id'))}, {name}"
    drawn = {tuple(_points(value)) for _, value, _ in results if _label_of(value)}
    for kind, value, _ in results:
        if "choices" in value:
            labels |= dict.fromkeys(chosen := _texts(value["choices"]))
            if value["choices"] and not chosen:
                faults.append(f"{where}: its choice is no text")
        elif _label_of(value):
            boxes += _boxes(value, where, notes, faults)
        elif not _is_shape(value):
            notes.count(f"left out: {{count:result|results}} of the kind {kind or 'none'}")
        elif tuple(_points(value)) not in drawn:
            notes.count("left out: {count:shape|shapes} without a label")
    uploaded = text_of(task.get("file_upload"))
    return LabelledImage(
        name, tuple(labels), tuple(boxes), other_names=(uploaded,) if uploaded else (), id=task.get("id")
    )


def _label_of(value: Mapping[str, Any]) -> str:
    """The key of a shape's label; empty for what is no shape, or has no label."""
    named = next((key for key in LABELS if key in value), "")
    return "" if named == "labels" and not _is_shape(value) else named


def _is_shape(value: Mapping[str, Any]) -> bool:
    return any(key in value for key in AREAS)


def _boxes(value: dict[str, Any], where: str, notes: Notes, faults: list[str]) -> Iterator[Box]:
    """The box around a shape, for each of its labels."""
    kind = _label_of(value)
    box, labels = around((x / 100, y / 100) for x, y in _points(value)), _texts(value[kind])
    if box is None or not labels:
        faults.append(f"{where}: a shape ({kind}) lacks a coordinate or a label")
        return
    if value.get("rotation") or not _is_rectangle(value):
        notes.count("turned into upright boxes: {count:rotated box or outline|rotated boxes or outlines}")
    yield from (Box(label, *box) for label in labels)


def _texts(value: object) -> list[str]:
    """The texts in a JSON array, or the one that stands without it."""
    listed: list[Any] = value if isinstance(value, list) else [value]
    return [text for one in listed if (text := text_of(one))]


def _is_rectangle(value: Mapping[str, Any]) -> bool:
    return not any(key in value for key in ("points", "radiusX"))


def _points(value: Mapping[str, Any]) -> list[Point]:
    """The corners of a shape in percent; none if a coordinate is missing."""
    if "points" in value:
        listed: Any = value["points"]
        points = points_of(listed)
        return points if isinstance(listed, list) and len(points) == len(listed) else []
    keys = ("x", "y", "width", "height") if _is_rectangle(value) else ("x", "y", "radiusX", "radiusY")
    numbers = four_of([value.get(key) for key in keys])
    if numbers is None:
        return []
    degrees = number_of(value.get("rotation")) or 0.0
    if not degrees:
        return _corners(numbers if _is_rectangle(value) else within(*numbers))
    across, down = (number_of(value.get(f"original_{side}")) or 1.0 for side in ("width", "height"))
    x, y, width, height = numbers[0] * across, numbers[1] * down, numbers[2] * across, numbers[3] * down
    if _is_rectangle(value):
        corners = turned((x, y, width, height), degrees, (x, y))
    else:
        corners = _corners(within(x, y, width, height, degrees))
    return [(a / across, b / down) for a, b in corners]


def _corners(box: Xywh) -> list[Point]:
    """Two opposite ones."""
    x, y, width, height = box
    return [(x, y), (x + width, y + height)]
