"""HTML and SVG from nested calls; every text is escaped unless it came out of such a call."""

from html import escape


class Markup(str):
    """Text that is markup already, also for templates that escape text (Jinja's)."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element; `class_` is the attribute `class`, and `_` in the names of attributes means `-`."""
    written = "".join(f' {_attribute(key)}="{escape(str(value))}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """The children one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def document(title: str, style: str, *body: str) -> str:
    """A whole page that loads nothing and runs no script. `style` is trusted."""
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("title", title),
        Markup(f"<style>{style}</style>"),
    )
    page = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n"


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")
