"""What a body is: an image, JSON, or a form with images, by its content type or else by how it begins."""

import re
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.gateway.fields import Fields, read_json
from services.kit.errors import InvalidRequest

_FIRST_LINE = re.compile(rb"\s{0,4}--([!-~]{1,70})\r?\n")
MAX_PARTS = 128


@dataclass(slots=True)
class Part:
    """A part of a form."""

    name: str = ""
    file_name: str = ""
    content: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class Media:
    """A body: `json`, or else `parts`, of which an image that is no form is the only one."""

    json: Fields | None
    parts: tuple[Part, ...]

    @property
    def image(self) -> bytes:
        """The image, of a form its first file, or else the first part that is not empty; InvalidRequest without one."""
        present = [part for part in self.parts if part.content]
        if not present:
            raise InvalidRequest(field="body", problem="there is no image in it")
        return bytes(min(present, key=lambda part: not part.file_name).content)


def medium(content_type: str, body: bytes) -> Media:
    """The body as its content type says, unless that does not say enough: a form without a boundary is sniffed."""
    kind, options = parse_options_header(content_type.encode("latin-1"))
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary") or _sniffed(body)
        return Media(None, tuple(_parts(boundary, body)) if boundary else (Part(content=bytearray(body)),))
    if kind.endswith(b"json") or (not kind.startswith(b"image/") and body.lstrip()[:1] == b"{"):
        return Media(read_json(body), ())
    return Media(None, (Part(content=bytearray(body)),))


def _sniffed(body: bytes) -> bytes:
    """The boundary with which the body begins; empty if it is no form."""
    found = _FIRST_LINE.match(body)
    return found[1] if found and b"content-disposition" in body[:2048].lower() else b""


def _parts(boundary: bytes, body: bytes) -> list[Part]:
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body.lstrip(b"\r\n \t"))
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(field="body", problem=f"it is not a form: {error}") from None
    return reader.parts


class _Reader:
    """Collects the parts of a form."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._name, self._value = bytearray(), bytearray()

    def callbacks(self) -> Any:
        """For the parser."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self.parts[-1].content.extend(data[start:end]),
        }

    def _begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise InvalidRequest(field="body", problem=f"a form has at most {MAX_PARTS} parts")
        self.parts.append(Part())

    def _end_header(self) -> None:
        if bytes(self._name).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self.parts[-1].name = options.get(b"name", b"").decode(errors="replace")
            self.parts[-1].file_name = options.get(b"filename", b"").decode(errors="replace")
        self._name.clear()
        self._value.clear()
