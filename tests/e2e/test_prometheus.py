"""A real Prometheus over the running suite: its metrics after a small story, and the faults that make alerts fire.

The faults are injected one after the other into one suite, and each is over before the next begins. Every alert has a
fault; `promtool test rules` fires all of them with their deployed thresholds.
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
from services.infra import observe
from services.kit.telemetry import Metric, MetricKind
from services.predictor.batch import metrics as predictor
from services.trainer import metrics as trainer
from sightline.demo import digits
from tests.e2e.conftest import Command
from tests.e2e.monitored_suite import THRESHOLDS, MonitoredSuite, monitored_suite
from tests.support.certificates import HOUR, Authority
from tests.support.prometheus import RULES, SERVERS, queries, with_thresholds
from tests.support.servers import find_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Sets = tuple[digits.DigitSet, digits.DigitSet]
METRICS: dict[str, tuple[Metric, ...]] = {
    "dataset-api": (*dataset.API, *SERVERS),
    "dataset-worker": dataset.WORKER,
    "trainer-api": (*trainer.API, *SERVERS),
    "trainer-worker": trainer.WORKER,
    "predictor": (*predictor.API, *SERVERS),
    "predictor-worker": predictor.WORKER,
}
ONE_MODEL_BYTES = 60_000_000  # room for one of the story's models, which take 45 MB, but not for two


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return digits.write(tmp_path_factory.mktemp("few"), digits=3, per_digit=8)


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory, few: Sets) -> Iterator[MonitoredSuite]:
    """The suite after its story: a dataset is checked, a model is trained, one image is predicted, and then all."""
    folder = tmp_path_factory.mktemp("monitored")
    with monitored_suite(folder, {"SIGHTLINE_MODEL_CACHE_BYTES": str(ONE_MODEL_BYTES)}) as made:
        made.command("datasets", "create", "few", "--kind", "classification", "--coco", few[0].coco, "--wait")
        train(made.command, "first")
        predict(made.command, "first", few)
        made.command("batch", "create", "first", "all", "--dataset", "few", "--wait")
        yield made


def train(command: Command, name: str, *words: str) -> None:
    command("models", "train", name, "--dataset", "few", "--budget", "20s", *(words or ("--watch",)))


def predict(command: Command, name: str, few: Sets, images: int = 1, code: int = 0) -> None:
    command("predict", name, *sorted(few[1].truth)[:images], "--json", code=code)


@pytest.mark.parametrize("job", METRICS)
def test_every_metric_of_a_process_exists_after_a_small_story(monitored: MonitoredSuite, job: str) -> None:
    expected = {
        f"{metric.name}_bucket" if metric.kind is MetricKind.HISTOGRAM else metric.name
        for metric in (*METRICS[job], observe.BUILD_INFO)
    }
    deadline = time.monotonic() + 15  # gauges of the whole suite are set every few seconds
    while (missing := expected - monitored.prometheus.names(job)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not missing
    ours = {name for name in monitored.prometheus.names(job) if name.startswith(("sightline_", "grpc_"))}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in ours} <= {
        metric.name.removesuffix("_count") for metric in (*METRICS[job], observe.BUILD_INFO)
    }


def test_promtool_accepts_the_scraped_metrics(monitored: MonitoredSuite) -> None:
    assert monitored.stack.metrics_ports.keys() == set(monitored.stack.names) - {"nats"}
    for name in monitored.stack.metrics_ports:
        command = [find_program("promtool", "prometheus"), "check", "metrics"]
        checked = subprocess.run(command, input=monitored.metrics(name), capture_output=True, check=False)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b""), name


def test_prometheus_answers_every_query_of_the_rules_and_the_dashboard(monitored: MonitoredSuite) -> None:
    asked = queries(with_thresholds(RULES.read_text(), THRESHOLDS)) + queries(yaml.safe_load(RULES.read_text()))
    assert len(asked) > 60
    for expression in asked:
        monitored.prometheus.query(expression)
    rules = monitored.prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]


def test_the_queries_return_what_the_story_did_and_cost(monitored: MonitoredSuite) -> None:
    def assert_value(expression: str, expected: float) -> None:
        """Asserts the value, soon: a scrape comes every second, or later on a busy machine."""
        deadline = time.monotonic() + 15
        while True:
            values = [float(each["value"][1]) for each in monitored.prometheus.query(expression)]
            if values == [pytest.approx(expected, abs=1e-3)]:
                return
            assert time.monotonic() < deadline, f"{expression} is {values}, not {expected}"
            time.sleep(0.5)

    model = monitored.command("models", "show", "first", "--json").json
    cost = float(model["trainingCost"].removesuffix("s"))
    assert_value('sum(sightline_trainer_compute_seconds_total{charged="true"})', cost)
    assert_value("sum(sightline_dataset_images_checked_total)", 18)
    assert_value('sum(sightline_trainer_models_ended_total{state="SUCCEEDED"})', 1)
    assert_value("sum(sightline_trainer_models_cost_seconds_total)", cost)
    assert_value("max(sightline_trainer_budget_overrun_seconds)", 0)
    assert_value('sum(sightline_datasets_validated_total{state="READY"})', 1)
    assert_value("sum(sightline_dataset_chunk_seconds_count)", 1)
    assert_value("min(sightline_nats_connected)", 1)
    assert_value('sum(sightline_predictor_batch_images_sum{job="predictor"})', 1)
    assert_value('sum(sightline_predictor_stage_seconds_count{job="predictor"})', 5)
    assert_value('sum(sightline_predictor_loaded_models{job="predictor"})', 1)
    assert_value('sum(sightline_predictor_capacity_bytes{job="predictor"})', ONE_MODEL_BYTES)


def test_slow_and_refused_predictions_raise_alerts(monitored: MonitoredSuite, few: Sets) -> None:
    for _ in range(3):
        predict(monitored.command, "first", few)
    monitored.command("predict", "first", *sorted(few[1].truth), "--json", code=8)  # at once; two are admitted
    monitored.command("predict", "first", *sorted(few[1].truth), "--json", code=8)
    monitored.prometheus.wait_for("SightlinePredictionsRefused", "SightlinePredictionsSlow")


def test_cache_thrashing_and_slow_loads_raise_alerts(monitored: MonitoredSuite, few: Sets) -> None:
    train(monitored.command, "second")
    for _ in range(3):
        predict(monitored.command, "second", few)
        predict(monitored.command, "first", few)
    monitored.prometheus.wait_for("SightlineModelCacheThrashing", "SightlineModelLoadSlow")


def test_work_that_no_worker_takes_raises_an_alert(monitored: MonitoredSuite) -> None:
    with monitored.frozen("trainer-worker-1", "trainer-worker-2"):
        train(monitored.command, "unattended", "--json")
        monitored.prometheus.wait_for("SightlineNoWorkerTakesWork")
        monitored.command("models", "cancel", "unattended")


def test_a_worker_without_its_required_gpu_raises_an_alert(monitored: MonitoredSuite) -> None:
    with monitored.frozen("trainer-worker-1", "trainer-worker-2"), monitored.another_worker_without_its_gpu():
        train(monitored.command, "blind", "--json")
        monitored.prometheus.wait_for("SightlineWorkersNotReady")
        monitored.command("models", "cancel", "blind")


def test_work_that_waits_for_busy_workers_and_lost_leases_raise_alerts(monitored: MonitoredSuite) -> None:
    workers = {name for name in monitored.stack.pids if name.startswith("trainer-worker")}
    with ExitStack() as late:
        with monitored.children_frozen():
            train(monitored.command, "held", "--json")
            monitored.model_in("held", "RUNNING")
            holder = next(name for name in workers if b'jobs_running{kind="trainer"} 1.0' in monitored.metrics(name))
            (other,) = workers - {holder}
            with monitored.frozen(other):
                train(monitored.command, "behind", "--json")
                monitored.prometheus.wait_for("SightlineWorkWaits")
                late.enter_context(monitored.frozen(holder))
        monitored.model_in("held", "SUCCEEDED", 60)
    monitored.prometheus.wait_for("SightlineLeasesLost")


def test_work_whose_every_attempt_dies_raises_alerts(monitored: MonitoredSuite) -> None:
    with monitored.only_a_worker_whose_children_die():
        train(monitored.command, "doomed", "--json")
        alerts = "SightlineTrialsFailing", "SightlineDeadLetters", "SightlineTrainingsFail"
        monitored.prometheus.wait_for(*alerts, seconds=90)


def test_a_dataset_that_no_worker_checks_raises_an_alert(monitored: MonitoredSuite, few: Sets) -> None:
    with monitored.frozen("dataset-worker"):
        monitored.command("datasets", "create", "still", "--kind", "classification", "--coco", few[0].coco)
        monitored.prometheus.wait_for("SightlineIngestStalled")


def test_a_batch_prediction_that_no_worker_predicts_raises_an_alert(monitored: MonitoredSuite) -> None:
    with monitored.frozen("predictor-worker"):
        monitored.command("batch", "create", "first", "unread", "--dataset", "few", "--json")
        monitored.prometheus.wait_for("SightlineBatchesStalled")
        monitored.command("batch", "cancel", "unread")


def test_an_unavailable_store_raises_an_alert(monitored: MonitoredSuite) -> None:
    with monitored.without("store"):
        monitored.prometheus.wait_for("SightlineStoreErrors")


def test_a_frozen_service_raises_an_alert(monitored: MonitoredSuite) -> None:
    with monitored.frozen("predictor"):
        monitored.prometheus.wait_for("SightlineServiceDown")


def test_a_frozen_nats_server_raises_alerts(monitored: MonitoredSuite) -> None:
    assert "SightlineErrorsHigh" not in monitored.prometheus.firing(), "left over from an earlier fault"
    burning = {"SightlineErrorBudgetBurnsFast", "SightlineErrorBudgetBurnsSlowly"}
    missing = {"SightlineNatsUnreachable", "SightlineErrorsHigh", *burning}
    with monitored.frozen("nats"):
        for _ in range(5):  # a busy machine may see too few failures of one call within the time of a rate
            monitored.failing_call("few")
            missing -= monitored.prometheus.firing()
            if not missing:
                break
        monitored.prometheus.wait_for(*missing, seconds=60)


def test_a_certificate_that_expires_soon_raises_an_alert(monitored: MonitoredSuite, tmp_path: Path) -> None:
    with monitored.another_dataset_api(*Authority().pair(valid=(-HOUR, 24 * HOUR)).write(tmp_path)):
        monitored.prometheus.wait_for("SightlineCertificateExpires")


def test_failing_jobs_raise_an_alert(monitored: MonitoredSuite) -> None:
    with monitored.without("scratch"):
        monitored.register("unlucky", "unluckier", "unluckiest", like="few")
        monitored.prometheus.wait_for("SightlineJobsFailing")


def test_a_bundle_damaged_in_the_store_raises_an_alert(monitored: MonitoredSuite, few: Sets) -> None:
    predict(monitored.command, "second", few)  # which evicts the first one
    with monitored.damaged("first"):
        for _ in range(3):
            predict(monitored.command, "first", few, code=13)
        monitored.prometheus.wait_for("SightlineModelLoadsFail")
        for _ in range(3):
            assert monitored.status_from_gateway("first", min(few[1].truth)) == 500
            time.sleep(2)  # a rate needs two scrapes
        monitored.prometheus.wait_for("SightlineGatewayErrorsHigh")
    predict(monitored.command, "first", few)


def test_a_signature_changed_in_a_models_record_raises_an_alert(monitored: MonitoredSuite, few: Sets) -> None:
    with monitored.signature_of("first", "models/second"):
        deadline = time.monotonic() + 15  # a replica believes an answer of the trainer's for a second
        while b'bundle_signatures_total{result="refused"} 0.0' in monitored.metrics("predictor"):
            assert time.monotonic() < deadline
            monitored.command("predict", "first", min(few[1].truth), "--json", code=None)
        monitored.prometheus.wait_for("SightlineBundlesRefused")


def test_a_lost_audit_entry_raises_an_alert(monitored: MonitoredSuite, few: Sets) -> None:
    with monitored.without("audit"):
        predict(monitored.command, "first", few)
        monitored.prometheus.wait_for("SightlineAuditIncomplete")


def test_an_overcharged_model_raises_an_alert(monitored: MonitoredSuite) -> None:
    with monitored.overcharged(monitored.trials("first")[0]["name"], 1000):
        monitored.prometheus.wait_for("SightlineBudgetOverrun")


def test_every_alert_has_a_test_here() -> None:
    mentioned = set(re.findall(r"Sightline\w+", Path(__file__).read_text()))
    alerts = {
        rule["alert"]
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert alerts <= mentioned
