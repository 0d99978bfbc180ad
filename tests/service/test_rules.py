"""promtool on rules and dashboard: they parse, each alert fires when its tests say and not before, joins find pairs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.grafana.dashboard import DEPLOYS
from deploy.grafana.panels import ROWS
from tests.support.prometheus import filled, queries
from tests.support.servers import find_program

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"


@pytest.mark.parametrize(
    "words", [("check", "rules", "rules.yaml"), ("check", "config", "prometheus.yaml"), ("test", "rules", "tests.yaml")]
)
def test_promtool_finds_no_fault(words: tuple[str, ...]) -> None:
    assert "FAILED" not in promtool(FOLDER, *words)


def promtool(folder: Path, *words: str) -> str:
    """What it prints; fails if it finds a fault."""
    command = [find_program("promtool", "prometheus"), *words]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_every_query_of_the_dashboard_parses(tmp_path: Path) -> None:
    asked = [*queries({"groups": []}), filled(DEPLOYS)]
    rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(asked)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(asked)} rules found" in promtool(tmp_path, "check", "rules", "rules.yaml")


# As Prometheus has them; of some exporters with the labels that they gave, of others with those renamed.
OUR_POD = 'namespace="a", pod="worker-1"'
OUR_GPU = 'exported_namespace="a", exported_pod="worker-1", namespace="gpu-operator", pod="dcgm-exporter-x"'
SERIES = {
    f'sightline_build_info{{{OUR_POD}, job="trainer-worker", service="trainer-worker", version="1"}}': "1x20",
    'sightline_build_info{namespace="a", pod="api", job="trainer-api", service="trainer-api", version="1"}': "1x20",
    f'DCGM_FI_DEV_GPU_UTIL{{{OUR_GPU}, gpu="0"}}': "87x20",
    'DCGM_FI_DEV_GPU_UTIL{namespace="other", pod="theirs", gpu="1"}': "50x20",
    f'DCGM_FI_DEV_FB_USED{{{OUR_POD}, gpu="0"}}': "1000x20",
    f'DCGM_FI_DEV_FB_FREE{{{OUR_POD}, gpu="0"}}': "7000x20",
    'kube_node_status_allocatable{node="n", resource="nvidia_com_gpu", unit="integer"}': "4x20",
    f'kube_pod_container_resource_requests{{{OUR_POD}, node="n", resource="nvidia_com_gpu"}}': "1x20",
    'kube_pod_container_resource_requests{namespace="a", pod="done", node="n", resource="nvidia_com_gpu"}': "1x20",
    f'kube_pod_status_phase{{{OUR_POD}, phase="Running"}}': "1x20",
    f'kube_pod_status_phase{{{OUR_POD}, phase="Pending"}}': "0x20",
    'kube_pod_status_phase{namespace="a", pod="done", phase="Running"}': "0x20",
    'kube_pod_status_phase{namespace="a", pod="done", phase="Pending"}': "0x20",
    'kube_pod_status_phase{namespace="a", pod="worker-2", phase="Pending"}': "1x20",
    'keda_scaler_detail_errors_total{namespace="keda", exported_namespace="a", scaledObject="w", scaler="s"}': "0+4x20",
    'keda_scaler_detail_errors_total{namespace="b", scaledObject="other", scaler="s"}': "0+4x20",
    'kueue_pending_workloads{namespace="kueue-system", cluster_queue="sightline.a", status="active"}': "3x20",
    'kueue_pending_workloads{namespace="kueue-system", cluster_queue="theirs", status="active"}': "9x20",
    'kueue_admission_wait_time_seconds_bucket{cluster_queue="sightline.a", le="10"}': "0+2x20",
    'kueue_admission_wait_time_seconds_bucket{cluster_queue="sightline.a", le="+Inf"}': "0+2x20",
    'jetstream_stream_last_seq{namespace="a", pod="nats-0", server_name="nats-0", stream_name="S"}': "500x20",
    'jetstream_stream_last_seq{namespace="a", pod="nats-1", server_name="nats-1", stream_name="S"}': "480x20",
    'sightline_project_compute_seconds{namespace="a", pod="api", job="trainer-api", project="p"}': "7200x20",
}
SHOWN: dict[str, dict[str, float]] = {
    "Use of GPUs": {'{namespace="a", pod="worker-1", job="trainer-worker", gpu="0"}': 87},
    "Memory of GPUs": {'{namespace="a", pod="worker-1", job="trainer-worker", gpu="0"}': 1000},
    "Free GPUs": {'{resource="nvidia_com_gpu"}': 3},
    "Pods that do not run": {'{namespace="a"}': 1},
    "KEDA's errors": {'{namespace="a", scaledObject="w", scaler="s"}': 8},
    "Jobs that Kueue holds back": {'{namespace="a", status="active"}': 3},
    "Wait for Kueue's admission": {'{namespace="a"}': 5},
    "Lag of replicas": {'{namespace="a", stream_name="S"}': 20},
    "Cost of projects": {'{namespace="a", project="p"}': 2},
}


def test_what_others_measure_is_joined_to_our_pods_queues_and_namespaces(tmp_path: Path) -> None:
    panels = {panel.title: panel for row in ROWS.values() for panel in row}
    tests = [
        {
            "expr": filled(panels[title].queries[0].expr),
            "eval_time": "15m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
        }
        for title, samples in SHOWN.items()
    ]
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    content = {"rule_files": [], "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]}
    (tmp_path / "tests.yaml").write_text(json.dumps(content))
    promtool(tmp_path, "test", "rules", "tests.yaml")
