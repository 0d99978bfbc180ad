"""Every process prints all of its settings, and none of its secrets."""

import json
import os
import subprocess
import sys

import pytest

from services.dataset.settings import DatasetSettings
from services.infra.doctor import DoctorSettings
from services.kit.settings import Settings
from services.predictor.settings import PredictorSettings
from services.trainer.settings import TrainerSettings


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (("services.dataset", "api"), DatasetSettings),
        (("services.dataset", "worker"), DatasetSettings),
        (("services.trainer", "api"), TrainerSettings),
        (("services.trainer", "worker", "--once"), TrainerSettings),
        (("services.predictor",), PredictorSettings),
        (("services.infra.doctor",), DoctorSettings),
    ],
)
def test_a_process_prints_all_of_its_settings_and_no_secret(command: tuple[str, ...], kind: type[Settings]) -> None:
    secret = "hunter2"
    environment = {
        **os.environ,
        "SIGHTLINE_S3_SECRET_KEY": secret,
        "SIGHTLINE_NATS_URL": f"nats://me:{secret}@127.0.0.1:4222",
        "SIGHTLINE_BUCKET": "pictures",
    }
    done = subprocess.run(
        [sys.executable, "-m", *command, "--settings"], env=environment, capture_output=True, text=True, check=True
    )
    assert secret not in done.stdout
    printed = json.loads(done.stdout)
    assert set(printed) == set(kind.model_fields)
    assert printed["bucket"] == "pictures"
