"""Evaluations: measurements of a model on any dataset."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from sightline.client.errors import SightlineError
from sightline.client.results.convert import failure, moment, span
from sightline.client.results.dataset import Finding
from sightline.client.results.kinds import EvaluationState, word
from sightline.client.results.performance import Performance
from sightline.v1 import evaluation_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationData:
    """One measurement of a model."""

    name: str  # `models/birds/evaluations/held-out`
    state: EvaluationState
    display_name: str
    dataset: str  # that the model is measured on
    progress: float  # how many of the images are done, 0..1
    model_version: str  # of the weights that are measured: those served when it was created
    performance: Performance  # without metrics until it has SUCCEEDED
    cost: timedelta  # charged to no budget
    warnings: tuple[Finding, ...]
    error: SightlineError | None  # why it is FAILED
    create_time: datetime | None
    end_time: datetime | None
    message: evaluation_pb2.Evaluation = field(repr=False, compare=False)
    owner: Any = field(default=None, repr=False, compare=False)  # `evaluations` of the client that returned it

    @classmethod
    def of(cls, message: evaluation_pb2.Evaluation, owner: Any = None) -> Self:
        """The content of the message."""
        return cls(
            name=message.name,
            state=word(EvaluationState, evaluation_pb2.Evaluation.State, message.state),
            display_name=message.display_name,
            dataset=message.test_dataset,
            progress=message.progress,
            model_version=message.model_version,
            performance=Performance.of(message.performance),
            cost=span(message.cost),
            warnings=tuple(Finding.of(warning) for warning in message.warnings),
            error=failure(message),
            create_time=moment(message.create_time),
            end_time=moment(message.end_time),
            message=message,
            owner=owner,
        )


class Evaluation(EvaluationData):
    """An evaluation that a `Client` returned."""

    __slots__ = ()

    def wait(self) -> "Evaluation":
        """Waits until it has ended and returns it whole; raises the error of one that ends as FAILED."""
        waited: Evaluation = self.owner.wait(self)
        return waited


class AsyncEvaluation(EvaluationData):
    """An evaluation that an `AsyncClient` returned."""

    __slots__ = ()

    async def wait(self) -> "AsyncEvaluation":
        """Waits until it has ended and returns it whole; raises the error of one that ends as FAILED."""
        waited: AsyncEvaluation = await self.owner.wait(self)
        return waited
