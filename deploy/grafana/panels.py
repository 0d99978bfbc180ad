"""The dashboard's panels: what runs, what callers may expect, what waits and why, its cost, what fails, how fast."""

from __future__ import annotations

from deploy.grafana.cluster import GPUS, NATS, WHY_IT_WAITS
from deploy.grafana.panel import Limit, Panel, Query
from deploy.grafana.promql import chosen, grouped, mean, quantile, rate, suite, total, within

OURS = 'job=~"dataset-.*|trainer-.*|predictor.*|gateway"'


ROWS: dict[str, tuple[Panel, ...]] = {
    "What runs": (
        Panel(
            "Processes",
            "How many of each respond to Prometheus.",
            (Query(total("up", "job", OURS), "{{job}}"),),
        ),
        Panel(
            "Models",
            "By state, without those that have ended.",
            (
                Query(
                    suite("sightline_trainer_models", "state", 'state=~"NOT_STARTED|TRAINING|CANCELLING"'),
                    "{{state}}",
                ),
            ),
        ),
        Panel(
            "Running trials and evaluations",
            "Each occupies one worker.",
            (Query(suite("sightline_trainer_work", "kind", 'state="RUNNING"'), "{{kind}}"),),
        ),
        Panel(
            "Phases of training",
            "What the training processes spend their time on, in seconds per second.",
            (Query(rate("sightline_trainer_phase_seconds_total", "phase"), "{{phase}}"),),
        ),
        Panel(
            "Images checked",
            "How fast dataset workers read images, and how many they refuse.",
            (Query(rate("sightline_dataset_images_checked_total", "outcome"), "{{outcome}}"),),
        ),
        Panel(
            "Versions",
            "More than one line for a process: a rollout is in progress, or stuck.",
            (Query(total("sightline_build_info", "service, version"), "{{service}} {{version}}"),),
        ),
    ),
    "What callers may expect": (
        Panel(
            "Error budget left",
            "Of the errors and slow calls that the objectives allow in 30 days. Below 0: an objective is missed.",
            (Query(suite("sightline:slo_budget_left:30d", "class, objective"), "{{class}} {{objective}}"),),
            "percentunit",
            12,
            limits=(Limit(0, "orange"), Limit(0.25, "green")),
            lowest="red",
            can_be_negative=True,
        ),
        Panel(
            "Burn rate",
            "How many times too fast an error budget is used up, over an hour; at 14.4 it is gone after two days.",
            (Query(suite("sightline:slo_burn:1h", "class, objective"), "{{class}} {{objective}}"),),
            width=12,
            limits=(Limit(1, "orange"), Limit(14.4, "red")),
        ),
    ),
    "What waits": (
        Panel(
            "Work without a worker",
            "Queued trials and evaluations.",
            (Query(suite("sightline_trainer_work", "kind", 'state="QUEUED"'), "{{kind}}"),),
        ),
        Panel(
            "Longest wait",
            "Rises while nothing runs: see SightlineNoWorkerTakesWork.",
            (
                Query(suite("sightline_trainer_oldest_queued_seconds", "kind"), "{{kind}}"),
                Query(suite("sightline_dataset_stalled_seconds"), "dataset without progress"),
            ),
            "s",
            limits=(Limit(300, "orange"), Limit(3600, "red")),
        ),
        Panel(
            "Queue",
            "Jobs that are waiting or in flight; autoscalers see the same numbers.",
            (Query(suite("sightline_jobs_queued", "kind"), "{{kind}}"),),
        ),
        Panel(
            "Wait for the first attempt",
            "How long work waited: the median, and what one in twenty exceeded.",
            (
                Query(quantile(0.5, "sightline_trainer_wait_seconds"), "median"),
                Query(quantile(0.95, "sightline_trainer_wait_seconds"), "1 in 20"),
            ),
            "s",
        ),
        Panel(
            "Datasets",
            "By state.",
            (Query(suite("sightline_datasets", "state"), "{{state}}"),),
        ),
        Panel(
            "Images waiting for a forward pass",
            "Above 0 for a long time: another replica of the predictor is needed.",
            (Query(total("sightline_predictor_queue_images", "instance"), "{{instance}}"),),
        ),
    ),
    "Why it waits": WHY_IT_WAITS,
    "GPUs": GPUS,
    "NATS": NATS,
    "Batch predictions and exports": (
        Panel(
            "Batch predictions",
            "By state, without those that have ended.",
            (
                Query(
                    suite("sightline_batch_predictions", "state", 'state=~"NOT_STARTED|RUNNING|CANCELLING"'),
                    "{{state}}",
                ),
            ),
        ),
        Panel(
            "Batch prediction without progress",
            "The longest time. Rises while no worker predicts: see SightlineBatchesStalled.",
            (Query(suite("sightline_batch_prediction_stalled_seconds"), "without progress"),),
            "s",
        ),
        Panel(
            "Images of batch predictions",
            "How fast workers predict them, and how many have no result.",
            (Query(rate("sightline_batch_prediction_images_total", "outcome"), "{{outcome}}"),),
        ),
        Panel(
            "Batch predictions that ended",
            "By state, within an hour.",
            (Query(within("sightline_batch_predictions_ended_total", "1h", "state"), "{{state}}"),),
        ),
        Panel(
            "Chunks of batch predictions",
            "Duration of a chunk, which is repeated if its worker dies: the median, and what one in twenty exceeded.",
            (
                Query(quantile(0.5, "sightline_batch_prediction_chunk_seconds"), "median"),
                Query(quantile(0.95, "sightline_batch_prediction_chunk_seconds"), "1 in 20"),
            ),
            "s",
        ),
        Panel(
            "Exports of models",
            "Calls of ExportModel within an hour, by format and result.",
            (Query(within("sightline_trainer_exports_total", "1h", "format, result"), "{{format}} {{result}}"),),
        ),
    ),
    "What it costs": (
        Panel(
            "Compute",
            "Reference device seconds per second, added as attempts end. What is not charged is the cost of crashes.",
            (
                Query(rate("sightline_trainer_compute_seconds_total", "charged", 'charged="true"'), "charged"),
                Query(rate("sightline_trainer_compute_seconds_total", "charged", 'charged="false"'), "not charged"),
            ),
        ),
        Panel(
            "Budgets of running trainings",
            "Over all models that have not ended.",
            (
                Query(suite("sightline_trainer_budget_seconds"), "granted"),
                Query(suite("sightline_trainer_budget_left_seconds"), "left"),
            ),
            "s",
        ),
        Panel(
            "Budget overrun",
            "Must be 0.",
            (Query(suite("sightline_trainer_budget_overrun_seconds"), "overrun"),),
            "s",
            4,
            number=True,
            limits=(Limit(0.001, "red"),),
        ),
        Panel(
            "Charged today",
            "Compute charged to the trainings that ended within 24 hours.",
            (Query(within("sightline_trainer_models_cost_seconds_total", "24h"), "charged"),),
            "s",
            4,
            number=True,
        ),
        Panel(
            "Compute of projects",
            "What each was charged this calendar month, in time on the reference device.",
            (Query(suite("sightline_project_compute_seconds", "project"), "{{project}}"),),
            "s",
        ),
        Panel(
            "Cost of projects",
            "The same at the price of an hour on the reference device, which you set above.",
            (Query(f"{suite('sightline_project_compute_seconds', 'project')} / 3600 * $price", "{{project}}"),),
        ),
        Panel(
            "Compute and cost of callers",
            "Charged within 30 days for trainings and evaluations: in time on the reference device, and at that price.",
            (
                Query(within("sightline_caller_compute_seconds_total", "30d", "caller"), "{{caller}}, seconds"),
                Query(
                    f"{within('sightline_caller_compute_seconds_total', '30d', 'caller')} / 3600 * $price",
                    "{{caller}}, cost",
                ),
            ),
        ),
        Panel(
            "Use of quotas",
            "Of each project's quota that has a limit; at 1 its calls are refused.",
            (Query(suite("sightline_project_quota_share", "project, quota"), "{{project}} {{quota}}"),),
            "percentunit",
            limits=(Limit(0.8, "orange"), Limit(1, "red")),
        ),
        Panel(
            "Memory",
            "By process.",
            (Query(total("process_resident_memory_bytes", "job", OURS), "{{job}}"),),
            "bytes",
        ),
        Panel(
            "CPU",
            "Cores that each process keeps busy, without the training children.",
            (Query(rate("process_cpu_seconds_total", "job", OURS), "{{job}}"),),
        ),
        Panel(
            "Models in memory",
            "Bytes, and how many they may use.",
            (
                Query(total("sightline_predictor_loaded_bytes", "instance"), "{{instance}}"),
                Query(total("sightline_predictor_capacity_bytes", "instance"), "{{instance}} limit"),
            ),
            "bytes",
        ),
    ),
    "What fails": (
        Panel(
            "Errors by code",
            "Calls that did not end with OK.",
            (Query(rate("grpc_server_handled_total", "grpc_code", 'grpc_code!="OK"'), "{{grpc_code}}"),),
            "reqps",
        ),
        Panel(
            "Attempts",
            "How attempts at trials and evaluations end.",
            (Query(rate("sightline_trainer_attempts_total", "result"), "{{result}}"),),
        ),
        Panel(
            "Trainings and validations that ended",
            "By state.",
            (
                Query(rate("sightline_trainer_models_ended_total", "state"), "model {{state}}"),
                Query(rate("sightline_datasets_validated_total", "state"), "dataset {{state}}"),
            ),
        ),
        Panel(
            "Work given up and taken over",
            "Within an hour: work of which every attempt died, and leases that workers lost.",
            (
                Query(within("sightline_dead_letters_total", "1h", "kind"), "{{kind}} given up"),
                Query(
                    within("sightline_trainer_attempts_total", "1h", where='result="lease_lost"'),
                    "trainer leases lost",
                ),
                Query(within("sightline_dataset_leases_lost_total", "1h"), "dataset leases lost"),
                Query(within("sightline_dataset_jobs_republished_total", "1h"), "jobs published again"),
            ),
        ),
        Panel(
            "Jobs",
            "How deliveries are settled.",
            (Query(rate("sightline_jobs_total", "kind, result"), "{{kind}} {{result}}"),),
        ),
        Panel(
            "Store and NATS errors",
            "Operations that got no response or were refused.",
            (
                Query(
                    rate("sightline_store_operations_total", "operation", 'result=~"unavailable|refused|error"'),
                    "store {{operation}}",
                ),
                Query(
                    rate("sightline_nats_operations_total", "operation", 'result=~"unavailable|refused|error"'),
                    "NATS {{operation}}",
                ),
                Query(f"1 - min by ({grouped('job')}) ({chosen('sightline_nats_connected')})", "{{job}} without NATS"),
            ),
        ),
    ),
    "How fast it responds": (
        Panel(
            "Calls",
            "Per second, by method.",
            (
                Query(
                    rate("grpc_server_handled_total", "grpc_method", 'grpc_service=~"sightline[.].*"'),
                    "{{grpc_method}}",
                ),
            ),
            "reqps",
        ),
        Panel(
            "Predictions",
            "Duration of AnalyzeImage: the median, and what one in twenty calls exceeded.",
            (
                Query(quantile(0.5, "grpc_server_handling_seconds", "", 'grpc_method="AnalyzeImage"'), "median"),
                Query(
                    quantile(0.95, "grpc_server_handling_seconds", "", 'grpc_method="AnalyzeImage"'),
                    "1 in 20",
                    exemplars=True,
                ),
            ),
            "s",
            limits=(Limit(1, "orange"), Limit(2, "red")),
        ),
        Panel(
            "Where a prediction spends its time",
            "Mean of each stage; the forward pass is that of the whole batch.",
            (Query(mean("sightline_predictor_stage_seconds", "stage"), "{{stage}}"),),
            "s",
        ),
        Panel(
            "Images in a batch",
            "Above 1: batching happens.",
            (Query(mean("sightline_predictor_batch_images"), "mean"),),
        ),
        Panel(
            "Model cache",
            "How often a caller waits for a load, and how often a model is evicted.",
            (
                Query(rate("sightline_predictor_cache_requests_total", "result"), "{{result}}"),
                Query(rate("sightline_predictor_cache_evictions_total", "reason"), "evicted: {{reason}}"),
                Query(rate("sightline_predictor_dropped_images_total", "reason"), "image {{reason}}"),
            ),
        ),
        Panel(
            "Model loads",
            "Duration of model loads: the median, and what one in ten exceeded.",
            (
                Query(quantile(0.5, "sightline_predictor_load_seconds"), "median"),
                Query(quantile(0.9, "sightline_predictor_load_seconds"), "1 in 10"),
            ),
            "s",
        ),
        Panel(
            "Blob store",
            "One in twenty operations took longer.",
            (Query(quantile(0.95, "sightline_store_operation_seconds", "operation"), "{{operation}}"),),
            "s",
            12,
        ),
        Panel(
            "Records and queue",
            "One in twenty operations took longer.",
            (Query(quantile(0.95, "sightline_nats_operation_seconds", "operation"), "{{operation}}"),),
            "s",
            12,
        ),
        Panel(
            "The gateway's requests",
            "Per second, by HTTP status.",
            (Query(rate("sightline_http_requests_total", "status"), "{{status}}"),),
            "reqps",
            12,
        ),
        Panel(
            "How long the gateway's requests take",
            "One in twenty took longer; those that wait for a dataset to be checked take as long as that.",
            (Query(quantile(0.95, "sightline_http_request_seconds", "route"), "{{route}}"),),
            "s",
            12,
        ),
    ),
}
