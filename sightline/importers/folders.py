"""A folder per class: `cats/1.jpg`, or `train/cats/1.jpg` and `test/cats/2.jpg`."""

from pathlib import Path

from sightline.importers.files import images_in, subfolders
from sightline.importers.model import Format, Imported, ImportFault, LabelledImage, Notes, in_order, is_image, split_of


def read(folder: Path) -> Imported:
    """The images by the first folder below `folder`, or below its split; ImportFault if there are none."""
    notes = Notes()
    top = _innermost(folder)
    splits = {one: split_of(one.name) for one in subfolders(top) if images_in(one)}
    if not splits or not all(splits.values()) or not any(subfolders(one) for one in splits):
        splits = {top: ""}
    images = [image for root, split in splits.items() for image in _classes(root, split, top, notes)]
    if not images:
        raise ImportFault(f"{folder} has no images in folders", fix="put the images of each class in a folder of it")
    images_ = tuple(images)
    return Imported(Format.FOLDERS, folder, top, images_, in_order(images_), detection=False, notes=notes.all())


def looks_like(folder: Path) -> bool:
    """Whether images are in folders below this one."""
    return any(images_in(one) for one in subfolders(folder))


def _innermost(folder: Path) -> Path:
    """The folder below a chain of folders that each have nothing but one folder with further folders."""
    while True:
        below = subfolders(folder)
        if len(below) != 1 or not subfolders(below[0]) or _loose(folder) or _loose(below[0]):
            return folder
        folder = below[0]


def _loose(folder: Path) -> int:
    return sum(1 for file in folder.iterdir() if file.is_file() and is_image(file))


def _classes(root: Path, split: str, top: Path, notes: Notes) -> list[LabelledImage]:
    images: list[LabelledImage] = []
    if loose := _loose(root):
        notes.count("{count} images that are in no class's folder are left out", loose)
    for folder in subfolders(root):
        names = images_in(folder)
        if not names:
            notes.add(f"the folder {folder.name} has no images and is left out")
        if any("/" in name for name in names):
            notes.add(f"images in folders below {folder.name} count as {folder.name}")
        place = folder.relative_to(top).as_posix()
        images += (LabelledImage(f"{place}/{name}", labels=(folder.name,), split=split) for name in names)
    return images
