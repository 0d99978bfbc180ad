"""The models and evaluations of one caller, and what must be true of them."""

from __future__ import annotations

import time
from random import Random

import grpc

from sightline.v1 import evaluation_service_pb2 as evaluation_service
from sightline.v1 import model_service_pb2 as service
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.model_pb2 import Model, TrainingParameters
from tests.chaos.campaign.asking import STEP_SECONDS, Asker
from tests.chaos.campaign.audit import check_ledger
from tests.chaos.campaign.calls import Refused, patiently
from tests.chaos.campaign.history import Violation

BUDGET_SECONDS = 300
ENDED = {Model.SUCCEEDED, Model.FAILED, Model.CANCELLED}


class Models(Asker):
    """Short trainings, some of them cancelled."""

    service = "trainer"

    def train(self, own: str, dataset: str, chance: Random, *, cancels: bool) -> Model:
        wanted = TrainingParameters(training_dataset=dataset, model_kind=TrainingParameters.GENERIC_CLASSIFIER)
        wanted.time_budget.seconds = BUDGET_SECONDS
        wanted.hyperparameters.resolution = 64
        wanted.hyperparameters.max_trials = chance.choice((1, 2, 2))
        wanted.hyperparameters.seed = chance.randrange(1, 1 << 30)
        request = service.CreateModelRequest(model_id=own, request_id=f"create-{own}")
        request.model.training_parameters.CopyFrom(wanted)

        def create() -> Model:
            return self._api.call(self._replica.models.CreateModel, request)

        created = patiently(create, STEP_SECONDS, f"creating models/{own}")
        if patiently(create, STEP_SECONDS, f"creating models/{own} again").create_time != created.create_time:
            raise Violation(f"{created.name} was created twice by one request id")
        if cancels:
            time.sleep(chance.uniform(0, 3))
            self._cancel(created.name)
        ended = self._until(lambda: self.model(created.name), lambda model: model.state in ENDED)
        if ended.state not in ENDED:
            raise Violation(f"{created.name} is stuck in {Model.State.Name(ended.state)}: {ended.progress}")
        if ended.state == Model.CANCELLED and not cancels:
            raise Violation(f"{created.name} was cancelled by nobody")
        check_ledger(ended)
        self._api.tally.count(f"models {Model.State.Name(ended.state)}")
        return ended

    def model(self, name: str) -> Model:
        """The model with its ledger; Violation if there is none."""
        request = service.GetModelRequest(name=name, view=Model.FULL)
        try:
            return patiently(lambda: self._api.call(self._replica.models.GetModel, request), STEP_SECONDS, name)
        except Refused as error:
            raise Violation(f"{name} was acknowledged, and now: {error}") from None

    def _cancel(self, name: str) -> None:
        request = service.CancelModelRequest(name=name)
        try:
            patiently(lambda: self._api.call(self._replica.models.CancelModel, request), STEP_SECONDS, name)
        except Refused as error:
            if error.code is not grpc.StatusCode.FAILED_PRECONDITION:  # it has ended
                raise

    def evaluate(self, model: str, dataset: str) -> None:
        described = Evaluation(test_dataset=dataset)
        request = evaluation_service.CreateEvaluationRequest(
            parent=model, evaluation=described, evaluation_id="again", request_id=f"evaluate-{model.replace('/', '-')}"
        )
        created = patiently(
            lambda: self._api.call(self._replica.evaluations.CreateEvaluation, request), STEP_SECONDS, model
        )
        asked = evaluation_service.GetEvaluationRequest(name=created.name)

        def get() -> Evaluation:
            return patiently(
                lambda: self._api.call(self._replica.evaluations.GetEvaluation, asked), STEP_SECONDS, model
            )

        ended = (Evaluation.SUCCEEDED, Evaluation.FAILED)
        found = self._until(get, lambda evaluation: evaluation.state in ended)
        if found.state != Evaluation.SUCCEEDED:
            raise Violation(f"{found.name} is {Evaluation.State.Name(found.state)}: {found.error.message}")
        self._api.tally.count("evaluations")

    def delete(self, name: str) -> None:
        request = service.DeleteModelRequest(name=name)
        self._remove(lambda: self._api.call(self._replica.models.DeleteModel, request), name)
        gone = service.GetModelRequest(name=name)
        self._gone(lambda: self._api.call(self._replica.models.GetModel, gone), name)
        self._api.tally.count("models deleted")
