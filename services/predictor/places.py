"""How much of one kind a replica does at once."""

from collections.abc import Generator
from contextlib import contextmanager

from services.kit.errors import QueueFull
from services.kit.telemetry import Telemetry
from services.predictor import metrics
from services.predictor.metrics import DropReason


class Places:
    """A number of places, which is a setting; whoever finds none is refused."""

    def __init__(self, subject: str, limit: int, setting: str, telemetry: Telemetry) -> None:
        self._subject = subject  # in errors
        self._limit = limit
        self._setting = setting
        self._telemetry = telemetry
        self.taken = 0

    def check(self) -> None:
        """QueueFull if there is no place."""
        if self.taken >= self._limit:
            self._telemetry.add(metrics.DROPPED, reason=DropReason.FULL)
            raise QueueFull(subject=self._subject, value=self.taken, limit=self._limit, setting=self._setting)

    @contextmanager
    def place(self) -> Generator[None]:
        """Takes a place for the block; QueueFull."""
        self.check()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
