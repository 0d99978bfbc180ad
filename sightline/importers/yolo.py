"""YOLO: a text file with a line per object next to each image, and the classes in data.yaml or classes.txt."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.importers.files import images_in, is_there, read_text, subfolders, walk
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
    split_of,
    text_of,
)
from sightline.importers.shapes import around

CLASS_LISTS = ("classes.txt", "obj.names", "classes.names", "_darknet.labels", "predefined_classes.txt", "labels.txt")
POLYGONS = "{count} outlines (polygons or rotated boxes) were turned into the boxes around them"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the images of each split are, and the classes."""

    root: Path
    splits: tuple[tuple[str, tuple[Path, ...]], ...]  # of each split, its folders, lists or images
    names: dict[int, str]
    keypoints: bool = False


def yaml_of(folder: Path) -> Path | None:
    """The file with the classes and splits in a folder, if there is one: data.yaml, or Darknet's obj.data."""
    found = [folder / name for name in ("data.yaml", "dataset.yaml") if (folder / name).is_file()]
    for file in (*found, *sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])):
        if content_of(file).keys() & {"names", "nc", "train"}:
            return file
    return next((place / "obj.data" for place in (folder, *subfolders(folder)) if (place / "obj.data").is_file()), None)


def class_list_of(folder: Path) -> Path | None:
    """The file that lists the classes, if there is no yaml."""
    places = (folder, *subfolders(folder))
    return next((place / name for place in places for name in CLASS_LISTS if (place / name).is_file()), None)


def read(source: Path, images: Path | None = None) -> Imported:
    """A data.yaml, or a folder with one or with a list of classes; ImportFault with every line at fault."""
    folder = source if source.is_dir() else source.parent
    file = source if source.is_file() else yaml_of(folder)
    layout = _of_yaml(file, images) if file else _of_folder(folder, images)
    notes, faults = Notes(), list[str]()
    found = [image for split, places in layout.splits for image in _split(split, places, layout, notes, faults)]
    if faults:
        raise ImportFault(f"{source}: {len(faults)} lines of its labels cannot be read", faults)
    if not found:
        raise ImportFault(f"{source} names no images", fix="add the images, or say where they are with --images")
    listed = tuple(found)
    categories = in_order(listed, [layout.names[number] for number in sorted(layout.names)])
    return Imported(Format.YOLO, source, layout.root, listed, categories, detection=True, notes=notes.all())


def content_of(file: Path) -> dict[str, Any]:
    """The values in a yaml, or in Darknet's `key = value` lines, where `names` is a file with a line per class."""
    if file.suffix.lower() == ".data":
        pairs = (line.partition("=") for line in read_text(file).splitlines() if "=" in line)
        values: dict[str, Any] = {key.strip(): value.strip() for key, _, value in pairs}
        listed = _place(file.parent, file, values.get("names", ""))
        names = read_text(listed).splitlines() if listed and is_there(listed, Path.is_file) else []
        return {**values, "names": [name.strip() for name in names if name.strip()]}
    return _yaml(file)


