"""`sightline models`: estimate a training, train within a budget, follow it, show the results, load the models."""

from contextlib import closing
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.empty_pb2 import Empty
from rich.markup import escape

from sightline.cli.console import Json, facts, notes, output, print_json, state, table
from sightline.cli.formats import moment, parse_duration, percent
from sightline.cli.insight import print_advice, print_curve, print_doubts, print_leaderboard, print_mistakes
from sightline.cli.model_comparisons import compare
from sightline.cli.model_exports import export
from sightline.cli.model_memory import load, loaded, unload
from sightline.cli.model_reports import report
from sightline.cli.model_trials import trials_
from sightline.cli.quality import main_metric, print_calibration, print_performance
from sightline.cli.session import session
from sightline.cli.watching import watching
from sightline.client.names import bare_name, full_name
from sightline.client.progress import metric_name, of_model
from sightline.client.quantities import duration, milliseconds
from sightline.client.results.estimate import BudgetOutlook
from sightline.client.results.kinds import ModelKind, ModelState
from sightline.client.results.model import Hyperparameters, ModelData
from sightline.v1 import model_service_pb2 as service

COLLECTION = "models"

app = typer.Typer(
    help="Estimate and train models; list, show, compare, report on, export, cancel and delete them; load them.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


class Kind(StrEnum):
    """What a model does."""

    CLASSIFIER = "classifier"
    DETECTOR = "detector"


@app.command("train")
def train(
    name: Name,
    dataset: Annotated[str, typer.Option(help="The dataset to train on.")],
    budget: Annotated[str, typer.Option(help="Compute budget, e.g. 90s, 10m or 1h30m. Waiting costs nothing.")],
    test_dataset: Annotated[str, typer.Option(help="The dataset to measure on; by default held-out images.")] = "",
    kind: Annotated[Kind | None, typer.Option(help="The kind of model; by default, the dataset decides.")] = None,
    base_model: Annotated[str, typer.Option(help="A model to continue: training starts from its networks.")] = "",
    max_prediction_cost: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="The most that predicting one image may cost on one core of the reference device, e.g. 50ms.",
        ),
    ] = "",
    ignore_category_names: Annotated[
        bool,
        typer.Option("--ignore-category-names", help="Do not start a classifier from the names of its categories."),
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the training until it ends.")] = False,
    json: Json = False,
) -> None:
    """Train a model within a compute budget, which is never exceeded."""
    span = parse_duration(budget)
    narrowed = Hyperparameters(
        max_prediction_cost=parse_duration(max_prediction_cost) if max_prediction_cost else None,
        ignore_category_names=ignore_category_names,
    )
    with session() as client:
        model = client.models.train(
            name,
            dataset=dataset,
            budget=span,
            test_dataset=test_dataset or None,
            kind=kind.value if kind else None,
            base_model=base_model or None,
            hyperparameters=narrowed,
        )
        if watch:
            model = model.wait()
    if json:
        print_json(model.message)
    elif watch:
        print_model(model)
    else:
        output().print(f"training {escape(model.name)}: `sightline models show {escape(bare_name(model.name))}`")


@app.command("estimate")
def estimate(
    dataset: Annotated[str, typer.Option(help="The dataset to train on.")],
    test_dataset: Annotated[str, typer.Option(help="The dataset to measure on; by default held-out images.")] = "",
    kind: Annotated[Kind | None, typer.Option(help="The kind of model; by default, the dataset decides.")] = None,
    base_model: Annotated[str, typer.Option(help="A model to continue: training would start from its networks.")] = "",
    timeout: Annotated[str, typer.Option(help="How long to wait for a free worker and its result.")] = "5m",
    json: Json = False,
) -> None:
    """Estimate what a training would need and achieve: a worker measures for some seconds. Costs nothing."""
    seconds = parse_duration(timeout).total_seconds()
    with session() as client:
        found = client.models.estimate(
            dataset=dataset,
            test_dataset=test_dataset or None,
            kind=kind.value if kind else None,
            base_model=base_model or None,
            timeout=seconds,
        )
    if json:
        print_json(found.message)
        return
    output().print(
        facts(
            [
                ("minimum budget", duration(found.minimum_budget)),
                ("suggested budget", duration(found.suggested_budget)),
                ("measured on", escape(f"{found.device}, charged at {found.calibration_factor:g}")),
            ]
        )
    )
    metric = metric_name(found.metric).upper() if found.metric else ""
    rows = table("BUDGET", "EXPECTED COST", *([metric] if metric else []), right=("BUDGET", "EXPECTED COST"))
    for each in found.outlook:
        rows.add_row(duration(each.budget), duration(each.expected_cost), *([_expected(each)] if metric else []))
    output().print(rows)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the models."""
    with session() as client:
        models = client.models.list()
    if json:
        print_json(service.ListModelsResponse(models=[model.message for model in models]))
        return
    rows = table("NAME", "STATE", "KIND", "DATASET", "QUALITY", "USED", "BUDGET", "CREATED", right=("USED", "BUDGET"))
    for model in models:
        rows.add_row(
            escape(bare_name(model.name)),
            state(model.state),
            _kind(model),
            escape(bare_name(model.dataset)),
            main_metric(model.performance),
            duration(model.cost),
            duration(model.budget),
            moment(model.create_time),
        )
    output().print(rows)


@app.command("show")
def show(
    name: Name,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Also show every trial, the calibration, the worst mistakes and the learning curve."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Show one model: its training, cost and quality."""
    with session() as client:
        model = client.models.get(name)
    if json:
        print_json(model.message)
        return
    print_model(model)
    if full:
        print_leaderboard(model)
        print_calibration(model.performance)
        print_doubts(model)
        print_mistakes(model)
        print_curve(model)


