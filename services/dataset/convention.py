"""Judges from all boxes of a dataset whether their four numbers are [x, y, width, height].

A box read in the wrong way often leaves its image, one read in the right way hardly ever does. Another reading is
likely if it explains boxes that leave the image as [x, y, width, height], and hardly any that do not leave it as that
leave it when read so. In a right file it is the other way round: objects near the left and top edges contradict the
other reading as often as those near the right and bottom edges would support it in a wrong file.

A file is judged before its images are read, by the sides that it declares. Images whose sides it does not declare are
judged when they are read, and so is whether y comes before x: until then the declared sides may be those of an image
that was turned since.
"""

from collections.abc import Callable, Iterable, Iterator
from math import isnan
from typing import NamedTuple

import msgspec

from services.dataset.boxes import Frame, Xywh
from services.dataset.columns import Columns, Index
from services.dataset.domain import BoxConvention
from services.dataset.findings import FindingLog

SLACK = 0.01  # fraction of the image's sides by which a box may stick out: annotators draw over the edge
SUPPORT = 5  # boxes that only the other reading explains
SHARE_SUPPORT = 4, 0.3  # or this many, if they are this share of all
SAMPLE = 20_000  # boxes that are judged
CONTRADICTED = 0.1  # boxes that only [x, y, width, height] explains, at most, as a share of the support
PERCENT = 100.0
LEAST_PERCENT = 10  # boxes, all of which end within 100 pixels of images of at least LARGE pixels
LARGE = 200
FAR = 60.0  # that at least one of them reaches


class Reading(NamedTuple):
    """Another meaning of a box's four numbers."""

    code: str  # of the finding
    to_xywh: Callable[[Xywh, Frame], Xywh]
    transposed: bool = False


READINGS = (
    Reading("boxesLikeCorners", lambda box, _: (box[0], box[1], box[2] - box[0], box[3] - box[1])),
    Reading("boxesLikeCorners", lambda box, _: (box[2], box[3], box[0] - box[2], box[1] - box[3])),
    Reading("boxesLikeCentres", lambda box, _: (box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3])),
    Reading("boxesFromBottom", lambda box, frame: (box[0], frame.height - box[1], box[2], box[3])),
    Reading("boxesLikeCornersYx", lambda box, _: (box[1], box[0], box[3] - box[1], box[2] - box[0]), True),
    Reading("boxesTransposed", lambda box, _: (box[1], box[0], box[3], box[2]), True),
)
TRANSPOSED = tuple(number for number, reading in enumerate(READINGS) if reading.transposed)
OF_FILES = tuple(number for number, reading in enumerate(READINGS) if not reading.transposed)


class Verdict(NamedTuple):
    """What the boxes look like, and the numbers behind that."""

    reading: Reading
    support: int  # boxes that fit their image only in this reading
    contradicted: int  # boxes that fit it only as [x, y, width, height]
    total: int


def _none() -> list[int]:
    return [0] * len(READINGS)


class Ends(msgspec.Struct):
    """How far boxes reach from the left and top edges of their images: the numbers of boxes."""

    beyond: int = 0  # that end beyond 100 pixels
    of_large: int = 0  # of images of at least LARGE pixels
    far: int = 0  # of these, that reach FAR

    def add(self, box: Xywh, smaller_side: float) -> None:
        """Counts a box of an image; a side of 0 stands for an image that does not count as large."""
        x, y, w, h = box
        end, large = max(x, y, x + w, y + h), smaller_side >= LARGE
        self.take(Ends(int(end > PERCENT * (1 + SLACK)), int(large), int(large and end >= FAR)))

    def take(self, other: "Ends") -> None:
        """Adds the counts of other boxes."""
        self.beyond += other.beyond
        self.of_large += other.of_large
        self.far += other.far

    @property
    def are_percent(self) -> bool:
        """Whether all boxes end within 100 pixels although images are larger: they are in percent of the sides."""
        return not self.beyond and self.of_large >= LEAST_PERCENT and self.far > 0


