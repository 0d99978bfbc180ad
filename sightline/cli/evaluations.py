"""`sightline evaluations`: measure a model on a dataset of one's choice."""

import secrets
from typing import Annotated

import typer
from rich.markup import escape

from sightline.cli.console import Json, facts, output, print_json, progress_bar, state
from sightline.cli.failures import ResourceFailed
from sightline.cli.formats import bare_name, duration, full_name, moment
from sightline.cli.quality import print_performance
from sightline.cli.session import session
from sightline.client.stubs import Stubs
from sightline.v1 import evaluation_service_pb2 as service
from sightline.v1.evaluation_pb2 import Evaluation

app = typer.Typer(help="Evaluations: measure a model on a dataset.", no_args_is_help=True)
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The evaluation's name.")]


@app.command("create")
def create(
    model: ModelName,
    name: Name,
    dataset: Annotated[str, typer.Option(help="The dataset to measure on.")],
    wait: Annotated[bool, typer.Option("--wait", help="Return only when it is measured.")] = False,
    json: Json = False,
) -> None:
    """Measure the model that is served now on a dataset."""
    with session() as client:
        evaluation = start(client, full_name("models", model), name, full_name("datasets", dataset))
        if wait:
            evaluation = await_evaluation(client, evaluation.name)
    if json:
        print_json(evaluation)
    elif wait:
        print_evaluation(evaluation)
    else:
        words = f"{escape(bare_name(model))} {escape(bare_name(name))}"
        output().print(f"measuring {escape(evaluation.name)}: `sightline evaluations show {words}`")


@app.command("show")
def show(model: ModelName, name: Name, json: Json = False) -> None:
    """Show one evaluation."""
    with session() as client:
        evaluation = get(client, full_name(f"{full_name('models', model)}/evaluations", name))
    if json:
        print_json(evaluation)
    else:
        print_evaluation(evaluation)


def start(client: Stubs, model: str, evaluation_id: str, dataset: str) -> Evaluation:
    """Starts an evaluation; returns it as it was created."""
    request = service.CreateEvaluationRequest(
        parent=model, evaluation_id=evaluation_id, request_id=secrets.token_hex(16)
    )
    request.evaluation.test_dataset = dataset
    return client.evaluations.CreateEvaluation(request)


def get(client: Stubs, name: str) -> Evaluation:
    """An evaluation with its confusion matrix."""
    return client.evaluations.GetEvaluation(service.GetEvaluationRequest(name=name, view=Evaluation.FULL))


def await_evaluation(client: Stubs, name: str) -> Evaluation:
    """Follows an evaluation with a progress bar and returns the whole of it; ResourceFailed if it ends as FAILED."""
    evaluation = Evaluation()
    with progress_bar(f"evaluate {bare_name(name)}") as bar:
        for evaluation in client.watch_evaluation(name):
            waiting = evaluation.state == Evaluation.NOT_STARTED
            bar.update(evaluation.progress, "waiting for a worker" if waiting else "measuring")
    if evaluation.state == Evaluation.FAILED:
        raise ResourceFailed(evaluation.name, evaluation.error)
    return get(client, name)


def print_evaluation(evaluation: Evaluation) -> None:
    """An evaluation for people."""
    rows = [
        ("name", escape(evaluation.name)),
        ("state", state(Evaluation.State.Name(evaluation.state))),
        ("measured on", escape(evaluation.test_dataset)),
        ("cost", f"{duration(evaluation.cost)} (charged to no budget)"),
        ("created", moment(evaluation.create_time)),
        *(
            ("warning", f"[yellow]{escape(warning.message)} {escape(warning.remedy)}[/]")
            for warning in evaluation.warnings
        ),
    ]
    output().print(facts(rows))
    if evaluation.HasField("error"):
        output().print(f"[red]{escape(evaluation.error.message)}[/]")
    if evaluation.HasField("performance"):
        print_performance(evaluation.performance)
