"""The commands of `sightline` and their help. `sightline.cli.reporting` lists the exit codes."""

import os
from importlib import metadata
from typing import Annotated

import typer

from sightline.cli import (
    aliases,
    audit,
    backup,
    batch,
    calibrate,
    datasets,
    doctor,
    evaluations,
    keys,
    models,
    predict,
    projects,
    train,
    up,
    uploads,
    weights,
)
from sightline.client.transport.credentials import VARIABLES

app = typer.Typer(
    help="Train image classifiers and object detectors within a budget, and predict with them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog="Exit codes: 0 success, 1 a problem on this machine, 2 wrong usage, 3 to 16 the gRPC status code (3 also "
    "for files that cannot be used), 130 Ctrl-C.",
)
app.command("up")(up.up)
app.command("doctor")(doctor.doctor)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("calibrate")(calibrate.calibrate)
app.command("train")(train.train_photos)
app.add_typer(datasets.app, name="datasets")
app.add_typer(uploads.app, name="uploads")
app.add_typer(models.app, name="models")
app.add_typer(aliases.app, name="aliases")
app.add_typer(evaluations.app, name="evaluations")
app.add_typer(audit.app, name="audit")
app.add_typer(projects.app, name="projects")
app.add_typer(keys.app, name="keys")
app.add_typer(weights.app, name="weights")
app.command("predict")(predict.predict)
app.add_typer(batch.app, name="batch")


def _version(requested: bool) -> None:
    if requested:
        print(metadata.version("sightline"))
        raise typer.Exit


def _act_in(project: str) -> str:
    if project:
        os.environ[VARIABLES["project"]] = project  # where `Client` reads it
    return project


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    project: Annotated[
        str,
        typer.Option(
            metavar="PROJECT",
            envvar=VARIABLES["project"],
            callback=_act_in,
            help="The project to act in. By default the token's only project, or `default`.",
        ),
    ] = "",
) -> None: ...
