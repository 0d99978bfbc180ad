"""Lays out the report of a model."""

from collections.abc import Iterable, Sequence

from sightline.cli.formats import percent
from sightline.cli.quality import metric_lines
from sightline.cli.report import measured
from sightline.cli.report.mistakes import Pictures, doubts, mistakes
from sightline.client.advice import advice
from sightline.client.names import bare_name
from sightline.client.progress import metric_name
from sightline.client.quantities import duration, milliseconds
from sightline.client.results.evaluation import EvaluationData
from sightline.client.results.insight import LeaderboardEntry
from sightline.client.results.model import LedgerEntry, ModelData
from sightline.client.results.performance import Performance
from sightline.pages.layout import facts, heading, moment, page, section, table
from sightline.pages.markup import Markup, tag
from sightline.text import shown

SHOWN_LEDGER = 200  # the latest entries


def page_of(
    model: ModelData, evaluations: Sequence[EvaluationData], pictures: Pictures, count: int, missing: str = ""
) -> str:
    """The page, with so many mistakes and boxes to check; `missing` says why there are no pictures."""
    unavailable = model.message.learning_curve.unavailable
    return page(
        f"{model.name}: report",
        _head(model),
        measured.quality(model.performance, model.warnings),
        _advice(model),
        measured.categories(model.performance),
        measured.confusion(model.performance),
        measured.curves(model.performance),
        measured.calibration(model.performance),
        mistakes(model, pictures, count),
        doubts(model, pictures, count),
        tag("p", shown(missing), class_="WARNING") if missing else Markup(),
        measured.learning(model.learning_curve, unavailable),
        _evaluations(evaluations),
        _trials(model.leaderboard),
        _ledger(model.ledger),
    )


def _head(model: ModelData) -> Markup:
    version = model.message.training_dataset_version
    stopped = model.stop_reason.lower().replace("_", " ") if model.stop_reason else ""
    rows = (
        ("state", model.state + (f" ({stopped})" if stopped else "")),
        ("kind", model.kind),
        ("trained on", model.dataset + (f", version {version}" if version else "")),
        ("snapshot", model.message.snapshot_digest),
        ("measured on", model.test_dataset),
        ("continues", f"{model.base_model}, version {model.base_model_version}" if model.base_model else ""),
        ("budget", f"{duration(model.cost)} used of {duration(model.budget)}"),
        ("version", model.version),
        ("best trial", bare_name(model.best_trial)),
        ("prediction", f"{milliseconds(model.prediction_cost)} an image" if model.prediction_cost else ""),
        ("started", moment(model.start_time)),
        ("ended", moment(model.end_time)),
        ("error", model.error.message if model.error else ""),
    )
    return tag("header", *heading(model.display_name, model.name), facts(rows))


def _advice(model: ModelData) -> Markup:
    parts: list[str] = []
    for one in advice(model):
        parts += [tag("h3", one.question), tag("ul", *(tag("li", shown(sentence)) for sentence in one.sentences))]
    return section("What would make it better", *parts)


def _evaluations(evaluations: Iterable[EvaluationData]) -> Markup:
    rows = [
        (
            one.display_name or bare_name(one.name),
            one.dataset,
            one.state,
            one.error.message if one.error else _metrics(one.performance),
            one.model_version,
            moment(one.end_time),
        )
        for one in evaluations
    ]
    heads = ("name", "dataset", "state", "result", "version", "ended")
    return section("Evaluations", table(heads, rows)) if rows else Markup()


def _metrics(performance: Performance) -> str:
    return "; ".join(f"{name} {value}" for name, value in metric_lines(performance))


def _trials(entries: Sequence[LeaderboardEntry]) -> Markup:
    if not entries:
        return Markup()
    metric = next((metric_name(entry.score_metric) for entry in entries if entry.score_metric), "")
    rows = [
        (
            bare_name(entry.trial),
            entry.recipe,
            entry.verdict,
            _score(entry),
            f"{entry.log_loss:.3f}" if entry.log_loss is not None else "",
            duration(entry.cost),
        )
        for entry in entries
    ]
    served = next((place for place, entry in enumerate(entries) if entry.served), -1)
    heads = ("trial", "recipe", "verdict", f"score: {metric}" if metric else "score", "log loss", "cost")
    return section("Trials", table(heads, rows, numbers=3, chosen=served))


def _score(entry: LeaderboardEntry) -> str:
    if entry.score is None:
        return ""
    limits = entry.score_interval
    return percent(entry.score) + (f" ({percent(limits.low)} to {percent(limits.high)})" if limits else "")


def _ledger(entries: Sequence[LedgerEntry]) -> Markup:
    if not entries:
        return Markup()
    rows = [
        (
            bare_name(entry.trial),
            moment(entry.end_time),
            entry.reason,
            "yes" if entry.charged else "no",
            str(entry.attempt),
            duration(entry.duration),
        )
        for entry in entries[-SHOWN_LEDGER:]
    ]
    charged = sum(entry.duration.total_seconds() for entry in entries if entry.charged)
    more = f" The latest {SHOWN_LEDGER} of {len(entries)} entries." if len(entries) > SHOWN_LEDGER else ""
    heads = ("trial", "ended", "reason", "charged", "attempt", "compute")
    return section("Ledger", tag("p", f"Charged: {duration(charged)}.{more}"), table(heads, rows, numbers=2))
