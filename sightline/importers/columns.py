"""Which column of a CSV file is what, by its header or by what it holds."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sightline.importers.model import is_image, number_of, split_of

NAMES = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_name",
             "image_filename", "image_id", "imageid", "img", "img_name", "img_path", "uri", "url", "image_url", "id",
             "id_code"),
    "label": ("label", "class", "category", "tag", "class_name", "label_name", "category_name", "labelname", "labels",
              "name", "target", "classname", "class_id", "label_id", "category_id"),
    "x1": ("x1", "xmin", "x_min", "left", "xtl"),
    "y1": ("y1", "ymin", "y_min", "top", "ytl"),
    "x2": ("x2", "xmax", "x_max", "right", "xbr"),
    "y2": ("y2", "ymax", "y_max", "bottom", "ybr"),
    "x": ("x", "bbox_x"),
    "y": ("y", "bbox_y"),
    "w": ("w", "bbox_width", "bbox_w", "box_width"),
    "h": ("h", "bbox_height", "bbox_h", "box_height"),
    "bbox": ("bbox", "box", "bounding_box"),
    "split": ("split", "set", "subset", "partition", "usage", "ml_use"),
}  # fmt: skip
CORNERS, SIZED, BBOX = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h"), ("bbox",)
VERTICES = tuple(f"vertex{number}" for number in range(8))
IDS = ("id", "id_code")  # of images, or only of lines
SIDES = 4  # numbers of a box
EDGES = (CORNERS, SIZED, BBOX, VERTICES)
SPLIT_WORDS = ("TRAIN", "TRAINING", "VALIDATION", "VALIDATE", "TEST", "UNASSIGNED")  # before each line of AutoML's


def by_header(head: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """The columns with a name that is known, unless their cells say otherwise.

    A label is no name of a file, and a mere id names no image if another column names files.
    """
    header = [cell.lower().replace(" ", "_") for cell in head]
    columns = {
        name: next(header.index(word) for word in words if word in header)
        for name, words in NAMES.items()
        if any(word in header for word in words)
    }
    sized = {"x", "y"} <= set(columns) and {"width", "height"} <= set(header)
    if sized and not {"w", "h"} & set(columns):
        columns |= {"w": header.index("width"), "h": header.index("height")}
    if "label" in columns and holds_names(rows, columns["label"]):
        del columns["label"]
    weak = "path" in columns and header[columns["path"]] in IDS and not holds_names(rows, columns["path"])
    if weak and places_of_names(rows, columns):
        del columns["path"]
    return columns


def places_of_names(rows: Sequence[Sequence[str]], known: Mapping[str, int]) -> list[int]:
    """The columns besides those that are known in which a cell names an image file."""
    width = max(map(len, rows), default=0)
    return [place for place in range(width) if place not in known.values() and holds_names(rows, place)]


def by_content(rows: Sequence[Sequence[str]], known: Mapping[str, int], flags: Collection[int] = ()) -> dict[str, int]:
    """The known columns, and the others by what they hold: names of images, the first text besides, four numbers.

    Without text and flags, the first number after the image is the label. As AutoML has it, also a split before the
    image, and eight numbers; as Make Sense has it, a label, the box with its sides, then the image.
    """
    found, taken = dict(known), {*known.values(), *flags}
    rest = [place for place in range(max(map(len, rows))) if place not in taken]
    if "split" not in known and (split := _split(rows, rest)) is not None:
        found["split"] = split
        rest.remove(split)
    path = next((place for place in rest if holds_names(rows, place)), rest[0])
    rest.remove(path)
    numbers = [place for place in rest if not _is_text(rows, place)]
    label = [known["label"]] if "label" in known else [place for place in rest if place not in numbers][:1]
    run = [] if box_of(known) else _side_by_side(rows, numbers, SIDES + (not label))
    if not label and not flags:
        label, run = (run or [place for place in rest if place > path] or rest)[:1], run[1:]
    if run:
        names = SIZED if path > run[SIDES - 1] else VERTICES if len(run) >= len(VERTICES) else CORNERS
        found |= dict(zip(names, run, strict=False))
    return {**found, "path": path, **dict(zip(("label",), label, strict=False))}


def box_of(columns: Collection[str]) -> tuple[str, ...]:
    """Those of the columns that make a box; empty without them."""
    return next((names for names in EDGES if set(names) <= set(columns)), ())


def is_image_id(name: str) -> bool:
    """Whether a column of this name has ids of images, which may be their files' names or not."""
    return name.lower() in ("image_id", "imageid")


def names_image(cell: str) -> bool:
    """Whether the cell is the name or the URL of an image file."""
    return is_image(Path(cell.partition("?")[0]))


def holds_names(rows: Sequence[Sequence[str]], place: int) -> bool:
    """Whether a cell of the column names an image file."""
    return any(map(names_image, _cells(rows, place)))


def is_split(cell: str) -> bool:
    """Whether the cell is the name of a split."""
    return bool(split_of(cell)) or cell.upper() in SPLIT_WORDS


def _split(rows: Sequence[Sequence[str]], places: Sequence[int]) -> int | None:
    """The column with nothing but splits: several ones, or AutoML's before the image; a class may be called train."""
    for place in places if len(places) > 2 else ():
        held = set(_cells(rows, place))
        if held and all(map(is_split, held)) and (len(held) > 1 or (place == 0 and _is_text(rows, 1))):
            return place
    return None


def _is_text(rows: Sequence[Sequence[str]], place: int) -> bool:
    """Whether most cells of the column are no numbers."""
    held = _cells(rows, place)
    return 2 * sum(number_of(cell) is None for cell in held) > len(held)


def _side_by_side(rows: Sequence[Sequence[str]], places: Sequence[int], count: int) -> list[int]:
    """The first of the columns that are side by side, and so many that a row has `count` numbers there; or none."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return next((run for run in runs if any(_numbers(row, run) >= count for row in rows)), [])


def _numbers(row: Sequence[str], places: Sequence[int]) -> int:
    return sum(place < len(row) and number_of(row[place]) is not None for place in places)


def _cells(rows: Sequence[Sequence[str]], place: int) -> list[str]:
    """What the column holds, without empty cells."""
    return [row[place] for row in rows if place < len(row) and row[place]]
