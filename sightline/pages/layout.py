"""What the pages have in common: their style, their sections, lists of facts and tables."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sightline.pages.markup import Markup, document, tag
from sightline.pages.style import CHARTS
from sightline.text import shown

_STYLE = (
    CHARTS
    + """
:root {
  color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif;
  --accent: #3b82c4; --bad: #c0362c; --line: #8884; --paper: transparent;
  --quiet: color-mix(in srgb, currentColor 70%, transparent);
}
body { max-width: 70rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin: 0; } h2 { margin: 2.2rem 0 .6rem; } h3 { margin: 1.2rem 0 .4rem; font-size: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; } dt { opacity: .65; } dd { margin: 0; }
dd, td, summary, figcaption, h3 { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .25rem .6rem; text-align: left; vertical-align: top; }
tr + tr td { border-top: 1px solid #8884; } th { font-weight: 600; opacity: .65; }
svg { max-width: 100%; }
.row { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-end; }
figure { margin: 0; width: 200px; } figcaption { font-size: 12px; opacity: .8; }
.pair { display: flex; gap: .8rem; border: 1px solid #8884; border-radius: .5rem; padding: .8rem; }
.pair p { margin: 0; width: 14rem; }
.missing { width: 200px; height: 80px; display: grid; place-items: center; border: 1px dashed #8888; opacity: .7; }
.ERROR { color: #c0362c; } .WARNING { color: #a86a00; } .INFO { color: #2d76b5; } b { font-weight: 600; }
details { margin: .3rem 0; } summary { cursor: pointer; }
.scroll { overflow-x: auto; } .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.chosen td { font-weight: 600; } .quiet { opacity: .75; }
ul { padding-left: 1.2rem; margin: .3rem 0; }
@media print {
  :root { color-scheme: light; font-size: 11px; } body { max-width: none; padding: 0; } .scroll { overflow: visible; }
  h2, h3 { break-after: avoid; } tr, figure, svg, .pair { break-inside: avoid; }
  * { print-color-adjust: exact; }
}
"""
)


def page(title: str, *sections: Markup) -> str:
    """A whole page; empty sections are left out."""
    return document(title, _STYLE, *(one for one in sections if one))


def section(title: str, *content: str) -> Markup:
    """A part of a page under a heading."""
    return tag("section", tag("h2", title), *content)


def heading(*names: str) -> list[Markup]:
    """The names of the page's subject: the first is the page's title; empty and equal ones are left out."""
    different = dict.fromkeys(name for name in names if name)
    return [tag("p" if number else "h1", shown(name)) for number, name in enumerate(different)]


def facts(rows: Iterable[tuple[str, str]]) -> Markup:
    """Names and values; those without a value are left out."""
    parts = (part for name, value in rows if value for part in (tag("dt", name), tag("dd", shown(value))))
    return tag("dl", *parts)


def moment(time: datetime | None) -> str:
    """A time, wherever the page is read; empty if there is none."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if time else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0, chosen: int = -1) -> Markup:
    """A table whose last `numbers` columns are figures, with the row `chosen` in bold; it scrolls if it is too wide."""
    first = len(heads) - numbers

    def cells(name: str, texts: Sequence[str]) -> list[Markup]:
        classes = ({"class_": "number"} if place >= first else {} for place in range(len(texts)))
        return [tag(name, shown(text), **given) for text, given in zip(texts, classes, strict=True)]

    head = tag("thead", tag("tr", *cells("th", heads)))
    body = [
        tag("tr", *cells("td", texts), **({"class_": "chosen"} if row == chosen else {}))
        for row, texts in enumerate(rows)
    ]
    return tag("div", tag("table", head, tag("tbody", *body)), class_="scroll")
