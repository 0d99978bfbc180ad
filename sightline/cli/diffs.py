"""Prints what differs between two versions of a dataset."""

from collections.abc import Iterator

from rich.markup import escape

from sightline.cli.console import output
from sightline.cli.formats import visible
from sightline.client.results.diff import DatasetDiff, Relabelled
from sightline.plurals import counted

LISTED = 50  # images of a kind


def print_diff(found: DatasetDiff) -> None:
    """A line for each difference, with a heading for each kind."""
    if not found:
        output().print("[green]no differences[/]")
        return
    for heading, lines in _parts(found):
        if lines:
            output().print(f"[bold]{heading}[/]")
        for line in lines[:LISTED]:
            output().print(f"  {escape(line)}", soft_wrap=True)
        if (more := len(lines) - LISTED) > 0:
            output().print(f"  and {more} more: --json prints them all")


def _parts(found: DatasetDiff) -> Iterator[tuple[str, list[str]]]:
    categories = [*(f"+ {visible(name)}" for name in found.categories_added)]
    yield "categories", [*categories, *(f"- {visible(name)}" for name in found.categories_removed)]
    yield counted(len(found.added), "image") + " added", list(found.added)
    yield counted(len(found.removed), "image") + " removed", list(found.removed)
    yield counted(len(found.replaced), "image") + " with other bytes", list(found.replaced)
    yield counted(len(found.renamed), "image") + " renamed", [f"{old} → {new}" for old, new in found.renamed]
    yield counted(len(found.relabelled), "image") + " relabelled", [_relabelled(one) for one in found.relabelled]


def _relabelled(one: Relabelled) -> str:
    if one.before == one.after:
        return f"{one.file_name}: boxes moved"
    return f"{one.file_name}: {', '.join(one.before) or 'nothing'} → {', '.join(one.after) or 'nothing'}"
