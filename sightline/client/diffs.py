"""What differs between two versions of a dataset."""

from collections import Counter
from collections.abc import Iterable

from sightline.client.results.diff import DatasetDiff, Relabelled
from sightline.exporters.model import Image, Snapshot

Marks = tuple[tuple[str, tuple[float, ...]], ...]  # the category of each annotation, and its box


def diff(old: Snapshot, new: Snapshot) -> DatasetDiff:
    """Images are the same if they have the same name or, without such a one, the same bytes."""
    before, after = _by_name(old.images), _by_name(new.images)
    pairs = [(before[name], after[name]) for name in before if name in after]
    gone = [image for name, image in before.items() if name not in after]
    come = [image for name, image in after.items() if name not in before]
    renamed = _renamed(gone, come)
    pairs += renamed
    moved = {id(image) for pair in renamed for image in pair}
    relabelled = [
        Relabelled(file_name=new_image.file_name, before=_labels(was), after=_labels(now))
        for old_image, new_image in pairs
        if (was := _marks(old_image, old)) != (now := _marks(new_image, new))
    ]
    old_names, new_names = old.categories.values(), new.categories.values()
    return DatasetDiff(
        added=tuple(image.file_name for image in come if id(image) not in moved),
        removed=tuple(image.file_name for image in gone if id(image) not in moved),
        replaced=tuple(now.file_name for was, now in pairs if was.sha256 != now.sha256),
        renamed=tuple((was.file_name, now.file_name) for was, now in renamed),
        relabelled=tuple(relabelled),
        categories_added=tuple(name for name in new_names if name not in set(old_names)),
        categories_removed=tuple(name for name in old_names if name not in set(new_names)),
    )


def _by_name(images: Iterable[Image]) -> dict[tuple[str, int], Image]:
    """The images by their names and, as several files of annotations may have one of a name, its number."""
    seen = Counter[str]()
    found: dict[tuple[str, int], Image] = {}
    for image in images:
        found[image.file_name, seen[image.file_name]] = image
        seen[image.file_name] += 1
    return found


def _renamed(gone: Iterable[Image], come: Iterable[Image]) -> list[tuple[Image, Image]]:
    """The pairs of images with the same bytes, each in one pair."""
    by_bytes: dict[str, list[Image]] = {}
    for image in come:
        by_bytes.setdefault(image.sha256, []).append(image)
    return [(image, by_bytes[image.sha256].pop(0)) for image in gone if by_bytes.get(image.sha256)]


def _marks(image: Image, snapshot: Snapshot) -> Marks:
    whole = [(snapshot.categories[image.category_id], ())] if image.category_id is not None else []
    boxes = [(snapshot.categories[box.category_id], tuple(box[1:])) for box in image.boxes]
    return tuple(sorted([*whole, *boxes]))


def _labels(marks: Marks) -> tuple[str, ...]:
    return tuple(name for name, _ in marks)
