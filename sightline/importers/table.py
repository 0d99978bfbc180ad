"""CSV: a line per image (`path,label`) or per box (`path,label,x1,y1,x2,y2`), with or without a header."""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from sightline.importers.columns import (
    BBOX,
    EDGES,
    IMAGE_SIDES,
    SIZED,
    VERTICES,
    box_of,
    by_content,
    by_header,
    holds_names,
    is_image_id,
    is_split,
    lacking,
    names_image,
    places_of_names,
)
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
    number_of,
    split_of,
)
from sightline.importers.shapes import around
from sightline.plurals import counted

SAMPLE = 200  # rows that are looked at to tell what the columns are
LISTED = 8  # columns in a note
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_SEPARATOR = re.compile(r'"?sep=([,;|\t])"?\r?\n', re.IGNORECASE)  # Excel's first line, which it does not show


@dataclass(frozen=True, slots=True)
class Table:
    """The position of each column, and where the rows begin."""

    columns: dict[str, int]
    first: int  # the number of rows before them
    flags: dict[str, int]  # columns that say 1 if the image has the label of their name
    notes: tuple[str, ...]
    fault: ImportFault | None  # what the header must say more clearly

    @property
    def box(self) -> tuple[str, ...]:
        """The columns of a box; empty without them."""
        return box_of(self.columns)


@dataclass(slots=True)
class _Found:
    """What the lines of an image say."""

    split: str
    labels: list[str] = field(default_factory=list[str])
    boxes: list[Box] = field(default_factory=list[Box])
    sides: set[tuple[float, float]] = field(default_factory=set[tuple[float, float]])


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
    if table.fault:
        raise table.fault
    notes, faults, found = Notes([*table.notes]), list[str](), dict[str, _Found]()
    for number, row in enumerate(rows[table.first :], table.first + 1):
        if _is_absent(row, table):
            notes.count("left out: {count:label that is|labels that are} not in the image (Confidence 0)")
        elif any(row) and (fault := _add(row, table, found)):
            faults.append(f"line {number}{fault}")
    if faults:
        raise ImportFault(f"{file}: {counted(len(faults), 'line')} cannot be read", faults)
    names = _descriptions(file, found.values(), notes)
    form = EDGES.get(table.box, BoxForm.XYWH)
    sided = _have_sides(found.values(), form, notes)
    images = tuple(_image(path, one, names, form, sided=sided) for path, one in found.items())
    if table.box and (empty := sum(not image.boxes for image in images)):
        notes.add(f"counted as background: {counted(empty, 'image')} without a box")
    return Imported(Format.CSV, file, file.parent, images, in_order(images), bool(table.box), notes.all())


def _is_absent(row: Sequence[str], table: Table) -> bool:
    """Whether the line says that people did not see the label in the image, as Open Images does with Confidence 0."""
    place = table.columns.get("confidence", len(row))
    return place < len(row) and number_of(row[place]) == 0


def _add(row: Sequence[str], table: Table, found: dict[str, _Found]) -> str:
    """Adds what a line says to its image; returns what is wrong with it."""
    values = {name: row[place] for name, place in table.columns.items() if place < len(row)}
    path, label = values.get("path", ""), values.get("label", "")
    if not path:
        return ": it names no image"
    image = found.setdefault(path, _Found(split_of(values.get("split", ""))))
    width, height = (number_of(values.get(side, "")) for side in IMAGE_SIDES)
    if width and height:
        image.sides.add((width, height))
    labels = [label] if label else [name for name, place in table.flags.items() if _is_set(row, place)]
    edges = [values.get(name, "") for name in table.box]
    if not any(edges):
        image.labels += [one for one in labels if one not in image.labels and not table.box]
    elif not isinstance(box := _box(label, table.box, edges), Box):
        return f", {path}: {box}"
    else:
        image.boxes.append(box)
    return ""


