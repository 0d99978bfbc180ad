"""Where audit entries go, and the thread that writes them there."""

import os
import queue
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from services.kit.log import Log
from services.kit.telemetry import Metric, MetricKind, Telemetry

MAX_WAITING = 10_000  # entries
CLOSE_SECONDS = 5.0  # to write what waits, at the end
ABANDON_SECONDS = 1.0  # for a sink to give up, after that

SINKS = ("stdout", "file", "nats")
LOST = Metric(
    "sightline_audit_lost_total",
    MetricKind.COUNTER,
    "Audit entries that could not be written, or came too fast.",
    ("sink",),
    values=(SINKS,),
)
WAITING = Metric(
    "sightline_audit_waiting", MetricKind.GAUGE, "Audit entries that are not written yet.", ("sink",), values=(SINKS,)
)

_log = Log(__name__)


class Sink(Protocol):
    """Where entries go; used by one thread, except for `close`."""

    @property
    def name(self) -> str:
        """As metrics and logs name it."""
        ...

    def write(self, lines: Sequence[bytes]) -> None:
        """Writes whole lines, each with its end; returns once they are kept. OSError or ValueError if they are not."""
        ...

    def close(self) -> None:
        """A write that waits for something gives up soon."""
        ...


class StdoutSink:
    """Standard output, on which services print nothing else."""

    name = "stdout"

    def write(self, lines: Sequence[bytes]) -> None:
        sys.stdout.buffer.write(b"".join(lines))
        sys.stdout.buffer.flush()

    def close(self) -> None: ...


class FileSink:
    """A file to which lines are appended; only its owner can read it. One that was moved away is made anew."""

    name = "file"

    def __init__(self, path: Path) -> None:
        """OSError if the file cannot be written."""
        self._path = path
        self._file = self._opened()

    def write(self, lines: Sequence[bytes]) -> None:
        if not self._is_there():
            os.close(self._file)
            self._file = self._opened()
        rest = b"".join(lines)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def close(self) -> None: ...

    def _opened(self) -> int:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False


class Writer:
    """Writes lines to one sink in a thread.

    Law: `put` never blocks and never raises. Every line is written or counted as lost, at the latest by `close`.
    """

    def __init__(self, sink: Sink, telemetry: Telemetry) -> None:
        self._sink, self._telemetry = sink, telemetry
        self._lines: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._open = 0  # lines that are neither written nor lost
        self._failing = False
        self._settle(0)
        telemetry.add(LOST, 0, sink=sink.name)
        self._thread = threading.Thread(target=self._write, name=f"audit {sink.name}", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Writes the line soon."""
        self._settle(-1)
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lose(1, "more calls end than can be written")

    def close(self) -> None:
        """Writes what waits, for up to CLOSE_SECONDS; the rest is lost."""
        try:
            self._lines.put(None, timeout=CLOSE_SECONDS)
            self._thread.join(CLOSE_SECONDS)
        except queue.Full:
            pass
        self._sink.close()
        self._thread.join(ABANDON_SECONDS)
        if self._open:
            self._lose(self._open, "the process ends")

    def _write(self) -> None:
        ended = False
        while not ended:
            batch = [self._lines.get()]
            while not self._lines.empty():
                batch.append(self._lines.get())
            ended = None in batch
            lines = [line for line in batch if line]
            try:
                self._sink.write(lines)
                self._failing = False
                self._settle(len(lines))
            except (OSError, ValueError) as error:  # the latter for a closed stream
                self._lose(len(lines), str(error))

    def _settle(self, count: int) -> None:
        with self._lock:
            self._open -= count
            self._telemetry.set(WAITING, self._open, sink=self._sink.name)

    def _lose(self, count: int, problem: str) -> None:
        self._settle(count)
        self._telemetry.add(LOST, count, sink=self._sink.name)
        if not self._failing:  # once, not for each entry
            self._failing = True
            _log.error("audit_lost", problem=problem, count=count, sink=self._sink.name)
