"""The best result so far, written to disk and offered to the worker, so that no allowance ends without one."""

import copy
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from torch import nn

from services.kit.errors import NotEnoughBudget
from services.trainer.engine.loop.task import Found, Outputs
from services.trainer.engine.loop.timing import OutOfTime, Part
from services.trainer.engine.loop.training import TRAINED, Training
from services.trainer.messages import Offer, Result

RENEWAL_SHARE = 0.05  # of the time, at most, is spent on offers that a later one replaces


@dataclass(slots=True)
class Delivery:
    """Turns the state's candidate into a Result. Once one is offered, there always is one to return."""

    training: Training
    steps_per_epoch: int
    _result: Result | None = None
    _step: int = -1  # of the candidate that is offered
    _ended: float = 0.0  # seconds used when the last offer was made
    _took: float = 0.0
    _folders: list[Path] = field(default_factory=list[Path])

    @property
    def renewable(self) -> bool:
        """Whether there is a newer candidate than the one offered, and enough time has passed for another offer."""
        state, used = self.training.state, self.training.session.meter.used()
        waits = state.candidate is not None and (self._result is None or self._step != state.position.candidate_step)
        return waits and (used - self._ended) * RENEWAL_SHARE >= self._took

    def offer(self) -> None:
        """Measures the candidate on the hold-out, writes its result and sends it; does nothing without a candidate.

        Raises OutOfTime, and the previous offer stands.
        """
        training, state = self.training, self.training.state
        started = training.session.meter.used()
        if state.candidate is None:
            return
        network = copy.deepcopy(state.average)
        network.load_state_dict(state.candidate.weights)
        if state.candidate.held_out is None:
            held_out = training.predict(network, training.partition.held_out, training.pace.expected(Part.DELIVER))
            state.candidate = replace(state.candidate, held_out=held_out)
        training.pace.require(training.pace.expected(Part.DELIVER))
        with training.pace.timed(Part.DELIVER):
            self._result = self._written(network.eval(), state.candidate.selection, state.candidate.held_out or {})
        self._step = state.position.candidate_step
        training.session.send(Offer(result=self._result))
        self._ended = training.session.meter.used()
        self._took = self._ended - started

    def final(self, reason: str) -> Result:
        """The candidate's result if there is time to write it, else the one offered.

        Raises NotEnoughBudget if there is neither.
        """
        training, position = self.training, self.training.state.position
        if self._result is None or self._step != position.candidate_step:
            training.session.progress("bundle", 0.5, TRAINED, 1.0)
            try:
                self.offer()
            except OutOfTime:
                reason = "allowance"
        if self._result is None:
            raise self._not_enough()
        training.images.require_readable()
        return msgspec.structs.replace(
            self._result,
            used=training.session.meter.elapsed(),
            stop_reason=reason,
            epochs=position.step // self.steps_per_epoch,
            steps=position.step,
            numerics=str(training.vision_task.numerics),
            batch_size_limit=training.micro_batch if training.micro_batch < training.task.recipe.batch_size else 0,
        )

    def _written(self, network: nn.Module, selection: Outputs, held_out: Outputs) -> Result:
        """Also keeps the previous folder: the worker may be about to read it."""
        training, position = self.training, self.training.state.position
        note = self._optimism()
        found = Found(
            network=network,
            selection=selection,
            held_out=held_out,
            notes=(note,) if note else (),
            epochs=position.step // self.steps_per_epoch,
            steps=position.step,
        )
        folder = Path(training.task.output_directory) / f"result-{position.candidate_step + 1}"
        result = training.vision_task.finish(found, folder)
        self._folders.append(folder)
        for old in self._folders[:-2]:
            shutil.rmtree(old, ignore_errors=True)
        del self._folders[:-2]
        return result

    def _optimism(self) -> str:
        if len(self.training.partition.held_out) or not self.training.task.recipe.patience:
            return ""
        return "The performance was measured on the images that also decided when to stop: it is slightly optimistic."

    def _not_enough(self) -> NotEnoughBudget:
        training, meter = self.training, self.training.session.meter
        least = meter.allowance_seconds + training.validation_seconds + training.delivery_seconds
        return meter.not_enough(training.images.dataset, len(training.images.samples), 1.5 * least, 3 * least)
