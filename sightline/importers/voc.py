"""Pascal VOC: an XML file per image, with the boxes' corners in pixels."""

import math
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from xml.etree.ElementTree import Element

from sightline.importers.files import read_text, read_xml, subfolders, walk
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
from sightline.importers.per_image import LOOKED_AT, names_for
from sightline.importers.shapes import OUTLINES, Point, around, four_of, turned
from sightline.plurals import counted

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def looks_like(folder: Path) -> bool:
    """Whether one of the first XML files below the folder is an image's."""
    names = (name for name in walk(folder) if name.lower().endswith(".xml"))
    return any(read_xml(folder / name).tag == "annotation" for name in islice(names, LOOKED_AT))


def read(source: Path) -> Imported:
    """The annotations in a folder, or one file; ImportFault with every object at fault."""
    folder = source if source.is_dir() else source.parent
    names = [name for name in walk(folder) if name.lower().endswith(".xml")] if source.is_dir() else [source.name]
    splits = _image_sets(folder)
    notes, faults = Notes(), list[str]()
    images = tuple(
        image
        for name in names
        if (image := _image(folder / name, name, _split_in(splits, name), notes, faults)) is not None
    )
    if faults:
        raise ImportFault(f"{source}: {counted(len(faults), 'fault')}", faults)
    if not images:
        raise ImportFault(f"{source} has no annotations in Pascal VOC's form")
    return Imported(Format.VOC, source, folder, images, in_order(images), detection=True, notes=notes.all())


def _image_sets(folder: Path) -> dict[str, dict[str, str]]:
    """The split of each image, from ImageSets/Main if it is there, by the folder that has it: test, then val."""
    return {
        one.relative_to(folder).as_posix(): _image_sets_in(one / "ImageSets" / "Main")
        for one in (folder, *subfolders(folder))
        if (one / "ImageSets").is_dir()
    }


def _image_sets_in(main: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("trainval", "train", "val", "test"):
        file = main / f"{name}.txt"
        if file.is_file():
            found |= {words[0]: split_of(name) for line in read_text(file).splitlines() if (words := line.split())}
    return found


def _split_in(sets: Mapping[str, Mapping[str, str]], name: str) -> str:
    """The split of an annotation file; of several years, each has its own sets."""
    meant = [listed for place, listed in sets.items() if len(sets) == 1 or name.startswith(f"{place}/")]
    return next((split for listed in meant if (split := listed.get(Path(name).stem, ""))), "")


def _image(file: Path, name: str, split: str, notes: Notes, faults: list[str]) -> LabelledImage | None:
    root = read_xml(file)
    if root.tag != "annotation":
        notes.count("left out: {count:XML file that is|XML files that are} not annotations")
        return None
    path = root.findtext("path") or ""
    image = (root.findtext("filename") or "").strip() or path.strip() or file.stem
    if not is_image(Path(image.replace("\\", "/"))):
        image = f"{image}.jpg" if "." not in image else image
    found, *others = names_for(name, image, path.strip())
    parents = [part for part in Path(name).parts[:-1] if split_of(part)]
    boxes = tuple(_boxes(root.iter("object"), file, notes, faults))
    width, height = (number_of(root.findtext(f"size/{side}")) or None for side in ("width", "height"))
    return LabelledImage(
        found,
        boxes=boxes,
        split=split or (split_of(parents[0]) if parents else ""),
        width=width,
        height=height,
        other_names=tuple(others),
        id=name,
    )


def _boxes(objects: Iterable[Element], file: Path, notes: Notes, faults: list[str]) -> Iterable[Box]:
    for number, each in enumerate(objects, 1):
        label = (each.findtext("name") or "").strip()
        corners = four_of([each.findtext(f"bndbox/{corner}") for corner in CORNERS])
        if not label:
            faults.append(f"{file}, object {number}: it has no name")
        elif corners:
            yield Box(label, *BoxForm.XYXY.to_xywh(*corners))
        elif outline := around(_points(each) or _turned(each)):
            notes.count(OUTLINES)
            yield Box(label, *outline)
        else:
            faults.append(f"{file}, object {number} ({label}): {_fault_of_box(each)}")
        if (each.findtext("difficult") or "").strip() == "1":
            notes.count("used like the others: {count:object|objects} marked difficult")


def _fault_of_box(each: Element) -> str:
    """What is wrong with an object's bndbox, of which not every corner is a number."""
    texts = {corner: (each.findtext(f"bndbox/{corner}") or "").strip() for corner in CORNERS}
    odd = [f"{corner} is '{text}', not a number" for corner, text in texts.items() if text and number_of(text) is None]
    return "; ".join(odd) or f"its bndbox lacks one of {', '.join(CORNERS)}"


def _points(each: Element) -> list[Point]:
    """The points of a polygon, `x1`, `y1`, `x2` and so on."""
    polygon = each.find("polygon")
    found: dict[str, float] = {}
    for point in polygon if polygon is not None else ():
        if (value := number_of(point.text)) is not None:
            found[point.tag] = value
    return [(found[f"x{n}"], found[f"y{n}"]) for n in range(1, len(found) // 2 + 1) if {f"x{n}", f"y{n}"} <= set(found)]


def _turned(each: Element) -> list[Point]:
    """The corners of a rotated box, as roLabelImg writes it: its centre, its sides, and an angle in radians."""
    sides = four_of([each.findtext(f"robndbox/{name}") for name in ("cx", "cy", "w", "h")])
    angle = number_of(each.findtext("robndbox/angle"))
    if sides is None or angle is None:
        return []
    return turned(BoxForm.CXCYWH.to_xywh(*sides), math.degrees(angle), sides[:2])
