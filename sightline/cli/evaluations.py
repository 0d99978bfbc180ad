"""`sightline evaluations`: measure a model on any dataset."""

from typing import Annotated

import typer
from rich.markup import escape

from sightline.cli.console import Json, facts, output, print_json, state, table
from sightline.cli.formats import moment
from sightline.cli.quality import main_metric, print_calibration, print_performance
from sightline.cli.session import session
from sightline.client.names import bare_name, evaluation_name
from sightline.client.quantities import duration
from sightline.client.results.evaluation import EvaluationData
from sightline.v1 import evaluation_service_pb2 as service

app = typer.Typer(help="Measure models on datasets; list and show the results.", no_args_is_help=True)
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The evaluation's name.")]


@app.command("create")
def create(
    model: ModelName,
    name: Name,
    dataset: Annotated[str, typer.Option(help="The dataset to measure on.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the evaluation has ended.")] = False,
    json: Json = False,
) -> None:
    """Measure the model's current version on a dataset."""
    with session() as client:
        evaluation = client.evaluations.create(model, name, dataset=dataset, wait=wait)
    if json:
        print_json(evaluation.message)
    elif wait:
        print_evaluation(evaluation)
    else:
        words = f"{escape(bare_name(model))} {escape(bare_name(name))}"
        output().print(f"measuring {escape(evaluation.name)}: `sightline evaluations show {words}`")


@app.command("list")
def list_(model: ModelName, json: Json = False) -> None:
    """List the evaluations of a model."""
    with session() as client:
        evaluations = client.evaluations.list(model)
    if json:
        print_json(service.ListEvaluationsResponse(evaluations=[one.message for one in evaluations]))
        return
    rows = table("NAME", "STATE", "DATASET", "QUALITY", "COST", "CREATED", right=("COST",))
    for one in evaluations:
        rows.add_row(
            escape(bare_name(one.name)),
            state(one.state),
            escape(bare_name(one.dataset)),
            main_metric(one.performance),
            duration(one.cost),
            moment(one.create_time),
        )
    output().print(rows)


@app.command("show")
def show(model: ModelName, name: Name, json: Json = False) -> None:
    """Show one evaluation."""
    with session() as client:
        evaluation = client.evaluations.get(evaluation_name(model, name))
    if json:
        print_json(evaluation.message)
    else:
        print_evaluation(evaluation)


def print_evaluation(evaluation: EvaluationData) -> None:
    """Prints an evaluation for people."""
    rows = [
        ("name", escape(evaluation.name)),
        ("state", state(evaluation.state)),
        ("measured on", escape(evaluation.dataset)),
        ("cost", f"{duration(evaluation.cost)} (charged to no budget)"),
        ("created", moment(evaluation.create_time)),
        *(
            ("warning", f"[yellow]{escape(warning.text)} {escape(warning.remedy)}[/]")
            for warning in evaluation.warnings
        ),
    ]
    output().print(facts(rows))
    if evaluation.error:
        output().print(f"[red]{escape(evaluation.error.message)}[/]")
    if evaluation.message.HasField("performance"):
        print_performance(evaluation.performance)
        print_calibration(evaluation.performance)
