"""`sightline models trials`: what a training has tried."""

from typing import Annotated

import typer
from rich.markup import escape

from sightline.cli.console import Json, output, print_json, state, table
from sightline.cli.formats import percent
from sightline.cli.session import session
from sightline.client.names import bare_name
from sightline.client.progress import metric_name
from sightline.client.quantities import duration, milliseconds
from sightline.client.results.trial import Trial
from sightline.v1 import model_service_pb2 as service

NAME_EFFECTS = {"CENTRE": "from category names", "ALONE": "category names alone"}

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


def trials_(name: Name, json: Json = False) -> None:
    """List the trials of a training. SAVED is the compute for features that an earlier trial had paid for."""
    with session() as client:
        trials = client.models.trials(name)
    if json:
        print_json(service.ListTrialsResponse(trials=[trial.message for trial in trials]))
        return
    metric = next((metric_name(trial.score_metric) for trial in trials if trial.score_metric), "")
    score = f"SCORE: {metric}" if metric else "SCORE"
    saved = any(trial.features and trial.features.reused for trial in trials)
    right = (score, "COST", *(["SAVED"] if saved else []), "PREDICTION", "ATTEMPTS")
    rows = table("TRIAL", "STATE", "RUNG", "RECIPE", *right, right=right)
    for trial in trials:
        rows.add_row(
            bare_name(trial.name),
            state(trial.state),
            str(trial.rung),
            escape(_recipe(trial)),
            f"{percent(trial.score)} ± {percent(trial.standard_error or 0)}" if trial.score is not None else "",
            duration(trial.cost),
            *([duration(trial.features.saved) if trial.features else ""] if saved else []),
            milliseconds(trial.prediction_cost),
            str(trial.attempts),
        )
    output().print(rows)


def _recipe(trial: Trial) -> str:
    recipe = trial.recipe
    parts = [*recipe.backbones, recipe.head]
    if trial.category_names and (effect := NAME_EFFECTS.get(trial.category_names.effect)):
        parts.append(effect)
    if recipe.depth:
        parts.append(recipe.depth.lower().replace("_", " "))
    if recipe.resolution:
        parts.append(f"{recipe.resolution} px")
    if recipe.refit:
        parts.append("on all images")
    return ", ".join(part for part in parts if part)
