"""A folder per class: `cats/1.jpg`, or `train/cats/1.jpg` and `test/cats/2.jpg`."""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from sightline.importers.files import PACKED, has_images, images_in, is_packed, links_in, subfolders, walk
from sightline.importers.model import Format, Imported, ImportFault, LabelledImage, Notes, in_order, is_image, split_of
from sightline.plurals import counted

UNREAD = {
    *(
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".psd",
        ".svg",
        ".pdf",
        ".eps",
        ".ppm",
        ".pgm",
        ".tga",
        ".exr",
    ),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".dcm"),
}  # of files that show something but are no images here


HOLDERS = {"data", "images", "image", "imgs", "img", "photos", "pictures", "default", "all", "jpegimages", "labels"} | {
    *("obj_train_data", "export", "raw", "train", "training", "val", "valid", "validation", "test", "input", "files")
}  # names of folders that only hold images


def read(folder: Path) -> Imported:
    """The images by the first folder below `folder`, or below its split; ImportFault if there are none."""
    notes = Notes()
    top = _innermost(folder)
    images = list(_images(top, notes))
    if not images:
        raise ImportFault(f"{folder} has no images in folders", fix="put the images of each class in a folder of it")
    names = {label for image in images for label in image.labels}
    if _say_nothing(names):
        where = (
            f"one folder, {names.pop()}, which says" if len(names) == 1 else f"{', '.join(sorted(names))}, which say"
        )
        raise ImportFault(
            f"all images of {folder} are in {where} nothing about what they show",
            fix="add the file of annotations, or put the images of each class in a folder with its name",
        )
    suffixes = _suffixes_in(top)
    if unread := _counts(suffixes, UNREAD):
        notes.add(f"left out, as they cannot be read here: {unread}; convert them to JPEG or PNG")
    if packed := _counts(suffixes, PACKED):
        notes.add(f"left out, as they are packed: {packed}; unpack them into the folders of their classes")
    if bare := sum(_suffixes_in(one)[""] for one in subfolders(top)):
        notes.add(f"left out, as their names have no extension: {counted(bare, 'file')}")
    links = [link.relative_to(top).as_posix() for one in subfolders(top) for link in links_in(one)]
    if links:
        notes.add(f"left out, as links below a class's folder are not followed: {', '.join(links)}")
    images_ = tuple(images)
    return Imported(Format.FOLDERS, folder, top, images_, in_order(images_), detection=False, notes=notes.all())


def say_nothing(folder: Path) -> bool:
    """Whether images are in folders below this one, none of whose names says what they show."""
    top, notes = _innermost(folder), Notes()
    names = {label for image in _images(top, notes) for label in image.labels}
    return bool(names) and _say_nothing(names)


def _say_nothing(names: Collection[str]) -> bool:
    return all(name.lower() in HOLDERS or split_of(name) for name in names)


def looks_like(folder: Path) -> bool:
    """Whether images are in folders below this one."""
    return any(has_images(one) for one in subfolders(folder))


def unread_in(folder: Path) -> str:
    """The files below the folder that show something but cannot be read: `2 .heic files, 1 .avif file`; or empty."""
    return _counts(_suffixes_in(folder), UNREAD)


def _suffixes_in(folder: Path) -> Counter[str]:
    """How many files below the folder end so, in lower case."""
    return Counter(Path(name).suffix.lower() for name in walk(folder))


def _counts(suffixes: Counter[str], listed: Collection[str]) -> str:
    """The counts of those that are listed, in words."""
    found = [(suffix, count) for suffix, count in suffixes.most_common() if suffix in listed]
    return ", ".join(counted(count, f"{suffix} file") for suffix, count in found)


def packed_in(folder: Path) -> list[str]:
    """The names of the archives in the folder."""
    return [file.name for file in sorted(folder.iterdir()) if is_packed(file)]


def _splits(top: Path, notes: Notes) -> dict[Path, str]:
    """The folder of each split that holds the classes' folders; `top` itself if it holds them.

    Folders that are in no split are left out, if there are several splits. Beside the classes' folders, one split may
    have the same ones again.
    """
    places = [one for one in subfolders(top) if has_images(one)]
    splits = {one: split for one in places if (split := split_of(one.name))}
    others = [one.name for one in places if one not in splits]
    inner = {_innermost(one): split for one, split in splits.items()}
    again = {one.name for root in inner for one in subfolders(root)}
    if others and len(set(splits.values())) < 2:
        return {top: "", **inner} if again and again <= set(others) else {top: ""}
    if not any(map(subfolders, splits)):
        return {top: ""}
    if others:
        notes.add(f"left out, as they are in no split: the images in {', '.join(others)}")
    return inner


def _innermost(folder: Path) -> Path:
    """The folder below a chain of folders of which each has images only in one folder with further folders."""
    while True:
        below = [one for one in subfolders(folder) if has_images(one)]
        if len(below) != 1 or not any(map(has_images, subfolders(below[0]))) or _loose(folder) or _loose(below[0]):
            return folder
        folder = below[0]


def _loose(folder: Path) -> int:
    return sum(1 for file in folder.iterdir() if file.is_file() and is_image(file))


def _images(top: Path, notes: Notes) -> Iterator[LabelledImage]:
    splits = _splits(top, notes)
    for root, split in splits.items():
        apart = [one for one in subfolders(root) if any(other.is_relative_to(one) for other in splits.keys() - {root})]
        yield from _classes(root, split, top, notes, apart)


def _classes(root: Path, split: str, top: Path, notes: Notes, apart: Collection[Path]) -> list[LabelledImage]:
    """The images in the folders of a root, without those folders that are `apart`."""
    images: list[LabelledImage] = []
    if loose := _loose(root):
        notes.count("left out: {count:image|images} in no class's folder", loose)
    for folder in (one for one in subfolders(root) if one not in apart):
        names = images_in(folder)
        if not names:
            notes.add(f"the folder {folder.name} has no images and is left out")
        if any("/" in name for name in names):
            notes.add(f"images in folders below {folder.name} count as {folder.name}")
        place = folder.relative_to(top).as_posix()
        images += (LabelledImage(f"{place}/{name}", labels=(folder.name,), split=split) for name in names)
    return images
