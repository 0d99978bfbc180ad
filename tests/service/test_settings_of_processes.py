"""Every process prints all of its settings, with its secrets masked."""

import json
import os
import subprocess
import sys

import pytest
from pydantic import SecretStr

from services.dataset.settings import DatasetSettings
from services.infra.doctor import DoctorSettings
from services.kit.settings import Settings
from services.predictor.settings import PredictorSettings
from services.trainer.settings import TrainerSettings


def secrets_of(kind: type[Settings]) -> set[str]:
    return {name for name, field in kind.model_fields.items() if field.annotation is SecretStr}


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
    assert secrets_of(kind) >= {"s3_access_key", "s3_secret_key", "nats_credentials", "token"}
    environment = {
        **os.environ,
        **{f"SIGHTLINE_{name.upper()}": secret for name in secrets_of(kind)},
        "SIGHTLINE_NATS_URL": f"nats://me:{secret}@127.0.0.1:4222",
        "SIGHTLINE_NATS_USER": "me",
        "SIGHTLINE_BUCKET": "images",
    }
    done = subprocess.run(
        [sys.executable, "-m", *command, "--settings"], env=environment, capture_output=True, text=True, check=True
    )
    assert secret not in done.stdout
    printed = json.loads(done.stdout)
    assert set(printed) == set(kind.model_fields)
    assert printed["bucket"] == "images"


def test_a_predictor_that_requires_a_missing_gpu_exits_at_once() -> None:
    environment = {**os.environ, "SIGHTLINE_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "services.predictor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    (failed,) = [line for line in done.stderr.splitlines() if '"process_failed"' in line]
    assert "SIGHTLINE_DEVICE is cuda" in json.loads(failed)["exception"]["message"]
