"""How the command reads and writes durations, times, category names and numbers."""

from datetime import datetime, timedelta

import typer

from sightline.client.quantities import span_of


def parse_duration(text: str) -> timedelta:
    """`90s`, `10 min`, `1h30` or `1.5 hours` as a duration; typer.BadParameter for anything else."""
    try:
        return span_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def moment(value: datetime | None) -> str:
    """A time in this machine's time zone; empty if it is not set."""
    return value.astimezone().strftime("%Y-%m-%d %H:%M:%S") if value else ""


def visible(name: str) -> str:
    """A category's name, in quotes if it has leading, trailing or repeated spaces that would not be visible."""
    return name if name == " ".join(name.split()) else repr(name)


def percent(fraction: float) -> str:
    """`0.9712` as `97.1 %`."""
    return f"{100 * fraction:.1f} %"
