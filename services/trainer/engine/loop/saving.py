"""When a fine-tuning saves checkpoints: no more often than the worker can store them."""

from pathlib import Path

from torch import Tensor

from services.trainer.engine.loop import checkpoint as checkpoints
from services.trainer.engine.loop.checkpoint import Plan
from services.trainer.engine.loop.timing import Part
from services.trainer.engine.loop.training import Training
from services.trainer.messages import Checkpoint

STRETCH = 2.0  # times what storing the last one took: the store is busy half of the time, at most


class Saver:
    """Saves a training's checkpoints, and deletes those that the worker has stored.

    A checkpoint stays until its CheckpointDone; until then no other is saved unless the worker asks for one.
    """

    def __init__(self, training: Training, plan: Plan) -> None:
        self._training = training
        self._plan = plan
        self._root = Path(training.task.output_directory) / "checkpoints"
        self._saved_at = training.session.meter.used()
        self._saved_step = 0

    def due(self) -> bool:
        """Whether a checkpoint is due or requested, and the allowance leaves time for it."""
        signals, pace = self._training.session.signals, self._training.pace
        asked = signals is not None and signals.save_now()
        return (asked or self._period_is_over()) and pace.leaves(self._training.end_seconds, pace.expected(Part.SAVE))

    def save(self, packed: dict[str, Tensor]) -> None:
        """Writes a checkpoint of the state, as just copied by `State.pack`, and announces it to the worker."""
        training, session = self._training, self._training.session
        done_step, _ = self._done()
        checkpoints.forget(self._root, done_step)
        with training.pace.timed(Part.SAVE):
            recipe, unreadable = training.task.recipe, training.images.unreadable
            path = checkpoints.save(self._root, packed, training.state.position, self._plan, recipe, unreadable)
        used = session.meter.elapsed()
        self._saved_at, self._saved_step = used.total_seconds(), training.state.position.step
        session.send(Checkpoint(path=str(path), step=self._saved_step, used=used))

    def _period_is_over(self) -> bool:
        done_step, stored_in_seconds = self._done()
        period_seconds = max(self._training.task.checkpoint_seconds, STRETCH * stored_in_seconds)
        since = self._training.session.meter.used() - self._saved_at
        return done_step >= self._saved_step and since >= period_seconds

    def _done(self) -> tuple[int, float]:
        """The step up to which the worker has stored checkpoints, and how long the last one took."""
        signals = self._training.session.signals
        if signals is None:
            return self._saved_step, 0.0
        return (0, 0.0) if signals.done is None else (signals.done.step, signals.done.seconds)
