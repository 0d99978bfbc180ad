"""YOLO: a text file with a line per object next to each image, and the classes in data.yaml or classes.txt."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.importers.files import images_in, is_there, read_text, subfolders
from sightline.importers.folders import unread_in
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
from sightline.importers.shapes import KEYPOINTS, around
from sightline.importers.yolo_labels import CLASS_LISTS, Labels, is_label, texts_below, texts_of_images
from sightline.plurals import counted

PRECEDENCE = ("train", "val", "test", "")  # of splits that have the same image
NOTHING = ("", "~", "null")  # how a yaml writes that there is none
POLYGONS = "turned into upright boxes: {count:outline|outlines} (polygons or rotated boxes)"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the images of each split are, and the classes."""

    root: Path
    splits: tuple[tuple[str, tuple[Path, ...]], ...]  # of each split, its folders, lists or images
    names: dict[int, str]
    keypoints: bool = False
    missing: tuple[str, ...] = ()  # what the yaml names, and is not there


def yaml_of(folder: Path) -> Path | None:
    """The file with the classes and splits in a folder, if there is one: data.yaml, or Darknet's obj.data."""
    found = [folder / name for name in ("data.yaml", "dataset.yaml") if (folder / name).is_file()]
    if file := next((file for file in found if content_of(file).keys() & {"names", "nc", "train"}), None):
        return file
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        if content_of(file).keys() & {"names", "nc"}:  # settings of a training may have `train` too
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
    notes, faults, labels = Notes(), list[str](), Labels()
    found = tuple(
        LabelledImage(name, boxes=_boxes(labels.of(image), layout, notes, faults), split=split)
        for name, (image, split) in _placed(layout, notes).items()
    )
    if faults:
        raise ImportFault(f"{source}: {counted(len(faults), 'line')} of its labels cannot be read", faults)
    if not found:
        raise ImportFault(f"{source} names no images", fix="add the images, or say where they are with --images")
    if not labels.used:
        raise ImportFault(
            f"{source}: {counted(len(found), 'image')}, and no file of labels",
            fix="put each image's text file next to it, or into `labels` in place of `images`; "
            "or choose another form, as --format folders for a folder per class",
        )
    _say_left_out(layout, labels, notes)
    categories = in_order(found, [layout.names[number] for number in sorted(layout.names)])
    return Imported(Format.YOLO, source, layout.root, found, categories, detection=True, notes=notes.all())


def _say_left_out(layout: Layout, labels: Labels, notes: Notes) -> None:
    if layout.missing:
        notes.add(f"left out, as it is not there: {', '.join(layout.missing)}")
    if count := labels.unused():
        unread = unread_in(layout.root)
        reason = f"; {unread} cannot be read here: convert them to JPEG or PNG" if unread else ""
        notes.add(f"left out: {counted(count, 'file')} of labels without an image{reason}")


def content_of(file: Path) -> dict[str, Any]:
    """The values in a yaml, or in Darknet's `key = value` lines, where `names` is a file with a line per class."""
    if file.suffix.lower() == ".data":
        pairs = (line.partition("=") for line in read_text(file).splitlines() if "=" in line)
        values: dict[str, Any] = {key.strip(): value.strip() for key, _, value in pairs}
        listed = _place(file.parent, file, values.get("names", ""))
        return {**values, "names": _listed(listed) if listed and is_there(listed, Path.is_file) else {}}
    return _yaml(file)


