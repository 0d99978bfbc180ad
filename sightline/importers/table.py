"""CSV: a line per image (`path,label`) or per box (`path,label,x1,y1,x2,y2`), with or without a header."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from sightline.importers.files import read_text
from sightline.importers.model import (
    Box,
    BoxForm,
    Format,
    Imported,
    ImportFault,
    LabelledImage,
    Notes,
    in_order,
    is_image,
    number_of,
    split_of,
)

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "image_name", "image_id",
             "img", "uri", "url", "id", "id_code"),
    "label": ("label", "class", "category", "tag", "class_name", "label_name", "labels", "name", "target", "classname"),
    "x1": ("x1", "xmin", "x_min", "left", "xtl"),
    "y1": ("y1", "ymin", "y_min", "top", "ytl"),
    "x2": ("x2", "xmax", "x_max", "right", "xbr"),
    "y2": ("y2", "ymax", "y_max", "bottom", "ybr"),
    "x": ("x", "bbox_x"),
    "y": ("y", "bbox_y"),
    "w": ("w", "bbox_width", "bbox_w", "box_width"),
    "h": ("h", "bbox_height", "bbox_h", "box_height"),
    "split": ("split", "set", "subset", "partition", "usage"),
}  # fmt: skip
CORNERS, SIZED = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h")


@dataclass(frozen=True, slots=True)
class Table:
    """The position of each column, and where the rows begin."""

    columns: dict[str, int]
    first: int  # the number of rows before them

    @property
    def box(self) -> tuple[str, ...]:
        """The columns of a box; empty without them."""
        return next((names for names in (CORNERS, SIZED) if set(names) <= set(self.columns)), ())


def read(file: Path) -> Imported:
    """The file; ImportFault with every line at fault."""
    rows = _rows(file)
    table = _table(file, rows)
    notes, faults = Notes(), list[str]()
    labels: dict[str, list[str]] = {}
    boxes: dict[str, list[Box]] = {}
    splits: dict[str, str] = {}
    for number, row in enumerate(rows[table.first :], table.first + 1):
        if not any(row):
            continue
        values = {name: row[place] for name, place in table.columns.items() if place < len(row)}
        path, label = values.get("path", ""), values.get("label", "")
        if not path:
            faults.append(f"line {number}: it names no image")
            continue
        splits.setdefault(path, split_of(values.get("split", "")))
        named, drawn = labels.setdefault(path, []), boxes.setdefault(path, [])
        edges = [values.get(name, "") for name in table.box]
        if not any(edges):
            named += [label] if label and label not in named and not table.box else []
        elif not isinstance(box := _box(label, table.box, edges), Box):
            faults.append(f"line {number}, {path}: {box}")
        else:
            drawn.append(box)
    if faults:
        raise ImportFault(f"{file}: {len(faults)} lines cannot be read", faults)
    images = tuple(
        LabelledImage(path, tuple(labels[path]), tuple(boxes[path]), splits[path], id=path) for path in labels
    )
    if table.box and (empty := sum(not image.boxes for image in images)):
        notes.add(f"{empty} images have no box and count as background")
    form = BoxForm.XYXY if table.box == CORNERS else BoxForm.XYWH
    return Imported(
        Format.CSV, file, file.parent, images, in_order(images), bool(table.box), notes.all(), box_form=form
    )


def _rows(file: Path) -> list[list[str]]:
    text = read_text(file)
    line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=line.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(StringIO(text), delimiter=delimiter)]
    if not line or len(rows[0]) < 2:
        raise ImportFault(f"{file} has no columns", fix="write `path,label` lines, or `path,label,x1,y1,x2,y2`")
    return rows


def _table(file: Path, rows: Sequence[Sequence[str]]) -> Table:
    """The columns by the header, or by what the first line holds."""
    header = [cell.lower().replace(" ", "_") for cell in rows[0]]
    columns = {
        name: next(header.index(word) for word in words if word in header)
        for name, words in COLUMNS.items()
        if any(word in header for word in words)
    }
    if "path" in columns and len(columns) > 1 and not is_image(Path(rows[0][columns["path"]])):
        sized = {"x", "y"} <= set(columns) and {"width", "height"} <= set(header)
        if sized and not {"w", "h"} & set(columns):
            columns |= {"w": header.index("width"), "h": header.index("height")}
        if "label" not in columns:
            raise ImportFault(f"{file} has no column for the label: {', '.join(rows[0])}", fix="call it `label`")
        return Table(columns, 1)
    path = next((place for place, cell in enumerate(rows[0]) if is_image(Path(cell))), 0)
    rest = [place for place in range(len(rows[0])) if place != path]
    drawn = next(
        (row for row in rows if len(row) >= 6 and sum(number_of(row[place]) is not None for place in rest) >= 4), None
    )
    if drawn is None:
        return Table({"path": path, "label": rest[0]}, 0)
    label = next((place for place in rest if number_of(drawn[place]) is None), rest[0])
    edges = [place for place in rest if place != label][:4]
    return Table({"path": path, "label": label, **dict(zip(CORNERS, edges, strict=True))}, 0)


def _box(label: str, names: Sequence[str], edges: Sequence[str]) -> Box | str:
    """A line's box, or what is wrong with it."""
    for name, text in zip(names, edges, strict=True):
        if number_of(text) is None:
            return f"{name} is {text!r}, not a number"
    if not label:
        return "its box has no label"
    one, two, three, four = (number_of(text) or 0.0 for text in edges)
    return Box(label, one, two, three, four)
