"""docs/monitoring.md lists every metric of every process, with its labels; docs/runbooks.md has a chapter per alert."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from services.dataset import metrics as dataset
from services.infra import http_metrics, observe, tls
from services.kit import consume, metered
from services.kit.telemetry import Metric, MetricKind
from services.predictor.batch import metrics as predictor
from services.trainer import metrics as trainer
from services.vision import decode_metrics
from tests.support.prometheus import RPCS, SERVERS
from tools import manifests

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| (.*?) ?\| ", re.MULTILINE)
COMMON = {observe.BUILD_INFO, *metered.STORE, tls.EXPIRY, *metered.NATS}
CHAPTERS: dict[str, set[Metric]] = {
    "Metrics of every process": COMMON,
    "Metrics of every gRPC server": set(SERVERS),
    "Metrics of the dataset api": set(dataset.API) - COMMON,
    "Metrics of dataset workers": set(dataset.WORKER) - COMMON,
    "Metrics of the trainer api": set(trainer.API) - COMMON,
    "Metrics of trainer workers": set(trainer.WORKER) - COMMON,
    "Metrics of the predictor": set(predictor.API) - COMMON,
    "Metrics of predictor workers": set(predictor.WORKER) - set(predictor.API) - COMMON,
    "Metrics of the gateway": {*http_metrics.ALL, *decode_metrics.ALL},
}
ALL = set[Metric]().union(*CHAPTERS.values())
NAMED = {metric.name: metric for metric in ALL}
# What bounds the labels that list no values.
BOUNDED_ELSEWHERE = {
    observe.BUILD_INFO: "one value of each label in a process",
    consume.JOBS: "the kinds of jobs that the process consumes",
    consume.RUNNING: "the same",
    consume.QUEUED: "the same",
    **dict.fromkeys(
        (trainer.PROJECT_SHARE, trainer.PROJECT_STORAGE, trainer.PROJECT_COMPUTE),
        "labels.MAX_NAMED projects, and one value for all others",
    ),
    trainer.CALLER_COMPUTE_SECONDS: "labels.MAX_NAMED callers, and one value for all others",
    **dict.fromkeys(http_metrics.ALL, "the gateway's routes, methods and statuses, one value for all others"),
    **dict.fromkeys(RPCS, "the methods of the contract, and one pair for all others"),
}


def chapter(title: str) -> str:
    """The text between a heading and the next one."""
    _, _, rest = (ROOT / "docs/monitoring.md").read_text().partition(f"\n### {title}\n")
    return re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("title", CHAPTERS)
def test_every_metric_is_documented_with_its_labels_and_no_other_is(title: str) -> None:
    documented = {name: tuple(labels.split(", ")) if labels else () for name, labels in ROW.findall(chapter(title))}
    assert documented == {metric.name: metric.labels for metric in CHAPTERS[title]}


def test_every_metric_that_is_declared_anywhere_belongs_to_a_process() -> None:
    declared: set[str] = set()
    for path in (ROOT / "services").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Metric":
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path}: a metric's name is a literal"
                declared.add(str(name.value))
    assert declared == {metric.name for metric in ALL}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_label_is_bounded(name: str) -> None:
    metric = NAMED[name]
    if metric in BOUNDED_ELSEWHERE:
        return
    assert len(metric.values) == len(metric.labels)
    assert all(metric.values)
    assert len(list(metric.series()) or [{}]) <= 100


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_metric_has_a_help_text(name: str) -> None:
    metric = NAMED[name]
    assert metric.help.endswith(".")
    assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
    assert bool(metric.buckets) == (metric.kind is MetricKind.HISTOGRAM)


def alerts() -> list[dict[str, object]]:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_every_alert_has_a_runbook_and_no_runbook_is_left_over() -> None:
    titles = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert titles == [alert["alert"] for alert in alerts()], "in the order of the rules"
    for alert in alerts():
        annotations = alert["annotations"]
        assert isinstance(annotations, dict)
        base, _, anchor = str(annotations["runbook_url"]).partition("#")
        assert anchor == str(alert["alert"]).lower()
        assert base == manifests.runbooks()
        assert base.startswith("https://")
        assert annotations["summary"]


def test_every_alert_is_tested_to_fire() -> None:
    tests = yaml.safe_load((ROOT / "deploy/prometheus/tests.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fired == {alert["alert"] for alert in alerts()}


def test_rules_and_runbooks_mention_only_metrics_that_exist() -> None:
    known = {metric.name for metric in ALL}
    known |= {f"{metric.name}{end}" for metric in ALL for end in ("_bucket", "_sum", "_count")}
    text = (ROOT / "deploy/prometheus/rules.yaml").read_text() + (ROOT / "docs/runbooks.md").read_text()
    named = set(re.findall(r"\b(?:sightline|grpc_server)_[a-z0-9_]+\b", text))
    assert named - known == set()
