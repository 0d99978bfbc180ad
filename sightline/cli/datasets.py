"""`sightline datasets`: register labelled images, and show the findings."""

from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.empty_pb2 import Empty
from rich.console import Console
from rich.markup import escape

from sightline.cli.comparison import print_comparison, print_findings
from sightline.cli.console import Json, facts, notes, output, print_document, print_json, state, table, warn
from sightline.cli.diffs import print_diff
from sightline.cli.formats import moment, visible
from sightline.cli.report.dataset import page_of, pair_ids
from sightline.cli.reporting import UsageError
from sightline.cli.session import session
from sightline.client.names import bare_name, full_name
from sightline.client.quantities import size
from sightline.client.results.dataset import DatasetData
from sightline.client.results.kinds import DatasetKind, DatasetState
from sightline.client.uploads import Reading, read_export
from sightline.exporters.model import ExportFormat
from sightline.importers.model import BoxForm, Format
from sightline.importers.package import Package
from sightline.importers.summary import summary
from sightline.plurals import counted, listed
from sightline.v1 import dataset_service_pb2 as service

COLLECTION = "datasets"
LISTED = 5  # images that are left out

app = typer.Typer(help="Register labelled images as datasets, and list, show and delete them.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name.")]


class Kind(StrEnum):
    """The kind of a dataset's annotations."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"


@app.command("create")
def create(
    name: Name,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="A folder per class, or a file or folder in one of the forms of --format."),
    ] = None,
    coco: Annotated[
        Path | None, typer.Option(help="A COCO file; the same as PATH --format coco.", exists=True, dir_okay=False)
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option(help="A category for each image, or boxes around objects; by default what PATH has.")
    ] = None,
    form: Annotated[Format | None, typer.Option("--format", help="The form of PATH; by default recognised.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="The folder that image names are relative to; by default that of PATH.", file_okay=False),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split: train, val or test. Can be repeated.")
    ] = None,
    boxes: Annotated[BoxForm | None, typer.Option(help="What the four numbers of a box in COCO or CSV are.")] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX=DIR", help="The folder DIR has the images whose URLs begin with PREFIX. Can be repeated."
        ),
    ] = None,
    new_version: Annotated[
        bool, typer.Option("--new-version", help="If there is a dataset of this name, make this its next version.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what PATH contains, and upload nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the dataset has been checked.")] = False,
    json: Json = False,
) -> None:
    """Upload labelled images, and register them as a dataset."""
    reading = Reading(
        form=Format.COCO if coco else form,
        images=images,
        boxes=boxes,
        splits=split or (),
        url_prefixes=prefixes_of(url or ()),
    )
    with session() as client:
        package = read_export(path_of(source, coco), reading)
        if dry_run or not json:
            say(package, output() if dry_run else notes())
        if dry_run:
            return
        dataset = client.datasets.register(
            name, package, kind=kind.value if kind else None, new_version=new_version, wait=wait, note=warn
        )
    if json:
        print_json(dataset.message)
    else:
        _print_registered(dataset)


def path_of(source: Path | None, coco: Path | None) -> Path:
    """The one of the two that was given; UsageError for both or neither."""
    if source is not None and coco is not None:
        raise UsageError("PATH and --coco both name labelled images", fix="give only one of them")
    if (given := source or coco) is None:
        raise UsageError("no labelled images were given", fix="add PATH, or --coco FILE")
    return given


def prefixes_of(pairs: Iterable[str]) -> dict[str, str | Path]:
    """`PREFIX=DIR` each; the last `=` separates. typer.BadParameter for anything else."""
    found: dict[str, str | Path] = {}
    for pair in pairs:
        prefix, _, folder = pair.rpartition("=")
        if not prefix or not Path(folder).is_dir():
            raise typer.BadParameter(f"--url {pair} is not PREFIX=DIR with a folder that exists")
        found[prefix] = Path(folder)
    return found


def say(package: Package, console: Console) -> None:
    """Prints what was understood of an export."""
    lines = [*summary(package.imported)]
    if unnamed := package.unnamed:
        images = f"{counted(len(unnamed), 'image')} that the annotations do not name"
        lines.append(f"note: left out {images}: {listed(unnamed, LISTED)}")
    for line in (*lines, f"{size(package.size_bytes)} to upload"):
        console.print(escape(line), soft_wrap=True)


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
    print_findings(found, f"sightline datasets findings {bare_name(name)} --json")


@app.command("compare")
def compare(
    training: Annotated[str, typer.Argument(metavar="TRAINING", help="The dataset to train on.")],
    test: Annotated[str, typer.Argument(metavar="TEST", help="The dataset to test on.")],
    json: Json = False,
) -> None:
    """Show what a training and a test dataset share, and how they differ."""
    with session() as client:
        comparison = client.datasets.compare(training, test)
    if json:
        print_json(comparison.message)
    else:
        print_comparison(comparison, f"sightline datasets compare {bare_name(training)} {bare_name(test)} --json")


@app.command("report")
def report(
    name: Name,
    html: Annotated[Path, typer.Option(help="The file to write.", dir_okay=False)],
    samples: Annotated[int, typer.Option(min=0, max=20, help="Images to show of each category.")] = 5,
    json: Json = False,
) -> None:
    """Write a page about a dataset: counts, sizes, samples with their boxes, repeated images, findings."""
    with session() as client:
        dataset, found = client.datasets.get(name), client.datasets.findings(name)
        shown = repeated = None
        if dataset.state == DatasetState.READY:
            shown = client.datasets.samples(name, per_category=samples)
            repeated = client.datasets.samples(name, image_ids=pair_ids(found))
        html.write_text(page_of(dataset, found, shown, repeated), encoding="utf-8")
    if json:
        print_document({"html": str(html)})
    else:
        output().print(f"wrote {escape(str(html))}", soft_wrap=True)


@app.command("export")
def export(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is empty or does not exist yet.")],
    form: Annotated[
        ExportFormat, typer.Option("--format", help="coco, yolo and voc for boxes; coco and folders for categories.")
    ] = ExportFormat.COCO,
    version: Annotated[int, typer.Option(help="A version of the dataset; by default the current one.", min=0)] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder with other files; replaces those of the same names.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a dataset's images and annotations for other tools; repeat it to continue after an interruption."""
    with session() as client:
        exported = client.datasets.export(name, folder, format=form, version=version, force=force)
    for note in exported.notes:
        warn(note)
    if json:
        counts = {"images": exported.image_count, "written": exported.written_count}
        print_document({"folder": str(exported.folder), "format": exported.format, **counts})
        return
    kept = exported.image_count - exported.written_count
    there = f", {kept} of which were there already" if kept else ""
    output().print(escape(f"{exported.folder}: {counted(exported.image_count, 'image')}{there}"), soft_wrap=True)


