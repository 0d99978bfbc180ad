"""Panels of what others measure: Kubernetes (kube-state-metrics), KEDA, Kueue, GPUs (DCGM), NATS (its exporter).

Without one of them its panels are empty. docs/monitoring.md says which version each name was looked up in.
"""

from __future__ import annotations

from deploy.grafana.panel import Limit, Panel, Query
from deploy.grafana.promql import (
    CHOSEN,
    WINDOW,
    of_our_pods,
    of_our_queue,
    quantile_in_our_queue,
    spoken_of,
    total,
    where_we_are,
)

_GPUS = 'resource=~"nvidia_com_.*"'
_PLACED = 'max by (namespace, pod) (kube_pod_status_phase{phase=~"Pending|Running"})'
_OFFERED = f"sum by (resource) (kube_node_status_allocatable{{{_GPUS}}})"
_TAKEN = (
    f'sum by (resource) (kube_pod_container_resource_requests{{{_GPUS}, node!=""}}'
    f" * on (namespace, pod) group_left () {_PLACED})"
)


def _of_keda(counter: str, by: str) -> str:
    """Within the last minutes, of the objects of ours."""
    grown = spoken_of(f"increase({counter}[{WINDOW}])")
    return where_we_are(f"sum by (namespace, {by}) ({grown})")


WHY_IT_WAITS = (
    Panel(
        "Pods that do not run",
        "Pending: waiting for a node, an image or a volume. The other lines say which.",
        (
            Query(total("kube_pod_status_phase", where='phase="Pending"'), "Pending"),
            Query(total("kube_pod_status_unschedulable"), "no node fits"),
            Query(total("kube_pod_container_status_waiting_reason", "reason"), "{{reason}}"),
        ),
        limits=(Limit(1, "orange"),),
    ),
    Panel(
        "Free GPUs",
        "Of the whole cluster: what its nodes offer and no pod has requested.",
        (Query(f"{_OFFERED} - ({_TAKEN} or 0 * {_OFFERED})", "{{resource}}"),),
        limits=(Limit(1, "green"),),
        lowest="red",
    ),
    Panel(
        "Jobs that Kueue holds back",
        "`active` ones wait for quota; for `inadmissible` ones there can be none: see the Workload's conditions.",
        (Query(of_our_queue("kueue_pending_workloads", "status"), "{{status}}"),),
        limits=(Limit(1, "orange"),),
    ),
    Panel(
        "Wait for Kueue's admission",
        "How long jobs waited: the median, and what one in twenty exceeded.",
        (
            Query(quantile_in_our_queue(0.5, "kueue_admission_wait_time_seconds"), "median"),
            Query(quantile_in_our_queue(0.95, "kueue_admission_wait_time_seconds"), "1 in 20"),
        ),
        "s",
    ),
    Panel(
        "KEDA's errors",
        "While it cannot count the jobs in the queue, no worker is added or removed.",
        (
            Query(_of_keda("keda_scaler_detail_errors_total", "scaledObject, scaler"), "{{scaledObject}} {{scaler}}"),
            Query(_of_keda("keda_scaled_job_errors_total", "scaledJob"), "{{scaledJob}}"),
        ),
        limits=(Limit(1, "red"),),
    ),
    Panel(
        "What KEDA scales by",
        "The jobs that it sees; compare with the queue.",
        (
            Query(
                where_we_are(f"max by (namespace, scaledObject) ({spoken_of('keda_scaler_metrics_value')})"),
                "{{scaledObject}}",
            ),
        ),
    ),
)

GPUS = (
    Panel(
        "Use of GPUs",
        "Of those that our pods have. Low while a trial trains: the data comes too slowly.",
        (
            Query(of_our_pods("DCGM_FI_DEV_GPU_UTIL", "gpu"), "{{job}} {{pod}} GPU {{gpu}}"),
            Query(
                f"100 * ({of_our_pods('DCGM_FI_PROF_GR_ENGINE_ACTIVE', 'gpu, GPU_I_ID')})",
                "{{job}} {{pod}} GPU {{gpu}} {{GPU_I_ID}}, engine",
            ),
        ),
        "percent",
        12,
    ),
    Panel(
        "Memory of GPUs",
        "Used, and what there is.",
        (
            Query(of_our_pods("DCGM_FI_DEV_FB_USED", "gpu, GPU_I_ID"), "{{job}} {{pod}} GPU {{gpu}} {{GPU_I_ID}}"),
            Query(
                of_our_pods("(DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)", "gpu, GPU_I_ID"),
                "{{job}} {{pod}} GPU {{gpu}} {{GPU_I_ID}} limit",
            ),
        ),
        "mbytes",
        12,
    ),
)

NATS = (
    Panel(
        "Storage of NATS",
        "What each server's streams hold, and what they may. A full one refuses every write.",
        (
            Query(
                f"sum by (namespace, server_name) (jetstream_server_total_message_bytes{{{CHOSEN}}})", "{{server_name}}"
            ),
            Query(
                f"max by (namespace, server_name) (jetstream_server_max_storage{{{CHOSEN}}})", "{{server_name}} limit"
            ),
        ),
        "bytes",
        12,
    ),
    Panel(
        "Lag of replicas",
        "By how many messages the last of a stream's servers is behind the first. It must not grow.",
        (
            Query(
                f"max by (namespace, stream_name) (jetstream_stream_last_seq{{{CHOSEN}}})"
                f" - min by (namespace, stream_name) (jetstream_stream_last_seq{{{CHOSEN}}})",
                "{{stream_name}}",
            ),
        ),
        width=12,
        limits=(Limit(1000, "orange"),),
    ),
)
