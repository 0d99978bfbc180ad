"""What was understood of an export, in sentences."""

from collections.abc import Iterator

from sightline.importers.model import TITLES, Imported

LISTED = 20  # categories


def summary(imported: Imported) -> Iterator[str]:
    """A line each: the form and the images, the splits, the categories, the notes."""
    kind = "detection" if imported.detection else "classification"
    yield f"{imported.source}: {TITLES[imported.format]}, for {kind}"
    counts = {name: (images, marks) for name, (images, marks) in imported.counts.items() if marks}
    boxes = sum(marks for _, marks in counts.values())
    what = f"{_counted(len(imported.images), 'image')}, " + (
        f"{_counted(boxes, 'box', 'boxes')}, " if imported.detection else ""
    )
    yield what + _counted(len(counts), "category", "categories")
    if splits := imported.splits:
        yield "splits: " + ", ".join(f"{split or 'none'} {count}" for split, count in splits.items())
    unlabelled = sum(not image.labels and not image.boxes for image in imported.images)
    if unlabelled:
        yield f"{_counted(unlabelled, 'image has', 'images have')} no annotation"
    shown = [f"{name} {marks if imported.detection else images}" for name, (images, marks) in counts.items()]
    if shown:
        yield ", ".join(shown[:LISTED]) + (f" and {len(shown) - LISTED} more" if len(shown) > LISTED else "")
    unused = [name for name in imported.categories if name not in counts]
    if unused and not imported.documents:
        yield f"note: nothing has the category {', '.join(unused[:LISTED])}: left out"
    yield from (f"note: {note}" for note in imported.notes)


def _counted(count: int, singular: str, plural: str = "") -> str:
    return f"{count} {singular if count == 1 else plural or f'{singular}s'}"
