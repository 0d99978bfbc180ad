"""`sightline weights`: packs of pretrained weights, in the store or in a folder."""

import json as jsonlib
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from sightline.cli.console import notes, output, print_document, table
from sightline.cli.installed import environment, require
from sightline.cli.reporting import CommandError, report

app = typer.Typer(help="List, fetch, add and verify pretrained weights.", no_args_is_help=True)

Folder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A folder of packs, as SIGHTLINE_WEIGHTS_DIR names it; by default the store."),
]
Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The folder of a suite started by `sightline up`; .sightline if it exists."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.command("list")
def list_(folder: Folder = None, data: Data = None, json: Json = False) -> None:
    """Show every network: what it is, what it suits, and where its weights are."""
    document = _run(["list"], folder, data, json=json)
    rows = table(
        "NETWORK", "FAMILY", "SUITS", "LICENCE", "PARAMETERS", "GMACS", "SIZE", "PRESENT IN", "PUBLISHED BY",
        right=("PARAMETERS", "GMACS", "SIZE"),
    )  # fmt: skip
    for network in document["networks"]:
        rows.add_row(
            f"[bold]{escape(network['network'])}[/]",
            network["family"],
            network["device"],
            network["licence"],
            f"{network['parameters']:.1f} M" if network["parameters"] else "",
            f"{network['gmacs']:g}",
            str(network["size"]),
            escape(", ".join(network["present"])),
            network["published"],
        )
    output().print(rows)


@app.command("pull")
def pull(
    networks: Annotated[list[str], typer.Argument(metavar="NETWORK", help="As `sightline weights list` shows them.")],
    folder: Folder = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Fetch published weights once, into the store or a folder, so that workers need no internet access."""
    _print_added(_run(["pull", *networks], folder, data, json=json))


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors, .pth or .pt file.", exists=True)],
    network: Annotated[str, typer.Option(metavar="ID", help="The network that the weights are of.")],
    licence: Annotated[
        str | None, typer.Option(metavar="SPDX", help="The licence of these weights, if it is not the catalogue's.")
    ] = None,
    source: Annotated[str, typer.Option(metavar="TEXT", help="Where they come from; by default the file's name.")] = "",
    folder: Folder = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Check that a file has exactly the network's tensors, and add it as a pack."""
    words = ["add", str(file), "--network", network, "--source", source]
    _print_added(_run([*words, *(["--licence", licence] if licence is not None else [])], folder, data, json=json))


@app.command("verify")
def verify(folder: Folder = None, data: Data = None, json: Json = False) -> None:
    """Read every pack again: its digest, its licence, and whether it fits its network. Exits with 1 if one is wrong."""
    found = _run(["verify"], folder, data, json=json)["verified"]
    rows = table("NETWORK", "IN", "SHA-256", "RESULT")
    for row in found:
        fine = "[green]sound[/]" if row["described"] else "[green]sound[/], no digest to compare with"
        result = f"[bold red]{escape(row['problem'])}[/]" if row["problem"] else fine
        rows.add_row(f"[bold]{escape(row['network'])}[/]", escape(row["place"]), row["sha256"][:16], result)
    output().print(rows)
    if any(row["problem"] for row in found):
        raise typer.Exit(1)


def _print_added(document: dict[str, Any]) -> None:
    for row in document["added"]:
        output().print(
            f"[bold]{escape(row['network'])}[/] is in {escape(row['place'])}: sha256 {row['sha256']}", soft_wrap=True
        )


def _run(words: list[str], folder: Path | None, data: Path | None, *, json: bool) -> dict[str, Any]:
    """The document that the services' program prints; ends the command if it failed, or if only JSON is wanted."""
    try:
        require("services", "minio", "pydantic_settings", *(() if words[0] == "list" else ("torch", "timm")))
        options = ["--folder", str(folder)] if folder else []
        command = [sys.executable, "-m", "services.weights", *options, *words]
        variables = environment(data) if folder is None else None
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=False)
        document: dict[str, Any] = jsonlib.loads(done.stdout or "{}")
        if json and document:
            print_document(document)
            raise typer.Exit(done.returncode)
        _print_added({"added": document.get("added", []) if "error" in document else []})
        if "error" in document:
            raise CommandError(document["error"])
        if not document:
            raise CommandError("the program that handles weights died; what it printed is above")
    except CommandError as error:
        raise typer.Exit(report(error, notes())) from None
    return document
