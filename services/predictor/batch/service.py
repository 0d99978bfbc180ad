"""Batch predictions as an api has them: only while NATS is there, which predictions of single images do without."""

from collections.abc import Generator
from contextlib import contextmanager

from services.kit.errors import BatchPredictionsOff, Unavailable
from services.predictor.batch.app import BatchPredictions


class Batches:
    """The use cases while they are available; `available` says when."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._present: BatchPredictions | None = None
        self.problem = "the connection has not been made yet"

    def get(self) -> BatchPredictions:
        """The use cases; Unavailable while NATS is away, BatchPredictionsOff if they never are."""
        if not self._enabled:
            raise BatchPredictionsOff(setting="SIGHTLINE_BATCH_PREDICTIONS")
        if self._present is None:
            raise Unavailable(what="nats-server", problem=self.problem)
        return self._present

    @contextmanager
    def available(self, present: BatchPredictions) -> Generator[None]:
        """They are available for the block."""
        self._present = present
        try:
            yield
        finally:
            self._present = None


OFF = Batches(enabled=False)