def _have_sides(found: Collection[_Found], form: BoxForm, notes: Notes) -> bool:
    """Whether the sides that lines say are the images': one pair for an image, and not those of the boxes."""
    drawn = [(one.sides, form.to_xywh(*box[1:])[2:]) for one in found for box in one.boxes if one.sides]
    same = all(abs(a - b) <= 1 for sides, of_box in drawn for pair in sides for a, b in zip(pair, of_box, strict=True))
    sided = not same and all(len(one.sides) <= 1 for one in found)
    if drawn and not sided:
        notes.add("width and height are those of the boxes, or differ between lines of an image: not used")
    return sided


def _image(path: str, found: _Found, names: Mapping[str, str], form: BoxForm, *, sided: bool) -> LabelledImage:
    labels = tuple(names.get(label, label) for label in found.labels)
    boxes = tuple(box._replace(label=names.get(box.label, box.label)) for box in found.boxes)
    width, height = next(iter(found.sides), (None, None)) if sided else (None, None)
    return LabelledImage(path, labels, boxes, found.split, width, height, id=path, box_form=form)


def rows_of(file: Path) -> list[list[str]]:
    """The cells of each line, without spaces around them; ImportFault for a file with fewer than two columns."""
    text = read_text(file)
    told = _SEPARATOR.match(text)
    text = text[told.end() :] if told else text
    line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = told[1] if told else max(",;\t", key=line.count)
    csv.field_size_limit(1 << 24)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(StringIO(text, newline=None), delimiter=delimiter)]
    except csv.Error as error:
        raise ImportFault(f"{file} cannot be read as CSV: {error}") from None
    if not line or len(rows[0]) < 2:
        raise _without_columns(file)
    return rows


def _table(file: Path, rows: Sequence[Sequence[str]]) -> Table:
    """The columns by the header, and by what the first lines hold."""
    first = 0 if any(map(names_image, rows[0])) or is_split(rows[0][0]) else 1
    head = rows[0] if first else ()
    lines = [row for row in rows[first : first + SAMPLE] if row]
    known = by_header(head, lines)
    flags = _flags(head, known, lines) if "label" not in known else {}
    columns = known if "path" in known else _guessed(file, rows[0], lines, known, flags)
    if "label" in columns:
        flags = {}
    elif not flags:
        raise ImportFault(f"{file} has no column for the label: {', '.join(head)}", fix="call it `label`")
    used = {*columns.values(), *flags.values()}
    notes = (*_recognised(head, known, columns), *_unused(head, lines, used))
    return Table(columns, first, flags, notes, _doubt(file, head, lines, columns, used))


def _guessed(
    file: Path,
    head: Sequence[str],
    lines: Sequence[Sequence[str]],
    known: Mapping[str, int],
    flags: Mapping[str, int],
) -> dict[str, int]:
    """The columns, if no header says which one names the images; ImportFault if their cells do not either."""
    split = is_split(head[0])
    if not split and not places_of_names(lines, known):
        fix = "call the columns `path` and `label`, and those of boxes x1, y1, x2, y2"
        raise ImportFault(f"{file} does not say which column names the images: {', '.join(head)}", fix=fix)
    if not lines or max(map(len, lines)) < 2 + split:
        raise _without_columns(file)
    return by_content(lines, known, flags.values())


def _name(head: Sequence[str], place: int) -> str:
    """What the header calls a column; its number beyond the header."""
    return head[place] if place < len(head) else f"column {place + 1}"


def _recognised(head: Sequence[str], known: Mapping[str, int], columns: Mapping[str, int]) -> Iterator[str]:
    """Says which columns were recognised by their cells although there is a header."""
    if found := [f"{_name(head, place)} as {name}" for name, place in columns.items() if head and name not in known]:
        yield f"columns were recognised by what they hold: {', '.join(found)}"


