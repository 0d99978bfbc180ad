"""`sightline datasets`: register labelled images, and show the findings."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.empty_pb2 import Empty
from rich.markup import escape

from sightline.cli.console import Json, facts, notes, output, print_json, state, table
from sightline.cli.formats import moment, visible
from sightline.cli.session import session
from sightline.client.names import bare_name, full_name
from sightline.client.plurals import counted
from sightline.client.quantities import size
from sightline.client.results.dataset import DatasetData, Finding
from sightline.client.results.kinds import DatasetKind, DatasetState, Severity
from sightline.v1 import dataset_service_pb2 as service

COLLECTION = "datasets"
SHOWN_FINDINGS = 200

app = typer.Typer(help="Register labelled images as datasets, and list, show and delete them.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name.")]


class Kind(StrEnum):
    """The kind of a dataset's annotations."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"


SEVERITY_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


@app.command("create")
def create(
    name: Name,
    kind: Annotated[Kind, typer.Option(help="A category for each image, or boxes around objects.")],
    coco: Annotated[Path, typer.Option(help="The COCO file.", exists=True, dir_okay=False)],
    images: Annotated[
        Path | None,
        typer.Option(help="The folder that image names are relative to; by default the COCO file's.", file_okay=False),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the dataset has been checked.")] = False,
    json: Json = False,
) -> None:
    """Upload a COCO file and the images it names, and register them as a dataset."""
    with session() as client:
        dataset = client.datasets.register(name, coco=coco, images=images, kind=kind.value, wait=wait)
    if json:
        print_json(dataset.message)
    else:
        _print_registered(dataset)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the datasets."""
    with session() as client:
        datasets = client.datasets.list()
    if json:
        print_json(service.ListDatasetsResponse(datasets=[dataset.message for dataset in datasets]))
        return
    rows = table("NAME", "STATE", "KIND", "IMAGES", "CATEGORIES", "FINDINGS", "CREATED", right=("IMAGES", "CATEGORIES"))
    for dataset in datasets:
        ready = dataset.image_count is not None
        rows.add_row(
            escape(bare_name(dataset.name)),
            state(dataset.state),
            _kind(dataset),
            str(dataset.image_count) if ready else "",
            str(dataset.category_count) if ready else "",
            _counts(dataset),
            moment(dataset.create_time),
        )
    output().print(rows)


@app.command("show")
def show(name: Name, json: Json = False) -> None:
    """Show one dataset."""
    with session() as client:
        dataset = client.datasets.get(name)
    if json:
        print_json(dataset.message)
    else:
        print_dataset(dataset)


@app.command("findings")
def findings(name: Name, json: Json = False) -> None:
    """Show the findings of registration: what is wrong, where, and what to do."""
    with session() as client:
        found = client.datasets.findings(name)
    if json:
        print_json(service.ListFindingsResponse(findings=[finding.message for finding in found]))
        return
    if not found:
        output().print(f"[green]no findings[/] in {escape(bare_name(name))}")
        return
    rows = table("SEVERITY", "CODE", "FILE", "IMAGE", "ANNOTATION", "WHAT", "WHAT TO DO", right=("IMAGE", "ANNOTATION"))
    for finding in found[:SHOWN_FINDINGS]:
        rows.add_row(*_cells(finding))
    output().print(rows)
    if (more := len(found) - SHOWN_FINDINGS) > 0:
        notes().print(
            f"and {more} more: `sightline datasets findings {escape(bare_name(name))} --json` prints them all"
        )


@app.command("delete")
def delete(name: Name, json: Json = False) -> None:
    """Delete a dataset, but not the models trained on it."""
    with session() as client:
        client.datasets.delete(name)
    if json:
        print_json(Empty())
    else:
        output().print(f"deleted {escape(full_name(COLLECTION, name))}")


def print_dataset(dataset: DatasetData) -> None:
    """Prints a dataset for people."""
    console = output()
    rows = [
        ("name", escape(dataset.name)),
        ("state", state(dataset.state)),
        ("kind", _kind(dataset)),
        ("images", f"{dataset.image_count} ({size(dataset.size_bytes)})" if dataset.size_bytes is not None else ""),
        ("annotations", str(dataset.annotation_count or "")),
        ("findings", _counts(dataset)),
        ("digest", dataset.snapshot_digest),
        ("created", moment(dataset.create_time)),
        ("error", f"[red]{escape(dataset.error.message)}[/]" if dataset.error else ""),
    ]
    console.print(facts(rows))
    if dataset.categories:
        categories = table("CATEGORY", "IMAGES", "ANNOTATIONS", right=("IMAGES", "ANNOTATIONS"))
        for category in dataset.categories:
            categories.add_row(
                escape(visible(category.name)), str(category.image_count), str(category.annotation_count)
            )
        console.print(categories)


def _print_registered(dataset: DatasetData) -> None:
    if dataset.state != DatasetState.READY:
        name = escape(bare_name(dataset.name))
        output().print(f"registered {escape(dataset.name)}; it is being checked: `sightline datasets show {name}`")
        return
    print_dataset(dataset)
    if dataset.error_count or dataset.warning_count:
        notes().print(f"see the findings: `sightline datasets findings {escape(bare_name(dataset.name))}`")


def _kind(dataset: DatasetData) -> str:
    return dataset.kind if dataset.kind != DatasetKind.UNKNOWN else ""


def _counts(dataset: DatasetData) -> str:
    counts = (dataset.error_count, dataset.warning_count, dataset.info_count)
    words = (("error", "red"), ("warning", "yellow"), ("note", "cyan"))
    parts = zip(counts, words, strict=True)
    return ", ".join(f"[{style}]{counted(count, word)}[/]" for count, (word, style) in parts if count)


def _cells(finding: Finding) -> list[str]:
    style = SEVERITY_STYLES.get(finding.severity, "")
    return [
        f"[{style}]{finding.severity}[/]" if style else finding.severity,
        finding.code,
        escape(finding.file),
        str(finding.image_id) if finding.image_id is not None else "",
        str(finding.annotation_id) if finding.annotation_id is not None else "",
        escape(finding.text),
        escape(finding.remedy),
    ]
