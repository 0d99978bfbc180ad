"""CSV: a line per image (`path,label`) or per box (`path,label,x1,y1,x2,y2`), with or without a header."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from sightline.importers.columns import BBOX, CORNERS, EDGES, SIZED, SPLIT_WORDS, VERTICES, by_content, by_header
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
from sightline.importers.shapes import around

SAMPLE = 200  # rows that are looked at to tell what the columns are
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Table:
    """The position of each column, and where the rows begin."""

    columns: dict[str, int]
    first: int  # the number of rows before them
    flags: dict[str, int]  # columns that say 1 if the image has the label of their name

    @property
    def box(self) -> tuple[str, ...]:
        """The columns of a box; empty without them."""
        return next((names for names in EDGES if set(names) <= set(self.columns)), ())


def looks_like(file: Path) -> bool:
    """Whether the file has a column of images and one of labels."""
    try:
        rows = rows_of(file)
        _table(file, rows)
    except ImportFault:
        return False
    return True


def read(file: Path) -> Imported:
    """The file; ImportFault with every line at fault."""
    rows = rows_of(file)
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
        found = [label] if label else [name for name, place in table.flags.items() if _is_set(row, place)]
        edges = [values.get(name, "") for name in table.box]
        if not any(edges):
            named += [one for one in found if one not in named and not table.box]
        elif not isinstance(box := _box(label, table.box, edges), Box):
            faults.append(f"line {number}, {path}: {box}")
        else:
            drawn.append(box)
    if faults:
        raise ImportFault(f"{file}: {len(faults)} lines cannot be read", faults)
    labels, boxes = _described(file, labels, boxes, notes)
    images = tuple(
        LabelledImage(path, tuple(labels[path]), tuple(boxes[path]), splits[path], id=path) for path in labels
    )
    if table.box and (empty := sum(not image.boxes for image in images)):
        notes.add(f"{empty} images have no box and count as background")
    form = BoxForm.XYXY if table.box in (CORNERS, VERTICES) else BoxForm.XYWH
    return Imported(
        Format.CSV, file, file.parent, images, in_order(images), bool(table.box), notes.all(), box_form=form
    )


def rows_of(file: Path) -> list[list[str]]:
    """The cells of each line, without spaces around them; ImportFault for a file with fewer than two columns."""
    text = read_text(file)
    line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=line.count)
    csv.field_size_limit(1 << 24)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(StringIO(text), delimiter=delimiter)]
    except csv.Error as error:
        raise ImportFault(f"{file} cannot be read as CSV: {error}") from None
    if not line or len(rows[0]) < 2:
        raise _without_columns(file)
    return rows


def _table(file: Path, rows: Sequence[Sequence[str]]) -> Table:
    """The columns by the header, or by what the first lines hold."""
    head, sample = rows[0], rows[1 : SAMPLE + 1]
    columns = by_header(head)
    if "path" in columns and not is_image(Path(head[columns["path"]])) and split_of(head[0]) == "":
        flags = {} if "label" in columns else _flags(head, columns, sample)
        if "label" not in columns and not flags:
            raise ImportFault(f"{file} has no column for the label: {', '.join(head)}", fix="call it `label`")
        return Table(columns, 1, flags)
    names = [name for name in map(_first_image, (head, *sample)) if name]
    if not names and head[0].upper() not in SPLIT_WORDS:
        fix = "call the columns `path` and `label`, and those of boxes x1, y1, x2, y2"
        raise ImportFault(f"{file} does not say which column names the images: {', '.join(head)}", fix=fix)
    first = 0 if _first_image(head) or head[0].upper() in SPLIT_WORDS else 1
    lines = [row for row in rows[first : first + SAMPLE] if row]
    if not lines or max(map(len, lines)) < (3 if lines[0][0].upper() in SPLIT_WORDS else 2):
        raise _without_columns(file)
    return Table(by_content(lines), first, {})


def _without_columns(file: Path) -> ImportFault:
    return ImportFault(f"{file} has no columns", fix="write `path,label` lines, or `path,label,x1,y1,x2,y2`")


def _described(
    file: Path, labels: dict[str, list[str]], boxes: dict[str, list[Box]], notes: Notes
) -> tuple[dict[str, list[str]], dict[str, list[Box]]]:
    """The labels with names in place of Open Images' `/m/01g317`, which another CSV file next to it lists."""
    coded = {name for listed in labels.values() for name in listed if name.startswith("/m/")}
    coded |= {box.label for listed in boxes.values() for box in listed if box.label.startswith("/m/")}
    if not coded:
        return labels, boxes
    names: dict[str, str] = {}
    for other in sorted(file.parent.glob("*.csv")):
        lines = (line.partition(",") for line in read_text(other).splitlines() if line.startswith("/m/"))
        names |= {code: name.strip() for code, _, name in lines if "," not in name}
    if unknown := sorted(coded - set(names)):
        notes.add(f"classes keep Open Images' codes, as no CSV file beside lists their names: {', '.join(unknown[:5])}")
    return (
        {path: [names.get(name, name) for name in listed] for path, listed in labels.items()},
        {
            path: [box._replace(label=names.get(box.label, box.label)) for box in listed]
            for path, listed in boxes.items()
        },
    )


def _first_image(row: Sequence[str]) -> str:
    return next((cell for cell in row if is_image(Path(cell))), "")


def _flags(head: Sequence[str], columns: dict[str, int], sample: Sequence[Sequence[str]]) -> dict[str, int]:
    """Columns that hold only 0 and 1, if there are at least two."""
    taken = set(columns.values())
    found = {
        name.strip(): place
        for place, name in enumerate(head)
        if place not in taken
        and name.strip()
        and sample
        and all(place < len(row) and number_of(row[place]) in (0, 1) for row in sample)
    }
    return found if len(found) > 1 else {}


def _is_set(row: Sequence[str], place: int) -> bool:
    return place < len(row) and number_of(row[place]) == 1


def _box(label: str, names: Sequence[str], edges: Sequence[str]) -> Box | str:
    """A line's box, or what is wrong with it."""
    if names == BBOX:
        edges, names = _NUMBER.findall(edges[0]), SIZED
        if len(edges) != 4:
            return f"bbox has {len(edges)} numbers"
    if names == VERTICES:  # AutoML's: all four corners, or two opposite ones and nothing for the others
        pairs = [(number_of(x), number_of(y)) for x, y in zip(edges[::2], edges[1::2], strict=True)]
        found = around((x, y) for x, y in pairs if x is not None and y is not None)
        edges = (
            [str(value) for value in (found[0], found[1], found[0] + found[2], found[1] + found[3])] if found else []
        )
        names = CORNERS
        if not edges:
            return "its box lacks a corner"
    for name, text in zip(names, edges, strict=True):
        if number_of(text) is None:
            return f"{name} is {text!r}, not a number"
    if not label:
        return "its box has no label"
    one, two, three, four = (number_of(text) or 0.0 for text in edges)
    return Box(label, one, two, three, four)
