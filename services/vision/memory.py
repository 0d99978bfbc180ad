"""Forward passes that fit into memory: a batch that does not is halved."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")
Batch = TypeVar("Batch", Tensor, Sequence[Any])

_PHRASES = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "failed to allocate memory",
    "status_alloc_failed",
)


def is_out_of_memory(fault: BaseException) -> bool:
    """Whether memory was short, of which torch on a CPU, CUDA's libraries and ONNX Runtime say so in words only."""
    if isinstance(fault, torch.OutOfMemoryError | MemoryError):
        return True
    return any(phrase in str(fault).lower() for phrase in _PHRASES)


class BatchLimit:
    """How many images pass through a network at once: `most`, halved for good whenever they do not fit into memory."""

    def __init__(self, most: int) -> None:
        self.most = most

    def pieces(self, images: Batch, work: Callable[[Batch], T]) -> list[T]:
        """`work` of consecutive slices of the images, in order; raises MemoryError if one image does not fit."""
        done: list[T] = []
        start = 0
        while start < len(images):
            piece = cast(Batch, images[start : start + self.most])
            size = len(piece)
            result = _attempted(work, piece)
            if result is None:
                self.halve(size)
                continue
            done.extend(result)
            start += size
        return done

    def halve(self, size: int) -> None:
        """After a batch of `size` did not fit; raises MemoryError if that was a single image."""
        if size == 1:
            raise MemoryError("a single image does not fit into memory")
        self.most = size // 2
        empty_cache()


def empty_cache() -> None:
    """Returns unused memory to the device: in small pieces, it may be why a large one was not found."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _attempted(work: Callable[[Batch], T], piece: Batch) -> tuple[T] | None:
    """The result; None if it does not fit. What the attempt allocated is free once this has returned."""
    try:
        return (work(piece),)
    except (MemoryError, RuntimeError) as fault:
        if not is_out_of_memory(fault):
            raise
        return None
