"""`sightline models load`, `unload` and `loaded`: which models the predictor keeps in memory."""

from typing import Annotated

import typer
from google.protobuf.empty_pb2 import Empty
from rich.markup import escape

from sightline.cli.console import Json, output, print_json, table
from sightline.cli.formats import moment
from sightline.cli.session import session
from sightline.client.names import bare_name, full_name
from sightline.client.quantities import size
from sightline.v1 import prediction_service_pb2 as service

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


def load(name: Name, json: Json = False) -> None:
    """Load a model into the predictor's memory, where it stays until it is unloaded or deleted."""
    with session() as client:
        model = client.models.load(name)
    if json:
        print_json(model.message)
    else:
        output().print(f"{escape(model.name)}, version {escape(model.version)}, is loaded ({size(model.size_bytes)})")


def unload(name: Name, json: Json = False) -> None:
    """Remove a model from the predictor's memory. The next prediction loads it again."""
    with session() as client:
        client.models.unload(name)
    if json:
        print_json(Empty())
    else:
        output().print(f"unloaded {escape(full_name('models', name))}")


def loaded(json: Json = False) -> None:
    """List the models in the predictor's memory; of several replicas, in that of one."""
    with session() as client:
        models = client.models.loaded()
    if json:
        print_json(service.ListLoadedModelsResponse(loaded_models=[model.message for model in models]))
        return
    rows = table("NAME", "VERSION", "MEMORY", "STAYS", "IMAGES", "LOADED", "LAST USED")
    for model in models:
        stays = "yes" if model.pinned else ""
        used = moment(model.last_used_time)
        cells = escape(bare_name(model.name)), escape(model.version), size(model.size_bytes), stays
        rows.add_row(*cells, str(model.use_count), moment(model.load_time), used)
    output().print(rows)