def _yaml(file: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - only YOLO needs it

    try:
        return dict(mapping(yaml.safe_load(read_text(file))))
    except yaml.YAMLError as error:
        raise ImportFault(f"{file} cannot be read as YAML: {error}") from None


def _of_yaml(file: Path, images: Path | None) -> Layout:
    content = content_of(file)
    root = images or _root(file, text_of(content.get("path")))
    splits: list[tuple[str, tuple[Path, ...]]] = []
    for key, value in content.items():
        if split := split_of(key):
            listed = value if isinstance(value, list) else [value]
            places = [_place(root, file, text_of(one)) for one in listed if text_of(one)]
            if found := tuple(place for place in places if place):
                splits.append((split, found))
    if not splits:
        splits = list(_by_folders(root))
    return Layout(_common(root, file, splits), tuple(splits), _names(file, content), "kpt_shape" in content)


def _common(root: Path, file: Path, splits: Iterable[tuple[str, tuple[Path, ...]]]) -> Path:
    """The folder that image names are relative to: `root`, or one above it that has all images."""
    for folder in (root, file.parent, *file.parent.resolve().parents[:1]):
        if all(place.resolve().is_relative_to(folder.resolve()) for _, places in splits for place in places):
            return folder
    return root


def _root(file: Path, path: str) -> Path:
    """The dataset's folder; one of the machine where the yaml was written is replaced by the yaml's own."""
    below = (file.parent / path) if path else file.parent
    return below if is_there(below, Path.is_dir) else file.parent


def _place(root: Path, file: Path, text: str) -> Path | None:
    """A split's folder or list. Exports write `../train/images` for a folder next to the yaml."""
    path = text.replace("\\", "/")
    without = "/".join(part for part in path.split("/") if part not in ("", ".", ".."))
    tails = ["/".join(without.split("/")[number:]) for number in range(len(without.split("/")))]
    for base in (root, file.parent):
        for place in (base / path, *(base / tail for tail in tails)):
            if is_there(place):
                return place
    return None


def _names(file: Path, content: dict[str, Any]) -> dict[int, str]:
    names = content.get("names")
    pairs = enumerate(names) if isinstance(names, list) else mapping(names).items()
    found: dict[int, str] = {}
    for number, name in pairs:
        index = number_of(number)
        if index is None or not text_of(name):
            raise ImportFault(f"{file}: the class {number}: {name} is not a number and a name")
        found[int(index)] = text_of(name)
    if not found:
        raise ImportFault(f"{file} lists no classes under `names`", fix="list them as `names: [cat, dog]`")
    return found


def _of_folder(folder: Path, images: Path | None) -> Layout:
    listed = class_list_of(folder)
    if listed is None:
        raise ImportFault(
            f"{folder} has labels in YOLO's form but neither a data.yaml nor a classes.txt",
            fix="add a classes.txt with the name of each class on its line",
        )
    names = [line.strip() for line in read_text(listed).splitlines()]
    return Layout(images or folder, tuple(_by_folders(images or folder)), dict(enumerate(filter(None, names))))


def _by_folders(root: Path) -> Iterable[tuple[str, tuple[Path, ...]]]:
    """The splits by their folders, `train/images` or `images/train`; otherwise everything as one."""
    for base in (root, root / "images"):
        named = {one: split_of(one.name) for one in subfolders(base)} if is_there(base, Path.is_dir) else {}
        if any(named.values()):
            return [(split, (one,)) for one, split in named.items() if split]
    return [("", (root,))]


def _split(
    split: str, places: Iterable[Path], layout: Layout, notes: Notes, faults: list[str]
) -> Iterable[LabelledImage]:
    for file in (image for place in places for image in _images(place, layout.root)):
        boxes = _boxes(_labels_of(file), layout, notes, faults)
        try:
            name = file.resolve().relative_to(layout.root.resolve()).as_posix()
        except ValueError:
            name = file.as_posix()
        yield LabelledImage(name, boxes=boxes, split=split)


def _images(place: Path, root: Path) -> list[Path]:
    if is_there(place, Path.is_dir):
        return [place / name for name in images_in(place)]
    if is_image(place):
        return [place]
    lines = [line.strip().replace("\\", "/") for line in read_text(place).splitlines() if line.strip()]
    return [_place(place.parent, place, line) or _place(root, place, line) or root / line for line in lines]


def _labels_of(image: Path) -> Path:
    """The text file of an image: next to it, or in the `labels` folder in place of the last `images`."""
    beside = image.with_suffix(".txt")
    parts = list(beside.parts)
    for number in range(len(parts) - 2, -1, -1):
        if parts[number] == "images":
            parts[number] = "labels"
            moved = Path(*parts)
            return moved if is_there(moved) or not is_there(beside) else beside
    apart = image.parent.parent / "labels" / beside.name
    return apart if is_there(apart) and not is_there(beside) else beside


def _boxes(file: Path, layout: Layout, notes: Notes, faults: list[str]) -> tuple[Box, ...]:
    if not is_there(file, Path.is_file):
        notes.count("{count} images without a file of labels count as background")
        return ()
    boxes: list[Box] = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip():
            box = _box(line.split(), layout, notes)
            if isinstance(box, Box):
                boxes.append(box)
            else:
                faults.append(f"{file}, line {number}: {box}")
    return tuple(boxes)


def _box(words: list[str], layout: Layout, notes: Notes) -> Box | str:
    """A line's box, or what is wrong with it."""
    numbers = [number_of(word) for word in words]
    values = [number for number in numbers if number is not None]
    if len(values) != len(words):
        return f"{next(w for w, n in zip(words, numbers, strict=True) if n is None)!r} is not a number"
    label = layout.names.get(int(values[0])) if values[0].is_integer() else None
    if label is None:
        return f"class {words[0]} is not among the {len(layout.names)} classes"
    rest = values[1:]
    if layout.keypoints and len(rest) > 4:
        notes.count("the keypoints of {count} objects are left out")
        rest = rest[:4]
    if len(rest) == 5:
        notes.count("the confidence of {count} boxes is left out")
    if len(rest) in (4, 5):
        x, y, width, height = rest[:4]
        return Box(label, x - width / 2, y - height / 2, width, height)
    outline = around(zip(rest[::2], rest[1::2], strict=False))
    if outline and len(rest) >= 6 and len(rest) % 2 == 0:
        notes.count(POLYGONS)
        return Box(label, *outline)
    return f"{len(rest)} numbers follow the class, where a box has 4 and an outline 6 or more"


def looks_like(folder: Path) -> bool:
    """Whether the folder has labels in YOLO's form: text files next to a list of classes, or named like images."""
    texts = [name for name in walk(folder) if name.lower().endswith(".txt")]
    if class_list_of(folder) is not None:
        return bool(texts)
    stems = {Path(name).stem for name in images_in(folder)} if texts else set[str]()
    return any(_is_label(folder / name) for name in texts if Path(name).stem in stems)


def _is_label(file: Path) -> bool:
    """Whether the file begins with a line of YOLO's."""
    try:
        words = next((line.split() for line in read_text(file).splitlines() if line.strip()), [])
    except ImportFault:
        return False
    numbers = [number for word in words if (number := number_of(word)) is not None]
    return len(words) == len(numbers) >= 5 and numbers[0].is_integer() and all(0 <= one <= 1 for one in numbers[1:5])
