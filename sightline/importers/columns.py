"""Which column of a CSV file is what, by its header or by what it holds."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sightline.importers.model import BoxForm, is_image, number_of, split_of

NAMES = {  # in lower case, without what separates words
    "path": ("path", "file", "filename", "filepath", "image", "imagepath", "imagename", "imagefilename", "imageid",
             "img", "imgname", "imgpath", "uri", "url", "imageurl", "id", "idcode"),
    "label": ("label", "class", "category", "tag", "classname", "labelname", "categoryname", "labels", "name", "target",
              "classid", "labelid", "categoryid"),
    "split": ("split", "set", "subset", "partition", "usage", "mluse"),
}  # fmt: skip
IMAGE_SIDES = {
    "image_width": ("imagewidth", "imgwidth", "width"),
    "image_height": ("imageheight", "imgheight", "height"),
}
EDGE_NAMES = {  # also after `bbox` and the like
    "x1": ("x1", "xmin", "left", "xtl", "minx"),
    "y1": ("y1", "ymin", "top", "ytl", "miny"),
    "x2": ("x2", "xmax", "right", "xbr", "maxx"),
    "y2": ("y2", "ymax", "bottom", "ybr", "maxy"),
    "x": ("x",),
    "y": ("y",),
    "cx": ("cx", "xcenter", "centerx", "xcentre", "centrex"),
    "cy": ("cy", "ycenter", "centery", "ycentre", "centrey"),
    "w": ("w", "width"),
    "h": ("h", "height"),
    "bbox": ("bbox", "box", "boundingbox"),
    **{f"vertex{number}": (f"{'xy'[number % 2]}{number // 2 + 1}",) for number in range(8)},
}
VERTICES = tuple(f"vertex{number}" for number in range(8))
CORNERS, SIZED, BBOX = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h"), ("bbox",)
CORNER_SIZED, CENTRED = ("x1", "y1", "w", "h"), ("cx", "cy", "w", "h")
EDGES = {
    VERTICES: BoxForm.XYXY,
    CORNERS: BoxForm.XYXY,
    SIZED: BoxForm.XYWH,
    CORNER_SIZED: BoxForm.XYWH,
    CENTRED: BoxForm.CXCYWH,
    BBOX: BoxForm.XYWH,
}
SIDES = 4  # numbers of a box
OPEN_IMAGES = {"imageid", "labelname", "confidence"}
IDS = ("id", "idcode")  # of images, or only of lines
_OF_BOX = re.compile(r"^(?:bbox|box|boundingbox|bndbox)(?=.)")
SPLIT_WORDS = ("TRAIN", "TRAINING", "VALIDATION", "VALIDATE", "TEST", "UNASSIGNED")  # before each line of AutoML's


def by_header(head: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """The columns with a name that is known, unless their cells say otherwise.

    A label is no name of a file, and a mere id names no image if another column names files.
    """
    keys = [_key(cell) for cell in head]
    places = {name: [keys.index(word) for word in words if word in keys] for name, words in NAMES.items()}
    edges = _edges(head)
    columns = {name: found[0] for name, found in places.items() if found}
    if box := {name: edges[name] for name in box_of(edges)}:
        columns |= box | _image_sides(keys, box.values())
    if OPEN_IMAGES.issubset(keys):
        columns["confidence"] = keys.index("confidence")
    if "label" in columns and holds_names(rows, columns["label"]):
        del columns["label"]
    weak = "path" in columns and keys[columns["path"]] in IDS and not holds_names(rows, columns["path"])
    if weak and places_of_names(rows, columns):
        del columns["path"]
    return columns


def lacking(head: Sequence[str], used: Collection[int]) -> str:
    """The column that a box lacks of which there are all others, besides the used ones; empty without such a box."""
    there = {name for name, place in _edges(head).items() if place not in used}
    boxes = (CORNERS, SIZED, CORNER_SIZED, CENTRED)
    missing = [[name for name in names if name not in there] for names in boxes]
    single = (names[0] for names in missing if len(names) == 1)
    return next((name for name in single if name not in ("x", "y", "cx", "cy")), "")  # whose sides may be the image's


def _image_sides(keys: Sequence[str], taken: Collection[int]) -> dict[str, int]:
    """The columns of the images' sides, besides those of the boxes; empty unless there are both."""
    places = {
        side: [keys.index(word) for word in words if word in keys and keys.index(word) not in taken]
        for side, words in IMAGE_SIDES.items()
    }
    return {side: found[0] for side, found in places.items()} if all(places.values()) else {}


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _edges(head: Sequence[str]) -> dict[str, int]:
    """The columns of boxes; of two with the same meaning, the one that says that it is a box's."""
    keys = [_key(cell) for cell in head]
    bare = [_OF_BOX.sub("", key) for key in keys]
    if {"x0", "y0"} <= set(bare):
        bare = [f"{key[0]}{int(key[1]) + 1}" if re.fullmatch("[xy][0-8]", key) else key for key in bare]
    places = {
        name: [place for word in words for place, key in enumerate(bare) if key == word]
        for name, words in EDGE_NAMES.items()
    }
    return {name: min(found, key=lambda place: keys[place] == bare[place]) for name, found in places.items() if found}


def places_of_names(rows: Sequence[Sequence[str]], known: Mapping[str, int]) -> list[int]:
    """The columns besides those that are known in which a cell names an image file."""
    width = max(map(len, rows), default=0)
    return [place for place in range(width) if place not in known.values() and holds_names(rows, place)]


def by_content(rows: Sequence[Sequence[str]], known: Mapping[str, int], flags: Collection[int]) -> dict[str, int]:
    """The known columns, and the others by what they hold: names of images, the first text besides, four numbers.

    Without text and flags, the first number after the image is the label. As AutoML has it, also a split before the
    image, and eight numbers; as Make Sense has it, a label, the box with its sides, then the image. Beside boxes, two
    numbers after the image are its sides.
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
    runs = [] if box_of(known) else _side_by_side(numbers)
    count = SIDES + (not label)
    run = next((run for run in runs if any(_numbers(row, run) >= count for row in rows)), [])
    if not label and not flags:
        label, run = (run or [place for place in rest if place > path] or rest)[:1], run[1:]
    if run:
        names = SIZED if path > run[SIDES - 1] else VERTICES if len(run) >= len(VERTICES) else CORNERS
        found |= dict(zip(names, run, strict=False))
        if [path + 1, path + 2] in runs:
            found |= {"image_width": path + 1, "image_height": path + 2}
    return {**found, "path": path, **dict(zip(("label",), label, strict=False))}


def box_of(columns: Collection[str]) -> tuple[str, ...]:
    """Those of the columns that make a box; empty without them."""
    return next((names for names in EDGES if set(names) <= set(columns)), ())


def is_image_id(name: str) -> bool:
    """Whether a column of this name has ids of images, which may be their files' names or not."""
    return _key(name) == "imageid"


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


def _side_by_side(places: Sequence[int]) -> list[list[int]]:
    """The columns, those that are side by side together."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _numbers(row: Sequence[str], places: Sequence[int]) -> int:
    return sum(place < len(row) and number_of(row[place]) is not None for place in places)


def _cells(rows: Sequence[Sequence[str]], place: int) -> list[str]:
    """What the column holds, without empty cells."""
    return [row[place] for row in rows if place < len(row) and row[place]]
