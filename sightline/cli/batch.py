"""`sightline batch`: predict many images with workers, and download the results."""

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.empty_pb2 import Empty
from rich.markup import escape

from sightline.cli.console import Json, facts, notes, output, print_json, state, table, warn
from sightline.cli.formats import moment
from sightline.cli.reporting import UsageError
from sightline.cli.result_options import SuggestedThresholds, Threshold, Top
from sightline.cli.session import session
from sightline.client.client import Client
from sightline.client.names import bare_name, full_name
from sightline.client.quantities import duration, size
from sightline.client.requests import STORE
from sightline.client.results.batch import BatchPredictionData
from sightline.v1 import prediction_service_pb2 as service

app = typer.Typer(
    help="Predict all images of a folder or a dataset with workers, and download the results.", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The batch prediction's name.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write the result files to.")]


@app.command("create")
def create(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    name: Name,
    images: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGES", help="A folder on this machine, which is uploaded first, or s3://BUCKET/FOLDER."
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Predict the images of this dataset instead.")] = None,
    threshold: Threshold = None,
    suggested_thresholds: SuggestedThresholds = False,
    top: Top = None,
    output_uri: Annotated[
        str,
        typer.Option(
            "--output-uri", metavar="URI", help="Write the results below this s3:// uri, which an operator has opened."
        ),
    ] = "",
    download: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Wait, then write the result files to this folder.", file_okay=False),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all images are predicted.")] = False,
    json: Json = False,
) -> None:
    """Predict all images of a folder or of a dataset.

    Workers predict them, and continue after any interruption. The results are results.json (COCO results), images.json,
    failures.json and results.jsonl (a line for each image).
    """
    if (images is None) == (dataset is None):
        problem = "no images were given; add a folder, or --dataset" if dataset is None else "it excludes --dataset"
        raise typer.BadParameter(problem, param_hint="IMAGES")
    if threshold is not None and suggested_thresholds:
        raise typer.BadParameter("it excludes --threshold; use only one of them", param_hint="--suggested-thresholds")
    with session() as client:
        batch = client.batch_predictions.create(
            model,
            name,
            _source(images),
            dataset=dataset,
            threshold=threshold,
            suggested_thresholds=suggested_thresholds,
            top=top,
            output=output_uri,
            wait=wait or download is not None,
            note=warn,
        )
        written = batch.download(download) if download else ()
    if json:
        print_json(batch.message)
    elif wait or download:
        _print(batch)
        _print_files(written)
    else:
        output().print(f"predicting {escape(batch.name)}: `sightline batch watch {escape(bare_name(batch.name))}`")


def _source(images: str | None) -> str | Path | None:
    """A uri, or a folder that exists; UsageError for anything else."""
    if images is None or images.startswith(STORE):
        return images
    if not Path(images).is_dir():
        raise UsageError(f"{images} is not a folder", fix="name a folder that exists, or s3://BUCKET/FOLDER")
    return Path(images)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the batch predictions."""
    with session() as client:
        batches = client.batch_predictions.list()
    if json:
        messages = [batch.message for batch in batches]
        print_json(service.ListBatchPredictionsResponse(batch_predictions=messages))
        return
    rows = table("NAME", "STATE", "MODEL", "IMAGES", "FAILED", "OF", "CREATED", right=("IMAGES", "FAILED", "OF"))
    for batch in batches:
        progress = batch.progress
        rows.add_row(
            escape(bare_name(batch.name)),
            state(batch.state),
            escape(bare_name(batch.model)),
            str(progress.images_done),
            str(progress.images_failed),
            str(progress.images_total),
            moment(batch.create_time),
        )
    output().print(rows)


@app.command("show")
def show(name: Name, json: Json = False) -> None:
    """Show one batch prediction."""
    with session() as client:
        _show(client.batch_predictions.get(name), json=json)


@app.command("watch")
def watch(name: Name, json: Json = False) -> None:
    """Show a batch prediction's progress until it has ended."""
    with session() as client:
        _show(client.batch_predictions.wait(name), json=json)


@app.command("cancel")
def cancel(name: Name, json: Json = False) -> None:
    """End a batch prediction; the results so far are kept."""
    with session() as client:
        _show(client.batch_predictions.cancel(name), json=json)


@app.command("delete")
def delete(
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Delete it although it has not ended; its workers stop.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete a batch prediction that has ended, and its results unless they were written to an --output-uri."""
    with session() as client:
        client.batch_predictions.delete(name, force=force)
    if json:
        print_json(Empty())
    else:
        output().print(f"deleted {escape(full_name('batchPredictions', name))}")


@app.command("download")
def download(name: Name, folder: Folder, json: Json = False) -> None:
    """Write the result files to a folder."""
    with session() as client:
        batch, written = _downloaded(client, name, folder)
    if json:
        print_json(batch.message)
    else:
        _print_files(written)


def _downloaded(client: Client, name: str, folder: Path) -> tuple[BatchPredictionData, tuple[Path, ...]]:
    batch = client.batch_predictions.get(name)
    return batch, batch.download(folder)


def _show(batch: BatchPredictionData, *, json: bool) -> None:
    if json:
        print_json(batch.message)
    else:
        _print(batch)


def _print(batch: BatchPredictionData) -> None:
    progress = batch.progress
    version = f", version {batch.dataset_version}" if batch.dataset else ""
    rows = [
        ("name", escape(batch.name)),
        ("state", state(batch.state)),
        ("model", f"{escape(batch.model)}, version {escape(batch.model_version)}"),
        ("images", escape(batch.input_uri or f"{batch.dataset}{version}")),
        ("predicted", f"{progress.images_done} of {progress.images_total}" if progress.images_total else ""),
        ("failed", f"[yellow]{progress.images_failed}[/], see failures.json" if progress.images_failed else ""),
        ("cost", duration(batch.cost) if batch.cost else ""),
        ("created", moment(batch.create_time)),
        *(("results", f"{escape(file.uri)} ({size(file.size_bytes)})") for file in batch.files),
    ]
    output().print(facts(rows))
    if batch.error:
        notes().print(f"[red]{escape(batch.error.message)}[/]", soft_wrap=True)


def _print_files(written: tuple[Path, ...]) -> None:
    for path in written:
        output().print(f"wrote {escape(str(path))}", soft_wrap=True)
