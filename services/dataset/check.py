"""Checks one image and its annotations: a pure function of the decoded image and its row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec import structs

from services.dataset import boxes
from services.dataset.box_rules import note_boxes
from services.dataset.boxes import Frame
from services.dataset.convention import READINGS, TRANSPOSED, Tally
from services.dataset.domain import BoxConvention
from services.dataset.findings import FindingLog
from services.dataset.rows import Mark, Row
from services.kit.errors import InvalidImage, InvalidImageSize
from services.vision.decode import SCALED_SIDE, ImageInfo
from services.vision.decode_pool import Inspected
from services.vision.repack import PackImage
from services.vision.snapshot import AnnotationKind, Box, Entry

ALIKE = 0.1  # pixels: boxes of one category that are this close are the same box
TALLIED = 20  # boxes of an image
SIDES_ALIKE = 0.01  # relative difference between the aspect ratios of two sizes of the same image
_EXTENSIONS: dict[str, tuple[str, ...]] = {  # of files whose format they state, and the formats
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif"), ("JPEG", "MPO")),
    **dict.fromkeys(("tif", "tiff"), ("TIFF",)),
    **dict.fromkeys(("bmp", "dib"), ("BMP",)),
    **{extension: (extension.upper(),) for extension in ("png", "gif", "webp", "ico", "mpo")},
    **dict.fromkeys(("heic", "heif", "avif", "jxl", "jp2", "psd", "svg", "pdf", "dng", "cr2", "nef", "arw"), ()),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a dataset requires of each image."""

    kind: AnnotationKind
    convention: BoxConvention
    categories: Sequence[str]
    max_regions: int


@dataclass(frozen=True, slots=True)
class Packed:
    """An image that goes into the snapshot."""

    entry: Entry
    image: PackImage


def tally_boxes(inspected: Inspected | InvalidImage, row: Row, rules: Rules) -> Tally | None:
    """The image's boxes, counted for what only the image itself decides; None if they decide nothing."""
    if isinstance(inspected, InvalidImage) or rules.kind is AnnotationKind.IMAGE_CLASSIFICATION:
        return None
    info = inspected.info
    frame, declared = Frame(info.width, info.height), Frame(row.width or 0, row.height or 0)
    known, relative = min(declared.width, declared.height) > 0, rules.convention is BoxConvention.RELATIVE
    across, down = (frame.width, frame.height) if relative else (1.0, 1.0)
    drawn = [boxes.scaled(mark.bbox, across, down) for mark in row.marks if mark.bbox is not None and not mark.iscrowd]
    tally, readings = Tally(), TRANSPOSED if known else range(len(READINGS))
    for box in () if relative else drawn:
        tally.ends.add(box, 0 if known else min(frame.width, frame.height))
    if info.orientation >= 5 or (known and declared != frame):  # the boxes may be those of the image before turning
        return tally
    for box in drawn[:TALLIED]:
        tally.add(box, frame, readings)
    return tally


def check_image(inspected: Inspected | InvalidImage, row: Row, rules: Rules, log: FindingLog) -> Packed | None:
    """The image as it goes into the snapshot, or None and a finding of severity ERROR."""
    if isinstance(inspected, InvalidImage):
        _note_unusable(inspected, row, log)
        return None
    info, image = inspected.info, inspected.image
    entry = _entry(row, info, rules, log)
    if entry is None:
        return None
    if isinstance(image, InvalidImage):
        _note_unusable(image, row, log)
        return None
    _note_changes(row, info, log)
    for note in image.notes:
        log.add(note.code, row.file, row.id, None, **note.words)
    if (image.width, image.height) != (entry.width, entry.height):
        entry = _resized(entry, image.width, image.height)
    return Packed(entry, image)


def _note_unusable(error: InvalidImage, row: Row, log: FindingLog) -> None:
    code = "imageSidesInvalid" if isinstance(error, InvalidImageSize) else "imageUndecodable"
    log.add(code, row.file, row.id, problem=error.metadata["problem"])


def _note_changes(row: Row, info: ImageInfo, log: FindingLog) -> None:
    extension = row.file.rpartition(".")[2].lower()
    if info.format not in _EXTENSIONS.get(extension, info.format):
        log.add("imageExtensionWrong", row.file, row.id, format=info.format)
    if info.orientation != 1:
        log.add("imageOriented", row.file, row.id, orientation=info.orientation)
    if info.animated:
        log.add("imageAnimated", row.file, row.id)
    if max(info.width, info.height) > SCALED_SIDE:
        log.add("imageScaled", row.file, row.id, width=info.width, height=info.height, limit=SCALED_SIDE)


def _entry(row: Row, info: ImageInfo, rules: Rules, log: FindingLog) -> Entry | None:
    """The upright image's annotations, before any scaling."""
    entry = Entry(image_id=row.snapshot_id, file_name=row.file, width=info.width, height=info.height)
    if rules.kind is AnnotationKind.IMAGE_CLASSIFICATION:
        label = _label(row, rules, log)
        return None if label is None else structs.replace(entry, labels=(label,))
    if len(row.marks) > rules.max_regions:
        log.add("imageTooManyBoxes", row.file, row.id, count=len(row.marks), limit=rules.max_regions)
        return None
    found = _boxes(row, info, rules, log)
    return None if found is None else structs.replace(entry, boxes=found)


