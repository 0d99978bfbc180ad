"""Label Studio's JSON and JSON-MIN: choices, or shapes in percent of the image's sides."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sightline.importers.files import read_json
from sightline.importers.model import (
    Box,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Notes,
    in_order,
    is_image,
    mapping,
    number_of,
    objects,
    text_of,
    without_labels,
)
from sightline.importers.shapes import Point, around, turned
from sightline.importers.table import rows_of

SHAPES = ("rectanglelabels", "polygonlabels", "ellipselabels")
IGNORED = ("brushlabels", "keypointlabels", "videorectangle")
OWN_FIELDS = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time")  # of JSON-MIN


def tasks(content: object) -> list[dict[str, Any]]:
    """The tasks of either form; nothing for any other JSON."""
    found = objects(content)
    first = found[0] if found else {}
    whole = "data" in first and ("annotations" in first or "completions" in first)
    small = _image_name(first) and any(key in first for key in OWN_FIELDS[1:])
    return found if whole or small else []


def read(file: Path) -> Imported:
    """The file; ImportFault with every shape at fault."""
    notes, faults, images = Notes(), list[str](), list[LabelledImage]()
    for task in _rows(file) if file.suffix.lower() == ".csv" else tasks(read_json(file)):
        data = mapping(task.get("data")) or task
        name = _image_name(data)
        if not name:
            notes.count("{count} tasks have no image and are left out")
            continue
        results = list(_results(task, notes)) if "data" in task else list(_small_results(task))
        if not results and "data" in task and not _answers(task):
            notes.count("{count} tasks have no annotation and are left out")
            continue
        images.append(_image(task, name, results, notes, faults))
    if faults:
        raise ImportFault(f"{file}: {len(faults)} shapes cannot be read", faults)
    if not images:
        raise ImportFault(f"{file} has no annotated images")
    found = tuple(images)
    detection = any(image.boxes for image in found)
    if detection and any(image.labels for image in found):
        notes.add("choices are left out: the file has boxes too")
        found = without_labels(found)
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


def _results(task: dict[str, Any], notes: Notes) -> Iterator[dict[str, Any]]:
    """The latest answer's shapes and choices, each as JSON-MIN has it."""
    answers = _answers(task)
    if len(answers) > 1:
        notes.count("{count} tasks have several annotations; the last is used")
    for result in objects(answers[-1].get("result")) if answers else []:
        sides = {key: result.get(key) for key in ("original_width", "original_height")}
        yield {**mapping(result.get("value")), **sides}


def _small_results(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key, value in task.items():
        if key in OWN_FIELDS:
            continue
        if isinstance(value, str) and value != _image_name(task):
            yield {"choices": [value]}
        elif mapping(value).get("choices"):
            yield {"choices": mapping(value)["choices"]}
        yield from objects(value)


def _image(
    task: dict[str, Any], name: str, results: list[dict[str, Any]], notes: Notes, faults: list[str]
) -> LabelledImage:
    labels: dict[str, None] = {}
    boxes: list[Box] = []
    for value in results:
        labels |= {text_of(choice): None for choice in value.get("choices") or () if text_of(choice)}
        shape = next((kind for kind in SHAPES if kind in value), "")
        for ignored in IGNORED:
            if ignored in value:
                notes.count(f"{{count}} {ignored} are left out")
        if not shape:
            continue
        points = _points(shape, value)
        box = around((x / 100, y / 100) for x, y in points)
        names = [text_of(label) for label in value[shape] or () if text_of(label)]
        if box is None or not names:
            faults.append(f"task {text_of(task.get('id'))}, {name}: a shape ({shape}) lacks a coordinate or a label")
            continue
        if shape != "rectanglelabels" or value.get("rotation"):
            notes.count("{count} rotated boxes or outlines were turned into the boxes around them")
        boxes += (Box(label, *box) for label in names)
    uploaded = text_of(task.get("file_upload"))
    return LabelledImage(
        name, tuple(labels), tuple(boxes), other_names=(uploaded,) if uploaded else (), id=task.get("id")
    )


def _points(shape: str, value: dict[str, Any]) -> list[Point]:
    """The corners of a shape in percent; none if a coordinate is missing."""
    if shape == "polygonlabels":
        listed = value.get("points")
        pairs = [(number_of(p[0]), number_of(p[1])) for p in listed or () if isinstance(p, list) and len(p) == 2]
        return [(x, y) for x, y in pairs if x is not None and y is not None]
    keys = ("x", "y", "radiusX", "radiusY") if shape == "ellipselabels" else ("x", "y", "width", "height")
    numbers = [number for key in keys if (number := number_of(value.get(key))) is not None]
    if len(numbers) != len(keys):
        return []
    x, y, width, height = numbers
    if shape == "ellipselabels":
        return [(x - width, y - height), (x + width, y + height)]
    degrees = number_of(value.get("rotation")) or 0.0
    if not degrees:
        return [(x, y), (x + width, y + height)]
    across, down = (number_of(value.get(f"original_{side}")) or 1.0 for side in ("width", "height"))
    corners = turned((x * across, y * down, width * across, height * down), degrees, (x * across, y * down))
    return [(a / across, b / down) for a, b in corners]
