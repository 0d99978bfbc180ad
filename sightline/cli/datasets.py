"""`sightline datasets`: register labelled images, and see what registration found."""

import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.empty_pb2 import Empty
from rich.markup import escape

from sightline.cli.console import Bar, Json, facts, notes, output, print_json, progress_bar, state, table
from sightline.cli.failures import CommandError, ResourceFailed
from sightline.cli.formats import bare_name, full_name, moment, own_id, size, visible
from sightline.cli.session import session
from sightline.client.plurals import counted
from sightline.client.stubs import Stubs, every_page
from sightline.client.uploads import FilesMissing, LocalFile, UnreadableAnnotations, files_of
from sightline.v1 import dataset_service_pb2 as service
from sightline.v1.dataset_pb2 import Dataset, DatasetProgress
from sightline.v1.finding_pb2 import Finding

COLLECTION = "datasets"
SHOWN_MISSING = 50
SHOWN_FINDINGS = 200
INVALID_ARGUMENT = 3

app = typer.Typer(help="Labelled images: register, check, list, delete.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name.")]


class Kind(StrEnum):
    """What the annotations say about an image."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"


KINDS = {Kind.CLASSIFICATION: Dataset.IMAGE_CLASSIFICATION, Kind.DETECTION: Dataset.OBJECT_DETECTION}
PHASES = {
    DatasetProgress.PHASE_UNSPECIFIED: "waiting for a worker",
    DatasetProgress.READING_ANNOTATIONS: "reading annotations",
    DatasetProgress.CHECKING_IMAGES: "checking images",
    DatasetProgress.WRITING_SNAPSHOT: "writing the snapshot",
    DatasetProgress.FINISHED: "done",
}
SEVERITY_STYLES = {Finding.ERROR: "bold red", Finding.WARNING: "yellow", Finding.INFO: "cyan"}


@app.command("create")
def create(
    name: Name,
    kind: Annotated[Kind, typer.Option(help="What the annotations say about an image.")],
    coco: Annotated[Path, typer.Option(help="The COCO file.", exists=True, dir_okay=False)],
    images: Annotated[
        Path | None,
        typer.Option(help="The folder that the COCO file's names start from; its own by default.", file_okay=False),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return only when the dataset is checked.")] = False,
    json: Json = False,
) -> None:
    """Upload a COCO file with the images that it names, and register them as a dataset."""
    with session() as client:
        dataset = register(client, full_name(COLLECTION, name), KINDS[kind], coco, images)
        if wait:
            dataset = await_dataset(client, dataset.name)
        if json:
            print_json(dataset)
        else:
            _print_registered(dataset)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the datasets."""
    with session() as client:
        answer = every_page(client.datasets.ListDatasets, service.ListDatasetsRequest())
    if json:
        print_json(answer)
        return
    rows = table("NAME", "STATE", "KIND", "IMAGES", "CATEGORIES", "FINDINGS", "CREATED", right=("IMAGES", "CATEGORIES"))
    for dataset in answer.datasets:
        stats, ready = dataset.stats, dataset.HasField("stats")
        rows.add_row(
            escape(bare_name(dataset.name)),
            state(Dataset.State.Name(dataset.state)),
            _kind(dataset),
            str(stats.image_count) if ready else "",
            str(stats.category_count) if ready else "",
            _counts(dataset),
            moment(dataset.create_time),
        )
    output().print(rows)


@app.command("show")
def show(name: Name, json: Json = False) -> None:
    """Show one dataset."""
    with session() as client:
        request = service.GetDatasetRequest(name=full_name(COLLECTION, name), view=Dataset.FULL)
        dataset = client.datasets.GetDataset(request)
    if json:
        print_json(dataset)
    else:
        print_dataset(dataset)


@app.command("findings")
def findings(name: Name, json: Json = False) -> None:
    """Show what registration found: what is wrong, where, and what to do."""
    with session() as client:
        request = service.ListFindingsRequest(parent=full_name(COLLECTION, name))
        answer = every_page(client.datasets.ListFindings, request)
    if json:
        print_json(answer)
        return
    if not answer.findings:
        output().print(f"[green]nothing to find fault with[/] in {escape(bare_name(name))}")
        return
    rows = table("SEVERITY", "CODE", "FILE", "IMAGE", "ANNOTATION", "WHAT", "WHAT TO DO", right=("IMAGE", "ANNOTATION"))
    for finding in answer.findings[:SHOWN_FINDINGS]:
        rows.add_row(*_cells(finding))
    output().print(rows)
    if (more := len(answer.findings) - SHOWN_FINDINGS) > 0:
        notes().print(f"and {more} more: `sightline datasets findings {escape(bare_name(name))} --json` has them all")


@app.command("delete")
def delete(name: Name, json: Json = False) -> None:
    """Delete a dataset; models that were trained on it stay."""
    with session() as client:
        client.datasets.DeleteDataset(service.DeleteDatasetRequest(name=full_name(COLLECTION, name)))
    if json:
        print_json(Empty())
    else:
        output().print(f"deleted {escape(full_name(COLLECTION, name))}")


