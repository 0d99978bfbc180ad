"""Batches prepared in a few threads while the network works, and how many decoded pictures stay in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from services.trainer.messages import TrainTask

KEPT_BYTES = 2 * 1024**3  # of decoded pictures
FRUGAL = 8  # times less is kept in memory by an attempt whose predecessors died
LOOKAHEAD = 3  # pieces that are ready or under way

T = TypeVar("T")
R = TypeVar("R")


def prefetched(make: Callable[[T], R], pieces: Iterable[T], threads: int) -> Iterator[R]:
    """`make` of every piece, in order; what is not begun is dropped when the caller stops."""
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="prefetch") as pool:
        under_way: deque[Future[R]] = deque()
        try:
            for piece in pieces:
                under_way.append(pool.submit(make, piece))
                if len(under_way) >= LOOKAHEAD:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def kept_bytes(task: TrainTask) -> int:
    """Of decoded pictures, at most."""
    return KEPT_BYTES // FRUGAL if task.batch_size_limit else KEPT_BYTES
