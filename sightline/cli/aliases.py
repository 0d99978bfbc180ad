"""`sightline aliases`: names that stand for models, and can be switched and rolled back."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.empty_pb2 import Empty
from rich.markup import escape

from sightline.cli.console import Json, output, print_json, table
from sightline.cli.session import session
from sightline.client.names import bare_name, full_name
from sightline.client.results.alias import Alias
from sightline.v1 import model_alias_service_pb2 as service

app = typer.Typer(
    help="Name models by what they are for, such as birds@production, and switch such a name to another model.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="MODEL@ALIAS", help="The alias, such as birds@production.")]


@app.command("set")
def set_(
    name: Name,
    model: Annotated[str, typer.Argument(help="The model that it stands for from now on.")],
    json: Json = False,
) -> None:
    """Make an alias stand for a model; predictions by the alias follow within a second."""
    with session() as client:
        _show(client.aliases.set(name, model), json=json)


@app.command("rollback")
def rollback(name: Name, json: Json = False) -> None:
    """Switch an alias back to the model before its last switch."""
    with session() as client:
        _show(client.aliases.roll_back(name), json=json)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the aliases, and the models that they stand for."""
    with session() as client:
        aliases = client.aliases.list()
    if json:
        print_json(service.ListModelAliasesResponse(model_aliases=[alias.message for alias in aliases]))
        return
    rows = table("ALIAS", "MODEL", "SINCE")
    for alias in aliases:
        rows.add_row(escape(bare_name(alias.name)), escape(bare_name(alias.model)), _time(alias.update_time))
    output().print(rows)


@app.command("show")
def show(name: Name, json: Json = False) -> None:
    """Show an alias and its last switches."""
    with session() as client:
        found = client.aliases.get(name)
    if json:
        print_json(found.message)
        return
    rows = table("SINCE", "MODEL", "BY")
    for switch in found.switches:
        rows.add_row(_time(switch.time), escape(bare_name(switch.model)), escape(switch.subject))
    output().print(rows)


@app.command("delete")
def delete(name: Name, json: Json = False) -> None:
    """Delete an alias; the model stays."""
    with session() as client:
        client.aliases.delete(name)
    if json:
        print_json(Empty())
    else:
        output().print(f"deleted {escape(full_name('models', name))}")


def _show(alias: Alias, *, json: bool) -> None:
    if json:
        print_json(alias.message)
    else:
        output().print(f"{escape(bare_name(alias.name))} stands for {escape(bare_name(alias.model))}")


def _time(time: datetime | None) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} (UTC)" if time else ""
