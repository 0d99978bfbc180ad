"""Finds the text files with the labels of images, as YOLO lays them out."""

from collections.abc import Iterator
from pathlib import Path

from sightline.importers.files import images_in, is_there, read_text, walk
from sightline.importers.model import ImportFault, is_image, number_of
from sightline.importers.names import folded

CLASS_LISTS = ("classes.txt", "obj.names", "classes.names", "_darknet.labels", "predefined_classes.txt", "labels.txt")
HOLDERS = ("images", "image", "imgs", "img")  # names of folders in whose place one called `labels` may be


class Labels:
    """The text files of images. Their paths may differ from the expected ones in letter case and Unicode form."""

    def __init__(self) -> None:
        self.used: set[Path] = set()  # the files that were found
        self._places: dict[Path, list[Path]] = {}  # of the images in a folder, the folders that may have their files
        self._listed: dict[Path, dict[str, list[str]]] = {}  # of a folder, the names in it by their stem, folded

    def of(self, image: Path) -> Path | None:
        """An image's file: in `labels` in place of `images`, next to the image, or in `labels` next to its folder."""
        folder = image.absolute().parent
        if folder not in self._places:
            self._places[folder] = list(dict.fromkeys(self._places_for(folder)))
        file = next((file for place in self._places[folder] if (file := self._in(place, image))), None)
        self.used |= {file} if file else set()
        return file

    def unused(self) -> int:
        """How many files next to the used ones begin as labels do, but belong to no image."""
        used: dict[Path, set[str]] = {}
        for file in self.used:
            used.setdefault(file.parent.resolve(), set()).add(file.name)
        rest = (file for folder, names in used.items() for file in folder.iterdir() if file.name not in names)
        return sum(_is_text(file.name) and is_label(file) for file in rest)

    def _places_for(self, folder: Path) -> Iterator[Path]:
        parts = folder.parts
        holders = [number for number in reversed(range(1, len(parts))) if folded(parts[number]) in HOLDERS]
        for number in sorted(holders, key=lambda number: folded(parts[number]) != HOLDERS[0]):
            yield from self._below(Path(*parts[:number]), ("labels", *parts[number + 1 :]))
        yield folder
        yield from self._below(folder.parent, ("labels",))

    def _below(self, folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
        """The folder that these names lead to, if it is there."""
        for name in names:
            if not is_there(folder / name, Path.is_dir):
                near = [one for one in self._alike(folder, name) if folded(one) == folded(name)]
                if len(near) != 1:
                    return
                name = near[0]  # noqa: PLW2901 - as the folder has it
            folder /= name
        yield folder

    def _in(self, folder: Path, image: Path) -> Path | None:
        """The image's file in a folder; one of another form only if no other image can have it."""
        file = folder / f"{image.stem}.txt"
        if is_there(file, Path.is_file):
            return file
        near = [name for name in self._alike(folder, file.name) if _is_text(name) and (folder / name).is_file()]
        images = {Path(name).stem for name in self._alike(image.absolute().parent, image.name) if is_image(Path(name))}
        return folder / near[0] if len(near) == 1 and len(images) < 2 else None

    def _alike(self, folder: Path, name: str) -> list[str]:
        """The names in the folder with the same stem, in any letter case and Unicode form."""
        if folder not in self._listed:
            listed = self._listed[folder] = {}
            for one in _names_in(folder):
                listed.setdefault(folded(Path(one).stem), []).append(one)
        return self._listed[folder].get(folded(Path(name).stem), [])


def _names_in(folder: Path) -> list[str]:
    try:
        return [file.name for file in folder.iterdir()]
    except OSError:
        return []


def _is_text(name: str) -> bool:
    return name.lower().endswith(".txt") and name not in CLASS_LISTS


def texts_below(folder: Path) -> list[Path]:
    """The text files below the folder that may be labels."""
    return [folder / name for name in walk(folder) if _is_text(Path(name).name)]


def texts_of_images(folder: Path) -> list[Path]:
    """Those that are named like an image below the folder."""
    texts = texts_below(folder)
    stems = {folded(Path(name).stem) for name in images_in(folder)} if texts else set[str]()
    return [text for text in texts if folded(text.stem) in stems]


def is_label(file: Path) -> bool:
    """Whether the file begins with a line of YOLO's."""
    try:
        words = next((line.split() for line in read_text(file).splitlines() if line.strip()), [])
    except ImportFault:
        return False
    numbers = [number for word in words if (number := number_of(word)) is not None]
    return len(words) == len(numbers) >= 5 and numbers[0].is_integer() and all(0 <= one <= 1 for one in numbers[1:5])
