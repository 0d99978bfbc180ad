"""The trainer's metrics, each with its reason."""

from enum import StrEnum

from services.kit.consume import DEAD_LETTERS, JOBS, QUEUED, RUNNING
from services.kit.metered import NATS, STORE
from services.kit.quotas import Quota
from services.kit.telemetry import Metric, MetricKind
from services.trainer.domain import ModelState
from services.trainer.tally import AttemptResult
from services.trainer.work import WorkState
from services.vision.exports.formats import ExportFormat
from services.vision.signatures import BUNDLE_SIGNATURES


class EstimateResult(StrEnum):
    """How a call of EstimateTraining ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"  # no worker was free, or none had finished
    CANCELLED = "cancelled"


class ExportResult(StrEnum):
    """How a call of ExportModel ended, up to the first byte."""

    KEPT = "kept"  # the archive was there
    MADE = "made"  # a worker made it meanwhile
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


_KINDS = ("trial", "evaluation")
_WORKS = (*_KINDS, "estimate", "export")
_LONG = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)

# Of the api. Gauges describe the whole suite, so all replicas report the same.
MODELS = Metric(
    "sightline_trainer_models",
    MetricKind.GAUGE,
    "Models by state: what runs.",
    ("state",),
    values=(tuple(ModelState),),
)
WORK = Metric(
    "sightline_trainer_work",
    MetricKind.GAUGE,
    "Trials, evaluations, estimates and exports by state: what runs, and what waits for a worker.",
    ("kind", "state"),
    values=(_WORKS, tuple(WorkState)),
)
OLDEST_QUEUED = Metric(
    "sightline_trainer_oldest_queued_seconds",
    MetricKind.GAUGE,
    "How long the work that waits longest for a worker has waited, since its last attempt if any; 0 if none waits.",
    ("kind",),
    values=(_WORKS,),
)
WORKERS_FREE = Metric(
    "sightline_trainer_workers_free",
    MetricKind.GAUGE,
    "Workers, of several, without work and not needed by work that waits: for further trials of a model.",
)
BUDGET = Metric(
    "sightline_trainer_budget_seconds",
    MetricKind.GAUGE,
    "Total budget of the models that have not ended.",
)
BUDGET_LEFT = Metric(
    "sightline_trainer_budget_left_seconds",
    MetricKind.GAUGE,
    "What is left of the budgets of the models that have not ended: what workers may still have to do.",
)
BUDGET_OVERRUN = Metric(
    "sightline_trainer_budget_overrun_seconds",
    MetricKind.GAUGE,
    "The most that any model was charged beyond its budget. Anything but 0 is a defect.",
)
MODELS_ENDED = Metric(
    "sightline_trainer_models_ended_total",
    MetricKind.COUNTER,
    "Trainings that this replica ended, by final state.",
    ("state",),
    values=((ModelState.SUCCEEDED, ModelState.FAILED, ModelState.CANCELLED),),
)
MODELS_COST_SECONDS = Metric(
    "sightline_trainer_models_cost_seconds_total",
    MetricKind.COUNTER,
    "Compute charged to trainings that have ended.",
)
ESTIMATES = Metric(
    "sightline_trainer_estimates_total",
    MetricKind.COUNTER,
    "Calls of EstimateTraining that this replica answered, by result.",
    ("result",),
    values=(tuple(EstimateResult),),
)
ESTIMATE_SECONDS = Metric(
    "sightline_trainer_estimate_seconds",
    MetricKind.HISTOGRAM,
    "Compute of the probes behind those that succeeded, in seconds of the reference device; no budget pays for it.",
    buckets=(2, 5, 10, 20, 40, 80, 160, 320),
)
EXPORTS = Metric(
    "sightline_trainer_exports_total",
    MetricKind.COUNTER,
    "Calls of ExportModel that this replica answered, by format and result: whether archives are made or fail.",
    ("format", "result"),
    values=(tuple(ExportFormat), tuple(ExportResult)),
)
# Of the api too, but only one replica counts each attempt, from its record: see `counts.py`.
ATTEMPTS = Metric(
    "sightline_trainer_attempts_total",
    MetricKind.COUNTER,
    "Attempts at trials and evaluations by result: shows workers that die or stall, and trainings that fail.",
    ("kind", "result"),
    values=(_KINDS, tuple(AttemptResult)),
)
WAIT_SECONDS = Metric(
    "sightline_trainer_wait_seconds",
    MetricKind.HISTOGRAM,
    "Time from the planning of a trial or evaluation to its first attempt: whether there are enough workers.",
    ("kind",),
    _LONG,
    (_KINDS,),
)
COMPUTE_SECONDS = Metric(
    "sightline_trainer_compute_seconds_total",
    MetricKind.COUNTER,
    "Compute by whether a budget pays for it: the uncharged part is what crashes cost.",
    ("charged",),
    values=(("true", "false"),),
)
CALLER_COMPUTE_SECONDS = Metric(
    "sightline_caller_compute_seconds_total",
    MetricKind.COUNTER,
    "Compute charged for what a caller asked for; values of `caller` are bounded by `labels.MAX_NAMED`.",
    ("caller",),
)
# Of the workers' children, reported over their pipes. What is not scraped before a pod ends is lost.
PHASE_SECONDS = Metric(
    "sightline_trainer_phase_seconds_total",
    MetricKind.COUNTER,
    "Time that training processes have spent in each phase of their tasks.",
    ("phase",),
    values=(("preparing", "features", "fit", "train", "calibrate", "evaluate", "bundle", "probe", "export"),),
)
NUMERICS = Metric(
    "sightline_trainer_numerics_total",
    MetricKind.COUNTER,
    "Fine-tunings by the precision and memory layout of their steps: whether a GPU gains from bfloat16.",
    ("numerics",),
    values=(("float32", "float32-channels-last", "bfloat16", "bfloat16-channels-last"),),
)
CHILD_START_SECONDS = Metric(
    "sightline_trainer_child_start_seconds",
    MetricKind.HISTOGRAM,
    "Time that a training process took for its imports, before it could take a task.",
    buckets=(1, 2, 5, 10, 20, 50, 100),
)
DEVICE = Metric(
    "sightline_trainer_device_info",
    MetricKind.GAUGE,
    "1 for the kind of device that the worker trains on.",
    ("device",),
    values=(("cpu", "cuda"),),
)
WORKER_READY = Metric(
    "sightline_trainer_worker_ready",
    MetricKind.GAUGE,
    "1 once a training process has started on the worker's device; 0 until then, and when the last one did not start.",
)

# Values of `project` are bounded by `labels.MAX_NAMED`.
PROJECT_SHARE = Metric(
    "sightline_project_quota_share",
    MetricKind.GAUGE,
    "Share of a project's quota that is used, 0 without a limit: who is about to be refused.",
    ("project", "quota"),
    values=((), tuple(Quota)),
)
PROJECT_STORAGE = Metric(
    "sightline_project_storage_bytes",
    MetricKind.GAUGE,
    "What a project's uploads, snapshots, bundles and results of batch predictions hold.",
    ("project",),
)
PROJECT_COMPUTE = Metric(
    "sightline_project_compute_seconds",
    MetricKind.GAUGE,
    "What a project was charged this calendar month, in time on the reference device; starts at 0 each month.",
    ("project",),
)

API = (
    *(*STORE, *NATS, QUEUED, MODELS, WORK, OLDEST_QUEUED),
    *(WORKERS_FREE, BUDGET, BUDGET_LEFT, BUDGET_OVERRUN, MODELS_ENDED, MODELS_COST_SECONDS),
    *(ATTEMPTS, DEAD_LETTERS, WAIT_SECONDS, COMPUTE_SECONDS, CALLER_COMPUTE_SECONDS),
    *(ESTIMATES, ESTIMATE_SECONDS, EXPORTS),
    *(PROJECT_SHARE, PROJECT_STORAGE, PROJECT_COMPUTE),
)
WORKER = (
    *(*STORE, *NATS, JOBS, RUNNING, PHASE_SECONDS, NUMERICS, CHILD_START_SECONDS, DEVICE, WORKER_READY),
    BUNDLE_SIGNATURES,
)
