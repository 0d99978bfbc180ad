"""Reads a COCO file whose values are not of the types that COCO has: what is meant is taken, the rest is reported.

`"7"` and `7.0` mean 7. Ids that COCO does not have, such as file names or negative numbers, are replaced by numbers
that nothing else in the file means. What cannot be meant is a finding for each image and annotation.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import structs

from services.dataset.findings import FindingLog
from sightline.importers.model import exact_number_of
from sightline.importers.names import slashed

MAX_ID = 2**63 - 1
SHOWN = 60  # characters of a value in a finding
MAX_VALUE_BYTES = 64 * 1024  # as JSON
LONG = "…"  # stands for a longer value
Object = dict[str, Any]
_NULL = msgspec.Raw(b"null")


class _File(msgspec.Struct, frozen=True):
    """A COCO file whose sections are still JSON."""

    images: msgspec.Raw = _NULL
    annotations: msgspec.Raw = _NULL
    categories: msgspec.Raw = _NULL


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry of any section; what COCO does not have is skipped, however large it is."""

    id: msgspec.Raw = _NULL
    image_id: msgspec.Raw = _NULL
    category_id: msgspec.Raw = _NULL
    iscrowd: msgspec.Raw = _NULL
    bbox: msgspec.Raw = _NULL
    file_name: msgspec.Raw = _NULL
    coco_url: msgspec.Raw = _NULL
    absolute_url: msgspec.Raw = _NULL
    width: msgspec.Raw = _NULL
    height: msgspec.Raw = _NULL
    name: msgspec.Raw = _NULL


_file_decoder = msgspec.json.Decoder(_File)
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw] | None)
_entry_decoder = msgspec.json.Decoder(_Entry)


class _Entries:
    """The objects of a section, parsed one at a time; null counts as none. DecodeError for anything else."""

    def __init__(self, section: msgspec.Raw) -> None:
        listed = _list_decoder.decode(section)
        self.is_list = listed is not None
        self._listed = listed or []

    def __iter__(self) -> Iterator[Object]:
        for raw in self._listed:
            yield {
                field: _value(field, value)
                for field, value in structs.asdict(_entry_decoder.decode(raw)).items()
                if value is not _NULL
            }


def _value(field: str, raw: msgspec.Raw) -> object:
    """A value; long ones, and numbers that are too large, mean nothing, but a bbox stays as it is.

    DecodeError for a text with half a character.
    """
    if len(raw) > MAX_VALUE_BYTES:
        return raw if field == "bbox" else LONG
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        if field == "bbox":
            return raw
        if bytes(raw).startswith(b'"'):
            raise
        return bytes(raw).decode()


def repaired(data: bytes, uri: str, log: FindingLog) -> bytes | None:
    """The file with every value of the type that COCO has; None if it has not even COCO's lists."""
    try:
        file = _file_decoder.decode(data)
        images, annotations, categories = map(_Entries, (file.images, file.annotations, file.categories))
        ids = {"images": _Ids(images), "categories": _Ids(categories), "annotations": _Ids(annotations)}
        for entry in annotations:
            ids["images"].keep_free(entry.get("image_id"))
            ids["categories"].keep_free(entry.get("category_id"))
        ids["images"].take_names(images, "file_name")
        ids["images"].take_names(images, "file_name", last_part=True)
        ids["categories"].take_names(categories, "name")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not images.is_list:
        return None
    repair, out = _Repair(uri, log, ids), bytearray(b"{")
    _write(out, "images", map(repair.image, images))
    _write(out, "annotations", filter(None, map(repair.annotation, annotations)))
    _write(out, "categories", map(repair.category, categories))
    out[-1:] = b"}"
    repair.report()
    return bytes(out)


def _write(out: bytearray, section: str, entries: Iterable[Object]) -> None:
    """Appends a section, and a comma."""
    out += f'"{section}":['.encode()
    empty = len(out)
    for entry in entries:
        out += msgspec.json.encode(entry)
        out += b","
    if len(out) > empty:
        del out[-1:]
    out += b"],"


def whole(value: object) -> int | None:
    """The whole number that a value means, 0 or more; None if it means none."""
    number = exact_number_of(value)
    if number is None or number != int(number) or not 0 <= number <= MAX_ID:
        return None
    return int(number)


def _text(value: object) -> str | None:
    """An id that COCO does not have, as text: the same for -1, -1.0 and "-1"; None if it is no id at all."""
    number = exact_number_of(value)
    if number is not None and number == int(number):
        return str(int(number))
    return value if isinstance(value, str) else None


