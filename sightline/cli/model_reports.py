"""`sightline models report`: a page about a model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sightline.cli.console import Json, output, print_document, warn
from sightline.cli.report.mistakes import picture_ids
from sightline.cli.report.model import page_of
from sightline.cli.session import session
from sightline.client.client import Client
from sightline.client.errors import SightlineError
from sightline.client.results.model import ModelData
from sightline.client.results.samples import Sample


def report(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    html: Annotated[Path, typer.Option(help="The file to write.", dir_okay=False)],
    pictures: Annotated[
        int, typer.Option(min=0, max=50, help="Worst mistakes to show, and as many boxes to check.")
    ] = 24,
    json: Json = False,
) -> None:
    """Write a page about a model: quality, categories, confusion, worst mistakes, advice, trials, ledger."""
    with session() as client:
        model, evaluations = client.models.get(name), client.evaluations.list(name)
        images, missing = _images(client, model, picture_ids(model, pictures))
        html.write_text(page_of(model, evaluations, images, pictures, missing), encoding="utf-8")
    if missing:
        warn(missing)
    if json:
        print_document({"html": str(html)})
    else:
        output().print(f"wrote {escape(str(html))}", soft_wrap=True)


def _images(client: Client, model: ModelData, ids: list[int]) -> tuple[dict[int, Sample], str]:
    """The images by id, of the version that the model was trained on; or why they cannot be read."""
    try:
        found = client.datasets.images(model.dataset, ids, version=model.message.training_dataset_version)
    except SightlineError as error:
        return {}, f"The pictures are missing: {error.message}"
    return {sample.image_id: sample for sample in found}, ""
