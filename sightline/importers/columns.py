"""Which column of a CSV file is what, by its header or by what it holds."""

from collections.abc import Sequence
from pathlib import Path

from sightline.importers.model import is_image, number_of

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
EDGES = (CORNERS, SIZED, BBOX, VERTICES)
SPLIT_WORDS = ("TRAIN", "TRAINING", "VALIDATION", "VALIDATE", "TEST", "UNASSIGNED")  # before each line of AutoML's


def by_header(head: Sequence[str]) -> dict[str, int]:
    """The columns with a name that is known."""
    header = [cell.lower().replace(" ", "_") for cell in head]
    columns = {
        name: next(header.index(word) for word in words if word in header)
        for name, words in NAMES.items()
        if any(word in header for word in words)
    }
    sized = {"x", "y"} <= set(columns) and {"width", "height"} <= set(header)
    if sized and not {"w", "h"} & set(columns):
        columns |= {"w": header.index("width"), "h": header.index("height")}
    return columns


def by_content(rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """The columns of a file without a header: the first that names an image, the first text besides, four numbers.

    As AutoML has it, also a split before the image, and eight numbers; as Make Sense has it, a label, the box with its
    sides, then the image.
    """
    shift = 1 if rows[0][0].upper() in SPLIT_WORDS else 0
    found = {"split": 0} if shift else {}
    named = next((row for row in rows if any(map(_is_image, row))), rows[0])
    path = next((place for place, cell in enumerate(named) if _is_image(cell)), shift)
    rest = [place for place in range(shift, max(map(len, rows))) if place != path]
    drawn = next((row for row in rows if _numbers(row, rest) >= 4), None)
    if drawn is None:
        return {**found, "path": path, "label": rest[0]}
    label = next((place for place in rest if place < len(drawn) and number_of(drawn[place]) is None), rest[0])
    edges = [place for place in rest if place != label]
    if path > max(edges[:4]):
        return {**found, "path": path, "label": label, **dict(zip(SIZED, edges, strict=False))}
    names = VERTICES if len(edges) >= len(VERTICES) else CORNERS
    return {**found, "path": path, "label": label, **dict(zip(names, edges, strict=False))}


def _is_image(cell: str) -> bool:
    return is_image(Path(cell.partition("?")[0]))


def _numbers(row: Sequence[str], places: Sequence[int]) -> int:
    return sum(place < len(row) and number_of(row[place]) is not None for place in places)
