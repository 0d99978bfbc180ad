"""Where output goes: results to standard output, progress and errors to standard error."""

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
from rich.table import Table

from sightline.client.progress import Bar, drawn

PLAIN_WIDTH = 200  # columns where no terminal says how many there are
PLAIN_STEP = 0.1  # how far a bar moves between two plain lines
PLAIN_SECONDS = 1.0  # between two of them, where no other phase has begun

Json = Annotated[bool, typer.Option("--json", help="Print the answer as protobuf JSON and nothing else.")]

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
    """Standard output as it is now (tests and pipes replace it)."""
    return _console(stderr=False)


def notes() -> Console:
    """Standard error as it is now."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def to_dict(message: Message) -> dict[str, object]:
    """The message's protobuf JSON as a dictionary, for the one JSON document of a command.

    Empty lists and default values are in it, so that scripts find every field; what has presence and is not set is not.
    """
    return dict(json_format.MessageToDict(message, always_print_fields_with_no_presence=True))


def escapes() -> bool:
    """Whether JSON must escape what is not ASCII, as standard output could not print all of it."""
    return not (sys.stdout.encoding or "").lower().startswith("utf")


def print_json(message: Message) -> None:
    """The one JSON document of a command."""
    print(json.dumps(to_dict(message), indent=2, ensure_ascii=escapes()))


def state(name: str) -> str:
    """A state in its colour."""
    style = STATE_STYLES.get(name, "cyan")
    return f"[{style}]{name}[/]"


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table with these columns, those in `right` flush right."""
    made = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    numbers = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Pairs of a name and a value, one under the other; empty values are left out."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value:
            made.add_row(name, value)
    return made


@contextmanager
def progress_bar(title: str) -> Generator[Bar]:
    """A bar on standard error while the block runs; plain lines, few of them, where that is no terminal."""
    console = notes()
    with drawn(title, console) if console.is_terminal else nullcontext(_Lines(console, title)) as bar:
        yield bar


class _Lines:
    """A line whenever something else is being done, or the work has moved on by a tenth and a second has passed."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._doing, self._fraction, self._said = "", -1.0, 0.0

    def update(self, fraction: float, doing: str, detail: str = "") -> None:
        moved = fraction >= self._fraction + PLAIN_STEP and time.monotonic() >= self._said + PLAIN_SECONDS
        ended = fraction >= 1.0 > self._fraction
        if doing == self._doing and not moved and not ended:
            return
        self._doing, self._fraction, self._said = doing, fraction, time.monotonic()
        text = f"{self._title}: {100 * fraction:3.0f} %  {doing}  {detail}".rstrip()
        self._console.print(text, markup=False, soft_wrap=True)
