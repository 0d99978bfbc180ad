"""A real Prometheus over the running suite: what it sees after a small story, and which faults make which alert fire.

The faults come one after the other on one suite, and each is over before the next begins. Every alert has its fault;
`promtool test rules` fires all of them with the patience that they have where they are deployed.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from services.dataset import metrics as dataset
from services.infra import observe, server_metrics
from services.kit.telemetry import Metric, MetricKind
from services.predictor import metrics as predictor
from services.trainer import metrics as trainer
from sightline.demo import digits
from tests.e2e.conftest import Command
from tests.e2e.watched import PATIENCE, Watched, watching
from tests.support.certificates import HOUR, Authority
from tests.support.prometheus import RULES, hastened, queries
from tests.support.servers import find_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Sets = tuple[digits.DigitSet, digits.DigitSet]
RPCS = (
    server_metrics.STARTED,
    server_metrics.HANDLED,
    server_metrics.SECONDS,
    server_metrics.RECEIVED,
    server_metrics.SENT,
)
SEEN: dict[str, tuple[Metric, ...]] = {
    "dataset-api": (*dataset.API, *RPCS),
    "dataset-worker": dataset.WORKER,
    "trainer-api": (*trainer.API, *RPCS),
    "trainer-worker": trainer.WORKER,
    "predictor": (*predictor.ALL, *RPCS),
}
ONE_MODEL_BYTES = 60_000_000  # room for one model of this story, which takes 45 MB, but not for two


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return digits.write(tmp_path_factory.mktemp("few"), digits=3, per_digit=8)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, few: Sets) -> Iterator[Watched]:
    """The suite after its story: a dataset is checked, a model is trained, an image is predicted."""
    folder = tmp_path_factory.mktemp("watched")
    with watching(folder, {"SIGHTLINE_MODEL_CACHE_BYTES": str(ONE_MODEL_BYTES)}) as made:
        made.command("datasets", "create", "few", "--kind", "classification", "--coco", few[0].coco, "--wait")
        train(made.command, "first")
        predict(made.command, "first", few)
        yield made


def train(command: Command, name: str, *words: str) -> None:
    command("models", "train", name, "--dataset", "few", "--budget", "20s", *(words or ("--watch",)))


def predict(command: Command, name: str, few: Sets, images: int = 1, code: int = 0) -> None:
    command("predict", name, *sorted(few[1].truth)[:images], "--json", code=code)


@pytest.mark.parametrize("job", SEEN)
def test_every_metric_of_a_process_is_there_after_a_small_story(watched: Watched, job: str) -> None:
    expected = {
        f"{metric.name}_bucket" if metric.kind is MetricKind.HISTOGRAM else metric.name
        for metric in (*SEEN[job], observe.BUILD_INFO)
    }
    deadline = time.monotonic() + 15  # gauges of the whole suite are set every few seconds
    while (missing := expected - watched.prometheus.names(job)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not missing
    ours = {name for name in watched.prometheus.names(job) if name.startswith(("sightline_", "grpc_"))}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in ours} <= {
        metric.name.removesuffix("_count") for metric in (*SEEN[job], observe.BUILD_INFO)
    }


def test_promtool_finds_no_fault_in_what_a_scrape_brings(watched: Watched) -> None:
    assert watched.stack.metrics_ports.keys() == set(watched.stack.names) - {"nats"}
    for name in watched.stack.metrics_ports:
        command = [find_program("promtool", "prometheus"), "check", "metrics"]
        checked = subprocess.run(command, input=watched.metrics(name), capture_output=True, check=False)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b""), name


def test_every_query_of_rules_and_dashboard_is_one_that_prometheus_answers(watched: Watched) -> None:
    asked = queries(hastened(RULES.read_text(), PATIENCE)) + queries(yaml.safe_load(RULES.read_text()))
    assert len(asked) > 60
    for expression in asked:
        watched.prometheus.query(expression)
    rules = watched.prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]


def test_what_the_story_cost_and_did_is_what_the_queries_say(watched: Watched) -> None:
    def says(expression: str, expected: float, seconds: float = 15.0) -> None:
        """Soon, as a scrape comes every second, and later where the machine is busy."""
        deadline = time.monotonic() + seconds
        while True:
            values = [float(each["value"][1]) for each in watched.prometheus.query(expression)]
            if values == [pytest.approx(expected, abs=1e-3)]:
                return
            assert time.monotonic() < deadline, f"{expression} is {values}, not {expected}"
            time.sleep(0.5)

    model = watched.command("models", "show", "first", "--json").json
    cost = float(model["trainingCost"].removesuffix("s"))
    says('sum(sightline_trainer_compute_seconds_total{charged="true"})', cost)
    says("sum(sightline_dataset_images_checked_total)", 18)
    says('sum(sightline_trainer_models_ended_total{state="SUCCEEDED"})', 1)
    says("sum(sightline_trainer_models_cost_seconds_total)", cost)
    says("max(sightline_trainer_budget_overrun_seconds)", 0)
    says('sum(sightline_datasets_validated_total{state="READY"})', 1)
    says("sum(sightline_dataset_chunk_seconds_count)", 1)
    says("min(sightline_nats_connected)", 1)
    says("sum(sightline_predictor_batch_images_sum)", 1)
    says("sum(sightline_predictor_stage_seconds_count)", 5)
    says("sum(sightline_predictor_loaded_models)", 1)
    says("sum(sightline_predictor_capacity_bytes)", ONE_MODEL_BYTES)


def test_slow_predictions_and_refused_images_are_told(watched: Watched, few: Sets) -> None:
    for _ in range(3):
        predict(watched.command, "first", few)
    watched.command("predict", "first", *sorted(few[1].truth), "--json", code=8)  # at once; two are let in
    watched.command("predict", "first", *sorted(few[1].truth), "--json", code=8)
    watched.prometheus.wait_for("SightlinePredictionsRefused", "SightlinePredictionsSlow")


def test_models_that_push_one_another_out_of_memory_and_slow_loads_are_told(watched: Watched, few: Sets) -> None:
    train(watched.command, "second")
    for _ in range(3):
        predict(watched.command, "second", few)
        predict(watched.command, "first", few)
    watched.prometheus.wait_for("SightlineModelCacheThrashing", "SightlineModelLoadSlow")


def test_work_that_nobody_takes_is_told(watched: Watched) -> None:
    with watched.frozen("trainer-worker-1", "trainer-worker-2"):
        train(watched.command, "unattended", "--json")
        watched.prometheus.wait_for("SightlineNoWorkerTakesWork")
    watched.command("models", "cancel", "unattended")


def test_a_worker_without_the_gpu_that_it_must_use_is_told(watched: Watched) -> None:
    with watched.frozen("trainer-worker-1", "trainer-worker-2"), watched.another_worker_without_its_gpu():
        train(watched.command, "blind", "--json")
        watched.prometheus.wait_for("SightlineWorkersNotReady")
    watched.command("models", "cancel", "blind")


def test_work_that_waits_for_busy_workers_and_leases_that_are_lost_are_told(watched: Watched) -> None:
    workers = {name for name in watched.stack.pids if name.startswith("trainer-worker")}
    with ExitStack() as late:
        with watched.stuck():
            train(watched.command, "held", "--json")
            watched.model_in("held", "RUNNING")
            holder = next(name for name in workers if b'jobs_running{kind="trainer"} 1.0' in watched.metrics(name))
            (other,) = workers - {holder}
            with watched.frozen(other):
                train(watched.command, "behind", "--json")
                watched.prometheus.wait_for("SightlineWorkWaits")
                late.enter_context(watched.frozen(holder))
        watched.model_in("held", "SUCCEEDED", 60)
    watched.prometheus.wait_for("SightlineLeasesLost")


def test_work_whose_every_attempt_dies_is_told(watched: Watched) -> None:
    with watched.deadly():
        train(watched.command, "doomed", "--json")
        alerts = "SightlineTrialsFailing", "SightlineDeadLetters", "SightlineTrainingsFail"
        watched.prometheus.wait_for(*alerts, seconds=90)


def test_a_dataset_that_nobody_checks_is_told(watched: Watched, few: Sets) -> None:
    with watched.frozen("dataset-worker"):
        watched.command("datasets", "create", "still", "--kind", "classification", "--coco", few[0].coco)
        watched.prometheus.wait_for("SightlineIngestStalled")


def test_a_store_that_is_away_is_told(watched: Watched) -> None:
    with watched.without("store"):
        watched.prometheus.wait_for("SightlineStoreErrors")


def test_a_service_that_stands_still_is_told(watched: Watched) -> None:
    with watched.frozen("predictor"):
        watched.prometheus.wait_for("SightlineServiceDown")


def test_a_nats_server_that_stands_still_is_told(watched: Watched) -> None:
    assert "SightlineErrorsHigh" not in watched.prometheus.firing(), "of a fault before"
    with watched.frozen("nats"):
        watched.ask_in_vain("few")
        watched.prometheus.wait_for("SightlineNatsUnreachable", "SightlineErrorsHigh", seconds=60)


def test_a_certificate_that_ends_soon_is_told(watched: Watched, tmp_path: Path) -> None:
    with watched.another_dataset_api(*Authority().pair(valid=(-HOUR, 24 * HOUR)).write(tmp_path)):
        watched.prometheus.wait_for("SightlineCertificateExpires")


def test_jobs_that_fail_are_told(watched: Watched) -> None:
    with watched.without("scratch"):
        watched.register("unlucky", "unluckier", "unluckiest", like="few")
        watched.prometheus.wait_for("SightlineJobsFailing")


def test_a_bundle_that_was_damaged_in_the_store_is_told(watched: Watched, few: Sets) -> None:
    predict(watched.command, "second", few)  # for which the first one leaves
    with watched.damaged("first"):
        for _ in range(3):
            predict(watched.command, "first", few, code=13)
        watched.prometheus.wait_for("SightlineModelLoadsFail")
    predict(watched.command, "first", few)


def test_a_model_that_was_charged_too_much_is_told(watched: Watched) -> None:
    with watched.overcharged(watched.trials("first")[0]["name"], 1000):
        watched.prometheus.wait_for("SightlineBudgetOverrun")


def test_every_alert_is_provoked_here() -> None:
    said = set(re.findall(r"Sightline\w+", Path(__file__).read_text()))
    alerts = {
        rule["alert"]
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert alerts <= said