def _yaml(file: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - only YOLO needs it

    try:
        return dict(mapping(yaml.load(read_text(file), yaml.BaseLoader)))  # noqa: S506 - makes only texts, also of `no`
    except (yaml.YAMLError, RecursionError) as error:
        raise ImportFault(f"{file} cannot be read as YAML: {error}") from None


def _of_yaml(file: Path, images: Path | None) -> Layout:
    content = content_of(file)
    root = images or _root(file, text_of(content.get("path")))
    splits: list[tuple[str, tuple[Path, ...]]] = []
    missing: list[str] = []
    for key, value in content.items():
        if split := split_of(key):
            listed = map(text_of, value if isinstance(value, list) else [value])
            places = {text: _place(root, file, text) for text in listed if text not in NOTHING}
            missing += (f"{key}: {text}" for text, place in places.items() if not place)
            if found := tuple(place for place in places.values() if place):
                splits.append((split, found))
    if not splits:
        splits = _by_folders(root)
    common, names = _common(root, file, splits), _names(file, content)
    return Layout(common, tuple(splits), names, "kpt_shape" in content, tuple(missing))


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
    """A split's folder or list, or an image. Exports write `../train/images` for a folder next to the yaml."""
    path = text.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    splits = [number for number, part in enumerate(parts) if split_of(part) and not is_image(Path(path))]
    tails = ["/".join(parts[number:]) for number in range(max(splits, default=len(parts) - 1) + 1)]
    for base in (root, file.parent):
        for place in (base / path, *(base / tail for tail in tails)):
            if is_there(place):
                return place
    return None


def names_of(file: Path) -> tuple[str, ...]:
    """The classes in a yaml; ImportFault if it has none."""
    return tuple(_names(file, content_of(file)).values())


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
    return Layout(images or folder, tuple(_by_folders(images or folder)), _listed(listed))


def _listed(file: Path) -> dict[int, str]:
    """The classes by the numbers of their lines; an empty line is a number without a class."""
    return {number: line.strip() for number, line in enumerate(read_text(file).splitlines()) if line.strip()}


def _by_folders(root: Path) -> list[tuple[str, tuple[Path, ...]]]:
    """The splits by their folders, `train/images` or `images/train`, and the labelled images outside of these."""
    bases = [base for base in (root, root / "images") if is_there(base, Path.is_dir)]
    named = {one: split for base in bases for one in subfolders(base) if (split := split_of(one.name))}
    if not named:
        return [("", (root,))]
    labels, outside = Labels(), (root / name for name in images_in(root))
    rest = tuple(one for one in outside if named.keys().isdisjoint(one.parents) and labels.of(one))
    return [*((split, (one,)) for one, split in named.items()), *([("", rest)] if rest else [])]


def _placed(layout: Layout, notes: Notes) -> dict[str, tuple[Path, str]]:
    """The file and the split of each image by its name; the first split has an image that several list."""
    found: dict[str, tuple[Path, str]] = {}
    for split, places in sorted(layout.splits, key=lambda one: PRECEDENCE.index(one[0])):
        for file in (image for place in places for image in _images(place, layout.root)):
            name = _name(file, layout.root)
            if name not in found:
                found[name] = file, split
            elif (first := found[name][1]) != split:
                notes.count(f"counted in {first} only: {{count:image|images}} that {split} has too")
            else:
                notes.count("counted once: {count:image|images} listed twice")
    return found


def _name(file: Path, root: Path) -> str:
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return file.as_posix()


def _images(place: Path, root: Path) -> list[Path]:
    if is_there(place, Path.is_dir):
        return [place / name for name in images_in(place)]
    if is_image(place):
        return [place]
    lines = [line.strip().replace("\\", "/") for line in read_text(place).splitlines() if line.strip()]
    return [_place(place.parent, place, line) or _place(root, place, line) or root / line for line in lines]


def _boxes(file: Path | None, layout: Layout, notes: Notes, faults: list[str]) -> tuple[Box, ...]:
    if file is None:
        notes.count("counted as background: {count:image|images} without a file of labels")
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
        return f"class {words[0]} is not in the list of {counted(len(layout.names), 'class', 'classes')}"
    rest = values[1:]
    if layout.keypoints and len(rest) > 4:
        notes.count(KEYPOINTS)
        rest = rest[:4]
    if len(rest) == 5:
        notes.count("the confidence of {count:box|boxes} is left out")
    if len(rest) in (4, 5):
        x, y, width, height = rest[:4]
        return Box(label, x - width / 2, y - height / 2, width, height)
    outline = around(zip(rest[::2], rest[1::2], strict=False))
    if outline and len(rest) >= 6 and len(rest) % 2 == 0:
        notes.count(POLYGONS)
        return Box(label, *outline)
    return f"{len(rest)} numbers follow the class, where a box has 4 and an outline 6 or more"


def looks_like(folder: Path) -> bool:
    """Whether text files begin as labels do, or are named like the images; without a list of classes, both."""
    texts = texts_of_images(folder)
    if class_list_of(folder) is None:
        return any(map(is_label, texts))
    return bool(texts) or any(map(is_label, texts_below(folder)))
