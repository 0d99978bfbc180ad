"""Charts as inline SVG: a scatter of sizes; and as HTML: bars and confusion matrices."""

import math
from collections.abc import Callable, Mapping, Sequence

from sightline.pages.markup import Markup, tag
from sightline.text import shown

BARS = 60
SHADES = 6  # of a confusion matrix
_BAR = 14  # pixels
_PLOT, _MARGIN = 360, 48

Link = Callable[[str], str]  # the url that a category's name leads to
CellLink = Callable[
    [str, str, int], tuple[str, str]
]  # of the true and the predicted category and their count: url, name


def bars(values: Sequence[tuple[str, int]], link: Link | None = None) -> Markup:
    """A bar for each name, in this order; each is as long as its share of the largest."""
    most = max((value for _, value in values), default=0) or 1
    rows: list[Markup] = []
    for name, value in values:
        bar = tag("rect", width=f"{100 * value / most:.2f}%", height=_BAR, rx=3)
        label = tag("a", shown(name), href=link(name)) if link else tag("span", shown(name))
        drawn = tag("svg", bar, aria_hidden="true", height=_BAR)
        rows.append(tag("li", label, drawn, tag("span", f"{value:,}", class_="number")))
    return tag("ul", *rows, class_="bars")


def confusion_matrix(
    names: Sequence[str], counts: Mapping[tuple[int, int], int], link: CellLink | None = None
) -> Markup:
    """True categories downwards, predicted ones to the right. A cell's shade is its share of its row."""
    heads = [tag("th", tag("span", shown(name)), scope="col") for name in names]
    rows: list[Markup] = []
    for row, name in enumerate(names):
        total = sum(counts.get((row, col), 0) for col in range(len(names))) or 1
        cells: list[Markup] = []
        for col, other in enumerate(names):
            count = counts.get((row, col), 0)
            content = Markup(count or "")
            if link and count and row != col:
                url, label = link(name, other, count)
                content = tag("a", content, href=url, aria_label=label)
            shade = f"{'right' if row == col else 'wrong'} s{-(-SHADES * count // total)}"
            cells.append(tag("td", content, class_=shade))
        rows.append(tag("tr", tag("th", shown(name), scope="row"), *cells))
    return tag("table", tag("thead", tag("tr", tag("td"), *heads)), tag("tbody", *rows), class_="matrix")


def scatter(sizes: Sequence[tuple[int, int]]) -> Markup:
    """Width and height of images, both axes from 0 to the same round number."""
    limit = _round_up(max((max(size) for size in sizes), default=1))
    end = _MARGIN + _PLOT

    def across(value: float) -> str:
        return f"{_MARGIN + _PLOT * value / limit:.1f}"

    def down(value: float) -> str:
        return f"{_PLOT + 8 - _PLOT * value / limit:.1f}"

    parts = [tag("rect", x=_MARGIN, y=8, width=_PLOT, height=_PLOT, class_="plot")]
    for tick in (0.25, 0.5, 0.75, 1.0):
        label = f"{limit * tick:g}"
        parts += [
            tag("text", label, x=across(limit * tick), y=_PLOT + 26, text_anchor="middle"),
            tag("text", label, x=_MARGIN - 6, y=down(limit * tick - limit / 80), text_anchor="end"),
        ]
    parts += [
        tag("circle", tag("title", f"{w} x {h}"), cx=across(w), cy=down(h), r=4, class_="dot") for w, h in set(sizes)
    ]
    parts += [
        tag("text", "width, pixels", x=end, y=_PLOT + 42, text_anchor="end"),
        tag("text", "height", x=_MARGIN + 6, y=22),
    ]
    return svg(parts, (end + 24, _PLOT + 50), "sizes of the images")


def svg(parts: Sequence[Markup], size: tuple[float, float], label: str) -> Markup:
    """A drawing, in pixels, that shrinks to the page."""
    width, height = (f"{side:g}" for side in size)
    view = f"0 0 {width} {height}"
    return tag("svg", *parts, class_="chart", viewBox=view, width=width, height=height, role="img", aria_label=label)


def _round_up(value: float) -> int:
    """The next of 1, 2, 4, 5, 8, 10, 20, ..."""
    unit = 10 ** math.floor(math.log10(max(value, 1)))
    return next(int(unit * factor) for factor in (1, 2, 4, 5, 8, 10) if unit * factor >= value)