def _label(row: Row, rules: Rules, log: FindingLog) -> int | None:
    found = sorted({mark.category for mark in row.marks})
    if not found:
        log.add("imageUntagged", row.file, row.id)
        return None
    if len(found) > 1:
        names = ", ".join(rules.categories[index] for index in found[:5])
        log.add("imageSeveralTags", row.file, row.id, count=len(found), categories=names)
        return None
    if len(row.marks) > 1:
        log.add("tagRepeated", row.file, row.id, row.marks[1].id, category=rules.categories[found[0]])
    return found[0]


def _boxes(row: Row, info: ImageInfo, rules: Rules, log: FindingLog) -> tuple[Box, ...] | None:
    """The boxes in pixels of the upright image; None if it is unclear which size their numbers refer to."""
    upright = Frame(info.width, info.height)
    frame, orientation, across, down = upright, 1, 1.0, 1.0
    declared = Frame(row.width or 0, row.height or 0)  # 0 or less means unknown, like missing values
    if rules.convention is BoxConvention.RELATIVE:
        across, down = upright.width, upright.height
    drawn = [mark.bbox for mark in row.marks if mark.bbox]
    if min(declared.width, declared.height) > 0 and declared != upright and drawn:
        stored = Frame(info.stored_width, info.stored_height)
        if declared == stored and _drawn_before_turning(drawn, stored, upright, rules):
            log.add("imageBoxesTurned", row.file, row.id, orientation=info.orientation)
            frame, orientation = stored, info.orientation
            across, down = (stored.width, stored.height) if across != 1 else (1.0, 1.0)
        elif declared != stored and rules.convention is not BoxConvention.RELATIVE:
            if declared == upright.swapped and all(upright.holds(box) for box in drawn):
                log.add("imageSidesSwapped", row.file, row.id, declared=declared, actual=upright)
                declared = upright
            if not _alike(declared, upright):
                log.add("imageFrameUnknown", row.file, row.id, declared=declared, actual=upright)
                return None
            if declared != upright:
                log.add("imageSidesDiffer", row.file, row.id, declared=declared, actual=upright)
            across, down = upright.width / declared.width, upright.height / declared.height
    found: list[tuple[Mark, Box]] = []
    seen: set[tuple[int, ...]] = set()
    for mark in row.marks:
        box = _fit(mark, row, frame, (across, down), log)
        if box is None or mark.bbox is None:
            continue
        place = (mark.category, mark.iscrowd, *(round(value / ALIKE) for value in box))
        if place in seen and not mark.iscrowd:
            name = rules.categories[mark.category]
            log.add("boxRepeated", row.file, row.id, mark.id, box=_shown(mark.bbox), category=name)
            continue
        seen.add(place)
        found.append((mark, Box(*boxes.turned(box, orientation, frame), mark.category, mark.iscrowd)))
    note_boxes(row, found, (info.width, info.height), rules.categories, log)
    return tuple(box for _, box in found)


def _drawn_before_turning(drawn: Iterable[boxes.Xywh], stored: Frame, upright: Frame, rules: Rules) -> bool:
    """Whether boxes refer to the image as stored, as the file declares, rather than fitting only the upright one."""
    if rules.convention is BoxConvention.RELATIVE:
        return True
    listed = list(drawn)
    return all(stored.holds(box) for box in listed) or not all(upright.holds(box) for box in listed)


def _alike(one: Frame, other: Frame) -> bool:
    return abs(one.width * other.height / (one.height * other.width) - 1) <= SIDES_ALIKE


def _fit(mark: Mark, row: Row, frame: Frame, scale: tuple[float, float], log: FindingLog) -> boxes.Xywh | None:
    """The box in pixels, clipped to the frame; None and a finding if it is wrong."""
    if mark.bbox is None:
        return None
    box = boxes.scaled(mark.bbox, *scale)
    code = boxes.finding_code(box, frame)
    cut = frame.clipped(box)
    if code:
        shown = _shown(mark.bbox)
        where = {"clipped": _shown(cut), "over": frame.overhang(box), "frame": frame, "swapped": frame.swapped}
        log.add(code, row.file, row.id, mark.id, box=shown, **where)
    if code not in ("", "boxClipped"):
        return None
    pixels = frame.scaled_side(cut)
    if pixels < boxes.TINY and not mark.iscrowd:
        log.add("boxTiny", row.file, row.id, mark.id, box=_shown(cut), pixels=pixels, side=boxes.DETECTOR_SIDE)
    return cut


def _shown(box: boxes.Xywh) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def _resized(entry: Entry, width: int, height: int) -> Entry:
    across, down = width / entry.width, height / entry.height
    moved = tuple(
        Box(*boxes.scaled((box.x, box.y, box.w, box.h), across, down), box.category, box.iscrowd) for box in entry.boxes
    )
    return structs.replace(entry, width=width, height=height, boxes=moved)