class _Ids:
    """The numbers that stand for the ids of a section: themselves, or new ones for those that COCO does not have."""

    def __init__(self, entries: Iterable[Object]) -> None:
        self._next = 0
        self.replaced = 0
        self._by_text: dict[str, int] = {}
        self._texts: set[str] = set()  # that get a number when they are first needed
        for entry in entries:
            value = entry.get("id")
            self.keep_free(value)
            if whole(value) is None and (text := _text(value)) is not None:
                self._texts.add(text)

    def keep_free(self, value: object) -> None:
        """New numbers will be other ones than this id, if it is a number."""
        number = whole(value)
        if number is not None and number < MAX_ID:
            self._next = max(self._next, number + 1)

    def take_names(self, entries: Iterable[Object], field: str, *, last_part: bool = False) -> None:
        """Accepts the names in a field, or their last parts, in place of ids, for those that only one entry has."""

        def name_of(entry: Object) -> str:
            name = entry.get(field)
            text = name if isinstance(name, str) else ""
            return slashed(text).rpartition("/")[2] if last_part else text

        names = Counter(map(name_of, entries))
        for entry in entries:
            name, number = name_of(entry), self.of(entry.get("id"))
            if name and names[name] == 1 and whole(name) is None and number is not None and name not in self._texts:
                self._by_text.setdefault(name, number)

    def new(self) -> int:
        """A number that nothing in the file means."""
        self.replaced += 1
        self._next += 1
        return self._next - 1

    def of(self, value: object) -> int | None:
        """The number for an id; None if no entry has it and it is no number that COCO has."""
        number = whole(value)
        if number is not None:
            return number
        text = _text(value)
        if text is None:
            return None
        if text in self._texts and text not in self._by_text:
            self._by_text[text] = self.new()
        return self._by_text.get(text)


class _Repair:
    """Turns entries into those of COCO, and reports what cannot be turned."""

    def __init__(self, uri: str, log: FindingLog, ids: dict[str, _Ids]) -> None:
        self._uri, self._log, self._ids = uri, log, ids
        self._converted = 0

    def image(self, entry: Object) -> Object:
        """An image; one without an id gets a new one, a side that is no number is ignored."""
        ids = self._ids["images"]
        number = ids.of(entry.get("id"))
        made: Object = {"id": ids.new() if number is None else number}
        for field in ("file_name", "coco_url", "absolute_url"):
            value = entry.get(field)
            if isinstance(value, str | int) and not isinstance(value, bool):
                made[field] = str(value)
        for field in ("width", "height"):
            if entry.get(field) is not None and (side := exact_number_of(entry[field])) is not None:
                made[field] = side
            elif entry.get(field) is not None:
                self._log.add("imageSideInvalid", self._name(made), made["id"], side=field, value=_shown(entry[field]))
        self._count(entry, made)
        return made

    def annotation(self, entry: Object) -> Object | None:
        """An annotation; None and a finding if one of its values cannot be meant."""
        made: Object = {"id": self._ids["annotations"].of(entry.get("id"))}
        made["image_id"] = self._ids["images"].of(entry.get("image_id"))
        where = made["image_id"], made["id"]
        if made["image_id"] is None:
            self._refuse(*where, "image_id", entry, "the id of an image")
            return None
        if entry.get("category_id") is not None:
            made["category_id"] = self._ids["categories"].of(entry["category_id"])
            if made["category_id"] is None:
                self._refuse(*where, "category_id", entry, "the id of a category")
                return None
        made["iscrowd"] = _flag(entry.get("iscrowd"))
        if made["iscrowd"] is None:
            self._refuse(*where, "iscrowd", entry, "0 or 1")
            return None
        made["bbox"] = _box(entry.get("bbox"))
        self._count(entry, made)
        return made

    def category(self, entry: Object) -> Object:
        """A category; one whose id is no number gets a new one."""
        ids = self._ids["categories"]
        number, name = ids.of(entry.get("id")), entry.get("name")
        named = isinstance(name, str | int | float) and not isinstance(name, bool)
        made: Object = {"id": ids.new() if number is None else number, "name": str(name) if named else ""}
        self._count(entry, made)
        return made

    def report(self) -> None:
        """Says what was converted and replaced."""
        if self._converted:
            self._log.add("valuesConverted", self._uri, count=self._converted)
        for section, ids in self._ids.items():
            if ids.replaced:
                self._log.add("idsReplaced", self._uri, count=ids.replaced, section=section)

    def _count(self, entry: Object, made: Object) -> None:
        fields = ("id", "image_id", "category_id", "iscrowd", "width", "height")
        given = ((entry[field], made[field]) for field in fields if entry.get(field) is not None and field in made)
        self._converted += any(type(one) is not type(other) and not isinstance(one, bool) for one, other in given)

    def _refuse(self, image_id: int | None, id_: int | None, field: str, entry: Object, expected: str) -> None:
        value = _shown(entry.get(field))
        self._log.add("annotationValueInvalid", self._uri, image_id, id_, field=field, value=value, expected=expected)

    def _name(self, image: Object) -> str:
        return str(image.get("file_name") or self._uri)


def _flag(value: object) -> int | None:
    """0 or 1; None if the value means neither."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false", ""):
        return int(value.strip().lower() == "true")
    number = int(value) if isinstance(value, bool) else 0 if value is None else exact_number_of(value)
    return int(number) if number in (0, 1) else None


def _box(bbox: object) -> object:
    """A bbox with numbers in place of strings that are numbers."""
    if not isinstance(bbox, list):
        return bbox
    listed: list[object] = bbox
    numbers = [exact_number_of(value) for value in listed]
    return listed if any(number is None for number in numbers) else numbers


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
