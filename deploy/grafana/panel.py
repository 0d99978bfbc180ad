"""What a panel of the dashboard consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """One or more lines of a panel; `legend` may name labels as `{{label}}`.

    With `exemplars`, a graph of a histogram shows traces as dots.
    """

    expr: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """From this value on, a number has this color, and a graph a line of it."""

    value: float
    color: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph, or with `number` the current value. `lowest` is the color below the first limit."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    number: bool = False
    limits: tuple[Limit, ...] = ()
    lowest: str = "green"
    can_be_negative: bool = False