@app.command("suggest")
def suggest(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is empty or does not exist yet.")],
    model: Annotated[str, typer.Option("--model", help="The model that was unsure.")],
    count: Annotated[int, typer.Option("--count", help="The most images.", min=1, max=1000)] = 100,
    json: Json = False,
) -> None:
    """Draft a dataset of images that a model was unsure of: correct the annotations, then register it."""
    with session() as client:
        draft = client.datasets.suggest(model, folder, count=count)
    if json:
        print_document({"folder": str(draft.folder), "images": draft.image_count, "detection": draft.detection})
    elif not draft.image_count:
        output().print("no image was kept that the model was unsure of")
    else:
        kind = "detection" if draft.detection else "classification"
        found = f"{draft.folder}: {counted(draft.image_count, 'image')}, the most instructive first"
        command = f"sightline datasets create NAME --kind {kind} --coco {draft.annotations}"
        output().print(escape(f"{found}\ncorrect the annotations, then: {command}"), soft_wrap=True)


@app.command("diff")
def diff(
    name: Name,
    old: Annotated[int, typer.Argument(metavar="V1", help="A version; by default the one before V2.", min=0)] = 0,
    new: Annotated[int, typer.Argument(metavar="V2", help="A version; by default the current one.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Show what differs between two versions of a dataset."""
    with session() as client:
        found = client.datasets.diff(name, old, new)
    if json:
        print_document(asdict(found))
    else:
        print_diff(found)


@app.command("delete")
def delete(
    name: Name,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Delete it although trainings, evaluations or batch predictions need it; they fail then."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Delete a dataset that no training, evaluation or batch prediction needs any more; trained models are kept."""
    with session() as client:
        client.datasets.delete(name, force=force)
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
        ("version", str(dataset.version) if dataset.version > 1 else ""),
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
