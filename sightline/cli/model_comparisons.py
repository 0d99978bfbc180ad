"""`sightline models compare`: which of two models is better, on the same images."""

from typing import Annotated

import typer
from rich.markup import escape

from sightline.cli.console import Json, facts, output, print_json
from sightline.cli.formats import percent, visible
from sightline.cli.session import session
from sightline.client.names import bare_name
from sightline.client.progress import metric_name
from sightline.client.results.model_comparison import ModelComparison
from sightline.plurals import counted


def compare(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="A model.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="Another model.")],
    dataset: Annotated[
        str, typer.Option(help="The dataset on which both were measured; by default, the one measured latest.")
    ] = "",
    json: Json = False,
) -> None:
    """Say which of two models is better, by a paired test on the images on which both were measured."""
    with session() as client:
        found = client.models.compare(first, second, dataset=dataset or None)
    if json:
        print_json(found.message)
        return
    title = metric_name(found.metric)
    rows = [
        (escape(bare_name(first)), f"{percent(found.first_value)} {title}"),
        (escape(bare_name(second)), f"{percent(found.second_value)} {title}"),
        ("measured", f"{counted(found.image_count, 'image')}, {escape(found.first)} and {escape(found.second)}"),
        *_details(found),
    ]
    output().print(facts(rows))
    output().print(f"[bold]{escape(found.verdict)}[/]", soft_wrap=True)


def _details(found: ModelComparison) -> list[tuple[str, str]]:
    """What the numbers leave open."""
    rows: list[tuple[str, str]] = []
    if found.both_right_count is not None:
        first, second = found.first_only_right_count or 0, found.second_only_right_count or 0
        neither = found.image_count - found.both_right_count - first - second
        rows.append(
            (
                "right",
                f"both {found.both_right_count}, only the first {first}, only the second {second}, none {neither}",
            )
        )
    if found.left_out_image_count:
        images = counted(found.left_out_image_count, "image")
        rows.append(("left out", f"{images} whose category only one of them knows, or that could not be read"))
    if found.left_out_categories:
        names = ", ".join(escape(visible(name)) for name in found.left_out_categories)
        rows.append(("left out", f"categories that only one of them knows: {names}"))
    return rows
