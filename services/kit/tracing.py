"""The port to traces: spans around what takes time, joined across processes by W3C Trace Context.

A span's name is a constant or one of few; what differs goes into its attributes, which hold names of resources and
numbers, never secrets or parts of images. Without tracing there is no current span, and everything here does nothing.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Self

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
Attributes = Mapping[str, str | int | float | bool]
NO_ATTRIBUTES: Attributes = {}
_ODD = frozenset("13579bdf")  # last digits of flags with the first bit


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Names a span, as the headers of W3C do; false if there is none."""

    traceparent: str = ""
    tracestate: str = ""

    def __bool__(self) -> bool:
        return bool(self.traceparent)

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return self.traceparent[36:52]

    @property
    def is_sampled(self) -> bool:
        """Whether its trace is recorded."""
        return self.traceparent[54:55] in _ODD

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """For a call or a message."""
        pairs = (TRACEPARENT, self.traceparent), (TRACESTATE, self.tracestate)
        return tuple(pair for pair in pairs if pair[1])


NO_TRACE = TraceContext()
_current: ContextVar[TraceContext] = ContextVar("trace", default=NO_TRACE)
_in_steps: ContextVar[bool] = ContextVar("in_steps", default=False)


def current() -> TraceContext:
    """The span that surrounds the running task."""
    return _current.get()


def received(headers: Iterable[tuple[str, str | bytes]]) -> TraceContext:
    """The sender's span, by the headers of its call; their names are in lower case."""
    parent = state = ""
    for name, value in headers:
        if name == TRACEPARENT and isinstance(value, str):
            parent = value
        elif name == TRACESTATE and isinstance(value, str):
            state = value
    return TraceContext(parent, state) if parent else NO_TRACE


@contextmanager
def within(context: TraceContext) -> Generator[None]:
    """What the block starts belongs to that span.

    Unlike a token's reset, this may end in another task, as the block of a generator does that nobody reads on.
    """
    before = _current.get()
    _current.set(context)
    try:
        yield
    finally:
        _current.set(before)


@contextmanager
def in_steps() -> Generator[None]:
    """The block predicts one image, whose steps get spans of their own; a loop over images has no use for them."""
    before = _in_steps.get()
    _in_steps.set(True)
    try:
        yield
    finally:
        _in_steps.set(before)


def step() -> TraceContext:
    """The span that a step belongs to; NO_TRACE unless the task is `in_steps`."""
    return _current.get() if _in_steps.get() else NO_TRACE


class SpanKind(StrEnum):
    """Whose side of an exchange a span shows."""

    INTERNAL = "internal"
    SERVER = "server"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span(Protocol):
    """A span that has begun."""

    def set(self, name: str, value: str | float | bool) -> None:
        """Adds an attribute."""
        ...

    def rename(self, name: str) -> None:
        """Its name was not yet known when it began."""
        ...

    def fail(self, kind: str) -> None:
        """It has failed; `kind` is a reason or a type, not a message, which may quote a caller."""
        ...


class Tracer(Protocol):
    """Where spans go. Law: never blocks and never raises, whatever the collector does."""

    def span(
        self,
        name: str,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
    ) -> AbstractContextManager[Span]:
        """A span around the block, in which it is the current one; an exception that leaves the block fails it.

        Its parent is the current span, if none is given.
        """
        ...

    def add_span(
        self,
        name: str,
        seconds: float,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        ago: float = 0.0,
        parent: TraceContext | None = None,
    ) -> None:
        """Adds a span that took so many seconds and ended `ago` seconds before now."""
        ...


class NoSpan:
    """The span of a process that traces nothing, and its context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set(self, name: str, value: str | float | bool) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def fail(self, kind: str) -> None:
        pass


NO_SPAN = NoSpan()


class NoTracer:
    """Traces nothing."""

    def span(self, *_: object, **__: object) -> AbstractContextManager[Span]:
        return NO_SPAN

    def add_span(self, *_: object, **__: object) -> None:
        pass


@dataclass(slots=True)
class KeptSpan:
    """A span in memory."""

    name: str
    attributes: dict[str, str | int | float | bool]
    context: TraceContext
    parent: TraceContext
    kind: SpanKind = SpanKind.INTERNAL
    links: tuple[TraceContext, ...] = ()
    seconds: float = 0.0  # of one that was added
    failure: str = ""

    def set(self, name: str, value: str | float | bool) -> None:
        self.attributes[name] = value

    def rename(self, name: str) -> None:
        self.name = name

    def fail(self, kind: str) -> None:
        self.failure = kind


@dataclass(slots=True)
class MemoryTracer:
    """Keeps spans in memory, for tests; it records every trace."""

    spans: list[KeptSpan] = field(default_factory=list[KeptSpan])

    @contextmanager
    def span(
        self,
        name: str,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
    ) -> Generator[Span]:
        kept = self._keep(name, attributes, parent)
        kept.kind, kept.links = kind, tuple(links)
        with within(kept.context):
            try:
                yield kept
            except Exception as error:
                kept.fail(type(error).__name__)
                raise

    def add_span(
        self,
        name: str,
        seconds: float,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        ago: float = 0.0,
        parent: TraceContext | None = None,
    ) -> None:
        self._keep(name, attributes, parent).seconds = seconds

    def _keep(self, name: str, attributes: Attributes, parent: TraceContext | None) -> KeptSpan:
        above, number = current() if parent is None else parent, len(self.spans) + 1
        context = TraceContext(f"00-{above.trace_id or f'{number:032x}'}-{number:016x}-01")
        kept = KeptSpan(name, dict(attributes), context, above)
        self.spans.append(kept)
        return kept