@app.command("advise")
def advise(name: Name, json: Json = False) -> None:
    """Say what would make a model better: images to collect, categories that are confused, labels to check."""
    with session() as client:
        found = client.models.advise(name)
    print_advice(found, json=json)


app.command("compare")(compare)
app.command("report")(report)


@app.command("watch")
def watch(name: Name, json: Json = False) -> None:
    """Follow a training to its end: what runs, what it found so far, what is left, and why it waits."""
    with session() as client:
        with watching(notes()) as show_state, closing(client.models.watch(name)) as states:
            for model in states:
                show_state(model)
                if model.state == ModelState.FAILED and model.error:
                    raise model.error
        model = client.models.get(name)
    if json:
        print_json(model.message)
    else:
        print_model(model)


app.command("trials")(trials_)
app.command("export")(export)


@app.command("cancel")
def cancel(name: Name, json: Json = False) -> None:
    """Cancel a training; the best model so far is kept."""
    with session() as client:
        model = client.models.cancel(name)
    if json:
        print_json(model.message)
    else:
        output().print(f"{escape(model.name)} is {state(model.state)}")


@app.command("delete")
def delete(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Delete it although an alias stands for it.")] = False,
    json: Json = False,
) -> None:
    """Delete a model with its trials and evaluations."""
    with session() as client:
        client.models.delete(name, force=force)
    if json:
        print_json(Empty())
    else:
        output().print(f"deleted {escape(full_name(COLLECTION, name))}")


app.command("load")(load)
app.command("unload")(unload)
app.command("loaded")(loaded)


def print_model(model: ModelData) -> None:
    """Prints a model for people."""
    console = output()
    _, doing, detail = of_model(model)
    stopped = f" ({model.stop_reason.lower().replace('_', ' ')})" if model.stop_reason else ""
    rows = [
        ("name", escape(model.name)),
        ("state", state(model.state)),
        ("kind", _kind(model)),
        ("trained on", escape(model.dataset)),
        ("continues", escape(f"{model.base_model}, version {model.base_model_version}") if model.base_model else ""),
        ("doing", escape(f"{doing} {detail}") if model.end_time is None else ""),
        ("budget", f"{duration(model.cost)} used of {duration(model.budget)}{stopped}"),
        ("best trial", escape(bare_name(model.best_trial))),
        ("prediction", milliseconds(model.prediction_cost) and f"{milliseconds(model.prediction_cost)} an image"),
        ("created", moment(model.create_time)),
        *(("warning", f"[yellow]{escape(warning)}[/]") for warning in model.warnings),
    ]
    console.print(facts(rows))
    if model.error:
        console.print(f"[red]{escape(model.error.message)}[/]")
    if model.message.HasField("performance"):
        print_performance(model.performance)


def _expected(outlook: BudgetOutlook) -> str:
    """`82.1 %  (70.0 % to 90.3 %)`."""
    if outlook.value is None or outlook.interval is None:
        return ""
    return f"{percent(outlook.value)}  ({percent(outlook.interval.low)} to {percent(outlook.interval.high)})"


def _kind(model: ModelData) -> str:
    return model.kind if model.kind != ModelKind.UNKNOWN else ""
