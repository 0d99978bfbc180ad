"""Reads the pages that reports are."""

from __future__ import annotations

from html.parser import HTMLParser
from io import BytesIO

from PIL import Image

EVIL = "<script>alert('x')</script>\"&"
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'unsafe-inline'"
VOID = {"meta"}


class Page(HTMLParser):
    """The elements and texts of a page whose elements are all closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def require_harmless(self) -> None:
        """Nothing is loaded or run, whatever the texts say."""
        assert self.all("script") == []
        links = [value for _, given in self.elements for key, value in given.items() if key in ("href", "src")]
        assert links
        assert all(link and link.startswith("data:image/jpeg;base64,") for link in links)
        assert not any(key.startswith("on") for _, given in self.elements for key in given)
        assert [meta["content"] for meta in self.all("meta") if meta.get("http-equiv")] == [POLICY]


def photo(width: int, height: int, color: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    """A PNG file."""
    out = BytesIO()
    Image.new("RGB", (width, height), color).save(out, "PNG")
    return out.getvalue()
