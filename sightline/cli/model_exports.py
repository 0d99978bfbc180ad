"""`sightline models export`: a model as an archive that runs without the suite."""

from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.markup import escape

from sightline.cli.console import Json, output, print_document
from sightline.cli.session import session
from sightline.client.quantities import size
from sightline.client.results.model_export import ModelFormat


def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    form: Annotated[
        ModelFormat, typer.Option("--format", help="What runs it: onnxruntime and others, torch, or openvino.")
    ] = ModelFormat.ONNX,
    path: Annotated[
        Path, typer.Option("--output", metavar="FILE.zip", help="The file, or a folder for the service's file name.")
    ] = Path(),
    json: Json = False,
) -> None:
    """Write a model as an archive that runs without the suite: the model, its labels, and a script that predicts.

    A worker makes it, once for a version of the model; the next export of it is the same file at once.
    """
    with session() as client:
        exported = client.models.export(name, path, format=form)
    if json:
        print_document(asdict(exported) | {"path": str(exported.path)})
        return
    console, folder = output(), exported.path.with_suffix("")
    about = f"{size(exported.size_bytes)}, version {exported.version}, sha256 {exported.sha256}"
    console.print(escape(f"{exported.path}: {about}"), soft_wrap=True)
    console.print(f"scores differ from the predictor's by {exported.max_difference:.1e} at most", soft_wrap=True)
    unpack = f"unzip -q {quote(str(exported.path))} -d {quote(str(folder))} && cd {quote(str(folder))}"
    run = f"{unpack} && pip install -r requirements.txt && python predict.py --check IMAGE"
    console.print(escape(f"run it: {run}"), soft_wrap=True)
