"""Batches prepared in a few threads while the network runs, and how many decoded images stay in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from services.kit import pulse
from services.trainer.messages import TrainTask

KEPT_BYTES = 2 * 1024**3  # of decoded images
FRUGAL = 8  # divides KEPT_BYTES for an attempt whose predecessors died
LOOKAHEAD = 3  # pieces that are ready or in progress, at least

T = TypeVar("T")
R = TypeVar("R")


def prefetched(make: Callable[[T], R], pieces: Iterable[T], threads: int) -> Iterator[R]:
    """`make(piece)` of every piece, in order; work not yet begun is cancelled when the caller stops.

    Beats the pulse with every piece.
    """
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="prefetch") as pool:
        pending: deque[Future[R]] = deque()
        try:
            for piece in pieces:
                pending.append(pool.submit(make, piece))
                if len(pending) >= max(LOOKAHEAD, threads + 1):
                    yield _next(pending)
            while pending:
                yield _next(pending)
        finally:
            for future in pending:
                future.cancel()


def _next(pending: "deque[Future[R]]") -> R:
    result = pending.popleft().result()
    pulse.beat()
    return result


def kept_bytes(task: TrainTask) -> int:
    """How many bytes of decoded images the task may keep."""
    return KEPT_BYTES // FRUGAL if task.frugal else KEPT_BYTES
