"""Output: results go to standard output, progress and errors to standard error."""

import json
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, nullcontext
from typing import Annotated

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sightline.client.progress import Bar, drawn
from sightline.client.safe_console import SafeConsole
from sightline.text import shown

PLAIN_WIDTH = 200  # columns, if there is no terminal
PLAIN_STEP = 0.1  # progress between two plain lines
PLAIN_SECONDS = 1.0  # between two plain lines of the same phase

Json = Annotated[bool, typer.Option("--json", help="Print the response as protobuf JSON and nothing else.")]

STATE_STYLES = {
    "READY": "green",
    "SUCCEEDED": "green",
    "FAILED": "bold red",
    "CANCELLED": "yellow",
    "CANCELLING": "yellow",
    "STOPPED": "yellow",
    "DELETING": "yellow",
}


def output() -> Console:
    """The current standard output (tests replace it)."""
    return _console(stderr=False)


def notes() -> Console:
    """The current standard error."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = SafeConsole(stderr=stderr)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def to_dict(message: Message) -> dict[str, object]:
    """The message's protobuf JSON as a dictionary, for a command's JSON document.

    It includes empty lists and default values, so that scripts find every field, but no unset fields with presence.
    """
    return dict(json_format.MessageToDict(message, always_print_fields_with_no_presence=True))


def _escapes() -> bool:
    """Whether JSON must escape all non-ASCII characters, because standard output cannot print them."""
    return not (sys.stdout.encoding or "").lower().startswith("utf")


def print_json(message: Message) -> None:
    """Prints a command's JSON document."""
    print_document(to_dict(message))


def print_document(document: object) -> None:
    """Prints a value as JSON; characters that could act on a terminal are escaped."""
    print(shown(json.dumps(document, indent=2, ensure_ascii=_escapes())))


def state(name: str) -> str:
    """The state in its colour."""
    style = STATE_STYLES.get(name, "cyan")
    return f"[{style}]{name}[/]"


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table with these columns, those in `right` right-aligned."""
    made = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    numbers = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Names with their values, a line each; empty values are left out."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value:
            made.add_row(name, value)
    return made


@contextmanager
def progress_bar(title: str) -> Generator[Bar]:
    """A bar on standard error while the block runs; a few plain lines if that is not a terminal."""
    console = notes()
    with drawn(title, console) if console.is_terminal else nullcontext(_Lines(console, title)) as bar:
        yield bar


class _Lines:
    """Prints a line when the phase changes, and at most every second when progress has grown by a tenth."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._doing, self._fraction, self._printed = "", -1.0, 0.0

    def update(self, fraction: float, doing: str, detail: str = "") -> None:
        moved = fraction >= self._fraction + PLAIN_STEP and time.monotonic() >= self._printed + PLAIN_SECONDS
        ended = fraction >= 1.0 > self._fraction
        if doing == self._doing and not moved and not ended:
            return
        self._doing, self._fraction, self._printed = doing, fraction, time.monotonic()
        text = f"{self._title}: {100 * fraction:3.0f} %  {doing}  {detail}".rstrip()
        self._console.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Prints a warning to standard error."""
    notes().print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)
