"""The images that a model got wrong, and the boxes to check, as sections of its report."""

from collections.abc import Mapping
from dataclasses import replace

from sightline.cli.formats import percent, visible
from sightline.cli.report.pictures import figure
from sightline.client.results.insight import Doubt, Mistake
from sightline.client.results.kinds import DoubtKind
from sightline.client.results.model import ModelData
from sightline.client.results.samples import Sample, SampleBox
from sightline.pages.layout import section
from sightline.pages.markup import Markup, tag
from sightline.text import shown

LABELLED, FOUND = "labelled", "found"  # boxes
_NUMBERS = {LABELLED: 0, FOUND: 1}  # of their colours

Pictures = Mapping[int, Sample]  # by image id


def picture_ids(model: ModelData, count: int) -> list[int]:
    """The images that the page shows: so many mistakes, and so many boxes to check."""
    chosen = (*model.worst_mistakes[:count], *model.doubts[:count])
    return list(dict.fromkeys(one.image_id for one in chosen))


def mistakes(model: ModelData, pictures: Pictures, count: int) -> Markup:
    """The worst mistakes."""
    shown_ones = model.worst_mistakes[:count]
    if not shown_ones:
        return Markup()
    hint = "Images that were not trained on when they were predicted. Some may be labelled wrongly."
    figures = [_mistake(one, pictures.get(one.image_id)) for one in shown_ones]
    return section("Worst mistakes", tag("p", hint, class_="quiet"), tag("div", *figures, class_="row"))


def doubts(model: ModelData, pictures: Pictures, count: int) -> Markup:
    """The boxes that are probably wrong or missing; the found box in one colour, the labelled one in another."""
    shown_ones = model.doubts[:count]
    if not shown_ones:
        return Markup()
    hint = "What was found in images that were not trained on contradicts their boxes: blue is labelled, orange found."
    figures = [_doubt(one, pictures.get(one.image_id)) for one in shown_ones]
    return section("Boxes to check", tag("p", hint, class_="quiet"), tag("div", *figures, class_="row"))


def _mistake(mistake: Mistake, sample: Sample | None) -> Markup:
    if mistake.true_category:
        sure = f" ({percent(mistake.probability)})" if mistake.probability is not None else ""
        words = f"labelled {visible(mistake.true_category)}, predicted {visible(mistake.predicted_category)}{sure}"
    else:
        words = mistake.boxes
    return _figure(sample, words, mistake.file_name)


def _doubt(doubt: Doubt, sample: Sample | None) -> Markup:
    found = f"{visible(doubt.category)} ({percent(doubt.confidence)})"
    match doubt.kind:
        case DoubtKind.CATEGORY:
            words = f"labelled {visible(doubt.region_category)}, found {found}"
        case DoubtKind.MISPLACED:
            words = f"the box is probably misplaced: found {found}"
        case DoubtKind.MISSING:
            words = f"a box is probably missing: found {found}"
        case _:
            words = f"found {found}"
    boxes = [_box(box, name) for box, name in ((doubt.region_box, LABELLED), (doubt.box, FOUND)) if len(box) == 4]
    return _figure(replace(sample, boxes=tuple(boxes)) if sample else None, words, doubt.file_name)


def _box(sides: tuple[float, ...], name: str) -> SampleBox:
    x, y, width, height = sides
    return SampleBox(x, y, width, height, name)


def _figure(sample: Sample | None, words: str, file: str) -> Markup:
    numbers = _NUMBERS if sample and any(box.category == FOUND for box in sample.boxes) else {}
    return figure(sample, numbers, shown(words), tag("div", shown(file), class_="quiet"))