def register(
    client: Stubs, name: str, kind: Dataset.AnnotationKind.ValueType, coco: Path, images: Path | None = None
) -> Dataset:
    """Uploads the COCO file and its images, with a progress bar, and registers the dataset.

    Raises CommandError before anything is uploaded if the COCO file or one of its images cannot be read.
    """
    try:
        files = files_of(coco, images)
    except UnreadableAnnotations as error:
        raise CommandError(str(error), fix="export the annotations as COCO JSON", code=INVALID_ARGUMENT) from error
    except FilesMissing as error:
        raise _missing(error) from error
    request = service.CreateDatasetRequest(dataset_id=own_id(COLLECTION, name), request_id=secrets.token_hex(16))
    with progress_bar(f"upload {bare_name(name)}") as bar:
        uris = _upload(client, files, bar)
    request.dataset.annotation_kind = kind
    request.dataset.annotation_file_uris.append(uris[files[0].path])
    return client.datasets.CreateDataset(request)


def await_dataset(client: Stubs, name: str) -> Dataset:
    """Follows the check of a dataset with a progress bar; ResourceFailed unless it ends as READY."""
    dataset = Dataset()
    with progress_bar(f"check {bare_name(name)}") as bar:
        for dataset in client.watch_dataset(name):
            progress = dataset.progress
            detail = (
                f"{progress.images_done} of {counted(progress.images_total, 'image')}" if progress.images_total else ""
            )
            bar.update(progress.fraction, PHASES.get(progress.phase, ""), detail)
    if dataset.state != Dataset.READY:
        raise ResourceFailed(dataset.name, dataset.error)
    return dataset


def print_dataset(dataset: Dataset) -> None:
    """A dataset for people."""
    stats, console = dataset.stats, output()
    rows = [
        ("name", escape(dataset.name)),
        ("state", state(Dataset.State.Name(dataset.state))),
        ("kind", _kind(dataset)),
        ("images", f"{stats.image_count} ({size(stats.byte_count)})" if dataset.HasField("stats") else ""),
        ("annotations", str(stats.annotation_count or "")),
        ("findings", _counts(dataset)),
        ("digest", dataset.snapshot_digest),
        ("created", moment(dataset.create_time)),
        ("error", f"[red]{escape(dataset.error.message)}[/]"),
    ]
    console.print(facts(row for row in rows if row[1] != "[red][/]"))
    if stats.categories:
        categories = table("CATEGORY", "IMAGES", "ANNOTATIONS", right=("IMAGES", "ANNOTATIONS"))
        for category in stats.categories:
            categories.add_row(
                escape(visible(category.name)), str(category.image_count), str(category.annotation_count)
            )
        console.print(categories)


def _upload(client: Stubs, files: tuple[LocalFile, ...], bar: Bar) -> dict[str, str]:
    total_bytes = sum(file.file.stat().st_size for file in files)
    done_bytes = 0

    def sent(size_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += size_bytes
        bar.update(
            done_bytes / max(total_bytes, 1), counted(len(files), "file"), f"{size(done_bytes)} of {size(total_bytes)}"
        )

    return client.upload_files(files, sent)


def _missing(error: FilesMissing) -> CommandError:
    """All images that are missing, in one message."""
    lines = [f"  image id {image.image_id}: {image.file_name}: {image.problem}" for image in error.images]
    if len(lines) > SHOWN_MISSING:
        lines[SHOWN_MISSING:] = [f"  and {len(lines) - SHOWN_MISSING} more"]
    return CommandError(
        f"{error}; nothing was uploaded\n" + "\n".join(lines),
        fix="name the folder that the file names start from with --images, or remove these images from the COCO file",
        code=INVALID_ARGUMENT,
    )


def _print_registered(dataset: Dataset) -> None:
    if dataset.state != Dataset.READY:
        name = escape(bare_name(dataset.name))
        output().print(f"registered {escape(dataset.name)}; it is being checked: `sightline datasets show {name}`")
        return
    print_dataset(dataset)
    if dataset.finding_counts.error or dataset.finding_counts.warning:
        notes().print(f"see what was found: `sightline datasets findings {escape(bare_name(dataset.name))}`")


def _kind(dataset: Dataset) -> str:
    names = {Dataset.IMAGE_CLASSIFICATION: "classification", Dataset.OBJECT_DETECTION: "detection"}
    return names.get(dataset.annotation_kind, "")


def _counts(dataset: Dataset) -> str:
    counts = dataset.finding_counts
    parts = [(counts.error, "error", "red"), (counts.warning, "warning", "yellow"), (counts.info, "note", "cyan")]
    return ", ".join(f"[{style}]{counted(count, word)}[/]" for count, word, style in parts if count)


def _cells(finding: Finding) -> list[str]:
    style = SEVERITY_STYLES.get(finding.severity, "")
    severity = Finding.Severity.Name(finding.severity)
    return [
        f"[{style}]{severity}[/]" if style else severity,
        finding.code,
        escape(finding.file),
        str(finding.image_id) if finding.HasField("image_id") else "",
        str(finding.annotation_id) if finding.HasField("annotation_id") else "",
        escape(finding.message),
        escape(finding.remedy),
    ]
