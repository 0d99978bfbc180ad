"""`sightline models`: train within a budget, follow it, and see what came out."""

import secrets
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.empty_pb2 import Empty
from rich.markup import escape

from sightline.cli.console import Json, facts, output, print_json, progress_bar, state, table
from sightline.cli.failures import ResourceFailed
from sightline.cli.formats import (
    bare_name,
    duration,
    full_name,
    moment,
    own_id,
    parse_duration,
    percent,
)
from sightline.cli.quality import main_metric, metric_name, print_performance
from sightline.cli.session import session
from sightline.client.plurals import counted
from sightline.client.stubs import Stubs, every_page
from sightline.v1 import dataset_service_pb2 as dataset_service
from sightline.v1 import model_service_pb2 as service
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.model_pb2 import Model, TrainingParameters, TrainingProgress
from sightline.v1.trial_pb2 import Recipe, Trial

COLLECTION = "models"

app = typer.Typer(help="Models: train, follow, list, cancel, delete.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


class Kind(StrEnum):
    """What a model does."""

    CLASSIFIER = "classifier"
    DETECTOR = "detector"


KINDS = {Kind.CLASSIFIER: TrainingParameters.GENERIC_CLASSIFIER, Kind.DETECTOR: TrainingParameters.GENERIC_DETECTOR}
KIND_FOR = {
    Dataset.IMAGE_CLASSIFICATION: TrainingParameters.GENERIC_CLASSIFIER,
    Dataset.OBJECT_DETECTION: TrainingParameters.GENERIC_DETECTOR,
}
KIND_NAMES = {number: kind.value for kind, number in KINDS.items()}
PHASES = {
    TrainingProgress.PHASE_UNSPECIFIED: "waiting",
    TrainingProgress.WAITING_FOR_DATASET: "waiting for the dataset",
    TrainingProgress.WAITING_FOR_WORKER: "waiting for a worker",
    TrainingProgress.PREPARING: "preparing",
    TrainingProgress.SEARCHING: "searching",
    TrainingProgress.FINAL_FIT: "final fit",
    TrainingProgress.EVALUATING: "evaluating",
    TrainingProgress.FINISHED: "done",
}


@app.command("train")
def train(
    name: Name,
    dataset: Annotated[str, typer.Option(help="The dataset to train on.")],
    budget: Annotated[str, typer.Option(help="Compute at most, such as 90s, 10m or 1h30m. Waiting is free.")],
    test_dataset: Annotated[str, typer.Option(help="The dataset to measure on; part of the first by default.")] = "",
    kind: Annotated[Kind | None, typer.Option(help="What the model does; by default what fits the dataset.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the training until it ends.")] = False,
    json: Json = False,
) -> None:
    """Train a model within a budget of compute that is never exceeded."""
    wanted = TrainingParameters(training_dataset=full_name("datasets", dataset))
    wanted.time_budget.FromTimedelta(parse_duration(budget))
    with session() as client:
        wanted.model_kind = KINDS[kind] if kind else kind_for(client, wanted.training_dataset)
        model = start(client, full_name(COLLECTION, name), wanted, test_dataset)
        if watch:
            model = await_model(client, model.name)
    if json:
        print_json(model)
    elif watch:
        print_model(model)
    else:
        output().print(f"training {escape(model.name)}: `sightline models show {escape(bare_name(model.name))}`")


@app.command("list")
def list_(json: Json = False) -> None:
    """List the models."""
    with session() as client:
        answer = every_page(client.models.ListModels, service.ListModelsRequest())
    if json:
        print_json(answer)
        return
    rows = table("NAME", "STATE", "KIND", "DATASET", "QUALITY", "USED", "BUDGET", "CREATED", right=("USED", "BUDGET"))
    for model in answer.models:
        rows.add_row(
            escape(bare_name(model.name)),
            state(Model.State.Name(model.state)),
            KIND_NAMES.get(model.training_parameters.model_kind, ""),
            escape(bare_name(model.training_parameters.training_dataset)),
            main_metric(model.performance),
            duration(model.training_cost),
            duration(model.training_parameters.time_budget),
            moment(model.create_time),
        )
    output().print(rows)


@app.command("show")
def show(name: Name, json: Json = False) -> None:
    """Show one model: its training, its quality and where the budget went."""
    with session() as client:
        model = get(client, full_name(COLLECTION, name))
    if json:
        print_json(model)
    else:
        print_model(model)


@app.command("trials")
def trials(name: Name, json: Json = False) -> None:
    """List what a training tried."""
    with session() as client:
        request = service.ListTrialsRequest(parent=full_name(COLLECTION, name))
        answer = every_page(client.models.ListTrials, request)
    if json:
        print_json(answer)
        return
    metric = next((metric_name(trial.score_metric) for trial in answer.trials if trial.score_metric), "")
    score = f"SCORE: {metric}" if metric else "SCORE"
    rows = table("TRIAL", "STATE", "RUNG", "RECIPE", score, "COST", "ATTEMPTS", right=(score, "COST", "ATTEMPTS"))
    for trial in answer.trials:
        rows.add_row(
            bare_name(trial.name),
            state(Trial.State.Name(trial.state)),
            str(trial.rung),
            escape(_recipe(trial.recipe)),
            f"{percent(trial.score)} ± {percent(trial.standard_error)}" if trial.HasField("score") else "",
            duration(trial.cost),
            str(trial.attempts),
        )
    output().print(rows)


@app.command("cancel")
def cancel(name: Name, json: Json = False) -> None:
    """End a training; the best model so far is kept."""
    with session() as client:
        model = client.models.CancelModel(service.CancelModelRequest(name=full_name(COLLECTION, name)))
    if json:
        print_json(model)
    else:
        output().print(f"{escape(model.name)} is {state(Model.State.Name(model.state))}")


@app.command("delete")
def delete(name: Name, json: Json = False) -> None:
    """Delete a model with its trials and evaluations."""
    with session() as client:
        client.models.DeleteModel(service.DeleteModelRequest(name=full_name(COLLECTION, name)))
    if json:
        print_json(Empty())
    else:
        output().print(f"deleted {escape(full_name(COLLECTION, name))}")


def kind_for(client: Stubs, dataset: str) -> TrainingParameters.ModelKind.ValueType:
    """The kind of model that fits the annotations of a dataset."""
    annotated = client.datasets.GetDataset(dataset_service.GetDatasetRequest(name=dataset))
    return KIND_FOR.get(annotated.annotation_kind, TrainingParameters.GENERIC_CLASSIFIER)


def start(client: Stubs, name: str, wanted: TrainingParameters, test_dataset: str = "") -> Model:
    """Starts a training; returns the model as it was created."""
    request = service.CreateModelRequest(model_id=own_id(COLLECTION, name), request_id=secrets.token_hex(16))
    request.model.training_parameters.CopyFrom(wanted)
    if test_dataset:
        request.model.evaluation_parameters.test_dataset = full_name("datasets", test_dataset)
    return client.models.CreateModel(request)


def get(client: Stubs, name: str) -> Model:
    """A model with its ledger and its confusion matrix."""
    return client.models.GetModel(service.GetModelRequest(name=name, view=Model.FULL))


def await_model(client: Stubs, name: str) -> Model:
    """Follows a training with a progress bar and returns the whole model; ResourceFailed if it ends as FAILED."""
    model = Model()
    with progress_bar(f"train {bare_name(name)}") as bar:
        for model in client.watch_model(name):
            bar.update(model.progress.fraction, _doing(model.progress), _detail(model))
    if model.state == Model.FAILED:
        raise ResourceFailed(model.name, model.error)
    return get(client, name)


def print_model(model: Model) -> None:
    """A model for people."""
    console, wanted = output(), model.training_parameters
    rows = [
        ("name", escape(model.name)),
        ("state", state(Model.State.Name(model.state))),
        ("kind", KIND_NAMES.get(wanted.model_kind, "")),
        ("trained on", escape(wanted.training_dataset)),
        ("doing", escape(f"{_doing(model.progress)} {_detail(model)}") if not model.HasField("end_time") else ""),
        ("budget", f"{duration(model.training_cost)} used of {duration(wanted.time_budget)}{_stopped(model)}"),
        ("best trial", escape(bare_name(model.best_trial))),
        ("created", moment(model.create_time)),
        *(("warning", f"[yellow]{escape(warning)}[/]") for warning in model.warnings),
    ]
    console.print(facts(rows))
    if model.HasField("error"):
        console.print(f"[red]{escape(model.error.message)}[/]")
    if model.HasField("performance"):
        print_performance(model.performance)


def _doing(progress: TrainingProgress) -> str:
    doing = PHASES.get(progress.phase, "")
    if progress.phase == TrainingProgress.WAITING_FOR_WORKER and progress.queue_position:
        doing += f" ({counted(progress.queue_position, 'job')} before)"
    return doing


def _detail(model: Model) -> str:
    """Trial, best metric and budget, as far as they are known."""
    progress, budget = model.progress, model.training_parameters.time_budget
    parts = [f"trial {bare_name(progress.trial)}"] if progress.trial else []
    if progress.HasField("metric_value"):
        parts.append(f"{metric_name(progress.metric_name)} {percent(progress.metric_value)}")
    parts.append(f"{duration(progress.budget_used)} of {duration(budget)}")
    return " · ".join(parts)


def _stopped(model: Model) -> str:
    if not model.stop_reason:
        return ""
    return f" ({Model.StopReason.Name(model.stop_reason).lower().replace('_', ' ')})"


def _recipe(recipe: Recipe) -> str:
    parts = [*recipe.backbones, recipe.head]
    if recipe.depth:
        parts.append(Recipe.Depth.Name(recipe.depth).lower().replace("_", " "))
    if recipe.resolution:
        parts.append(f"{recipe.resolution} px")
    if recipe.refit:
        parts.append("on all images")
    return ", ".join(part for part in parts if part)