class Tally(msgspec.Struct):
    """For each reading, the boxes that fit their image only in it, those that fit only without it, and all."""

    support: list[int] = msgspec.field(default_factory=_none)
    against: list[int] = msgspec.field(default_factory=_none)
    total: list[int] = msgspec.field(default_factory=_none)
    ends: Ends = msgspec.field(default_factory=Ends)  # of boxes in pixels

    def add(self, box: Xywh, frame: Frame, readings: Iterable[int]) -> None:
        """Counts a box for these readings, unless it is empty.

        A box that fits its image with width and height exchanged counts as fitting, unless the reading itself exchanges
        x and y: the file may have been written before the image was turned upright.
        """
        if box[2] <= 0 or box[3] <= 0:
            return
        fits = _fits(box, frame)
        kept = fits or _fits(box, frame.swapped)
        for number in readings:
            reading = READINGS[number]
            as_it_is = fits if reading.transposed else kept
            other = _fits(reading.to_xywh(box, frame), frame)
            self.total[number] += 1
            self.support[number] += other and not as_it_is
            self.against[number] += as_it_is and not other

    def take(self, other: "Tally") -> None:
        """Adds the counts of other boxes."""
        for mine, theirs in ((self.support, other.support), (self.against, other.against), (self.total, other.total)):
            mine[:] = (one + two for one, two in zip(mine, theirs, strict=True))
        self.ends.take(other.ends)

    def verdict(self) -> Verdict | None:
        """The reading that the boxes point to; None if they do not clearly point away from [x, y, width, height]."""
        found = [Verdict(*each) for each in zip(READINGS, self.support, self.against, self.total, strict=True)]
        clear = [verdict for verdict in found if _clear(verdict.support, verdict.contradicted, verdict.total)]
        return max(clear, key=lambda verdict: verdict.support - verdict.contradicted, default=None)

    def note(self, file: str, log: FindingLog) -> None:
        """A fatal finding if the boxes are in percent, or point to another reading."""
        verdict = self.verdict()
        if self.ends.are_percent:
            log.add("boxesLikePercent", file, total=self.ends.of_large)
        elif verdict is not None:
            numbers = {"support": verdict.support, "contradicted": verdict.contradicted, "total": verdict.total}
            log.add(verdict.reading.code, file, **numbers)


def check_reading(file: Columns, uri: str, unit: BoxConvention, log: FindingLog) -> None:
    """A fatal finding if the file's boxes point away from [x, y, width, height]; images of unknown size are ignored."""
    boxes = list(_sample(file, unit))
    tally = judge(boxes)
    if unit is BoxConvention.ABSOLUTE:
        for box, frame in boxes:
            tally.ends.add(box, min(frame.width, frame.height))
    tally.note(uri, log)


def _sample(file: Columns, unit: BoxConvention) -> Iterator[tuple[Xywh, Frame]]:
    """Up to SAMPLE boxes, spread over the file, with the frame that they refer to."""
    relative = unit is BoxConvention.RELATIVE
    every = slice(None, None, max(1, -(-len(file.boxes) // SAMPLE)))
    images = Index(file.ids).find(file.image_ids[every])
    rows = zip(images.tolist(), file.boxes[every].tolist(), file.crowds[every].tolist(), strict=True)
    for image, (x, y, w, h), crowd in rows:
        if crowd or isnan(x) or (image < 0 and not relative):
            continue
        width, height = (1.0, 1.0) if relative else (float(file.widths[image]), float(file.heights[image]))
        if width and height:
            yield (x, y, w, h), Frame(width, height)


def judge(boxes: Iterable[tuple[Xywh, Frame]]) -> Tally:
    """The boxes of a file, counted for the readings that its declared sides decide."""
    tally = Tally()
    for box, frame in boxes:
        tally.add(box, frame, OF_FILES)
    return tally


def _clear(support: int, against: int, total: int) -> bool:
    few, share = SHARE_SUPPORT
    enough = support >= SUPPORT or (support >= few and support >= share * total)
    return enough and against <= CONTRADICTED * support


def _fits(box: Xywh, frame: Frame) -> bool:
    x, y, w, h = box
    dx, dy = SLACK * frame.width, SLACK * frame.height
    return w > 0 and h > 0 and x >= -dx and y >= -dy and x + w <= frame.width + dx and y + h <= frame.height + dy