def _unused(head: Sequence[str], lines: Sequence[Sequence[str]], used: Collection[int]) -> Iterator[str]:
    """Says which columns are not used."""
    names = head or [_name((), place) for place in range(max(map(len, lines), default=0))]
    if left := [name for place, name in enumerate(names) if name and place not in used]:
        more = f" and {len(left) - LISTED} more" if len(left) > LISTED else ""
        yield f"columns that are not used: {', '.join(left[:LISTED])}{more}"


def _doubt(
    file: Path,
    head: Sequence[str],
    lines: Sequence[Sequence[str]],
    columns: Mapping[str, int],
    used: Collection[int],
) -> ImportFault | None:
    """What has to be said more clearly in the header."""
    others = [head[place] for place in places_of_names(lines, columns) if place < len(head)]
    if others and is_image_id(name := _name(head, columns["path"])) and not holds_names(lines, columns["path"]):
        return ImportFault(f"{file}: the images are named by {name}, or by {others[0]}", fix="call that column `path`")
    if not box_of(columns) and (name := lacking(head, used)):
        fix = "call the columns of boxes x1, y1, x2, y2, or x, y, w, h, and columns of something else otherwise"
        return ImportFault(f"{file} has columns of boxes, but none for {name}: {', '.join(head)}", fix=fix)
    return None


def _without_columns(file: Path) -> ImportFault:
    return ImportFault(f"{file} has no columns", fix="write `path,label` lines, or `path,label,x1,y1,x2,y2`")


def _descriptions(file: Path, found: Iterable[_Found], notes: Notes) -> dict[str, str]:
    """The names of Open Images' `/m/01g317`, which another CSV file next to it lists."""
    coded = {name for one in found for name in (*one.labels, *(box.label for box in one.boxes)) if name[:3] == "/m/"}
    names: dict[str, str] = {}
    for other in sorted(file.parent.glob("*.csv")) if coded else ():
        lines = (line.partition(",") for line in read_text(other).splitlines() if line.startswith("/m/"))
        names |= {code: name.strip() for code, _, name in lines if "," not in name}
    if unknown := sorted(coded - set(names)):
        notes.add(f"classes keep Open Images' codes, as no CSV file beside lists their names: {', '.join(unknown[:5])}")
    return names


def _flags(head: Sequence[str], columns: dict[str, int], sample: Sequence[Sequence[str]]) -> dict[str, int]:
    """Columns that hold only 0 and 1, or false and true, if there are at least two."""
    taken = set(columns.values())
    found = {
        name.strip(): place
        for place, name in enumerate(head)
        if place not in taken
        and name.strip()
        and sample
        and all(place < len(row) and _flag(row[place]) in (0, 1) for row in sample)
    }
    return found if len(found) > 1 else {}


def _is_set(row: Sequence[str], place: int) -> bool:
    return place < len(row) and _flag(row[place]) == 1


def _flag(cell: str) -> float | None:
    return {"false": 0, "true": 1}.get(cell.lower(), number_of(cell))


def _box(label: str, names: Sequence[str], edges: Sequence[str]) -> Box | str:
    """A line's box, or what is wrong with it."""
    if names == BBOX:
        edges, names = _NUMBER.findall(edges[0]), SIZED
        if len(edges) != 4:
            return f"bbox has {len(edges)} numbers"
    values = [number_of(text) for text in edges]
    if names == VERTICES:  # AutoML's: all four corners, or two opposite ones and nothing for the others
        corners = zip(values[::2], values[1::2], strict=True)
        outline = around((x, y) for x, y in corners if x is not None and y is not None)
        if outline is None:
            return "its box lacks a corner"
        x, y, width, height = outline
        values = [x, y, x + width, y + height]
    elif None in values:
        wrong = values.index(None)
        return f"{names[wrong]} is {edges[wrong]!r}, not a number"
    if not label:
        return "its box has no label"
    one, two, three, four = (value or 0.0 for value in values)
    return Box(label, one, two, three, four)
