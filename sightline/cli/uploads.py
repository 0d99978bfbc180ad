"""`sightline uploads`: what has been uploaded, and its removal."""

from typing import Annotated

import typer
from google.protobuf.empty_pb2 import Empty
from rich.markup import escape

from sightline.cli.console import Json, output, print_json, table
from sightline.cli.formats import moment
from sightline.cli.session import session
from sightline.client.names import bare_name, full_name
from sightline.client.quantities import size
from sightline.client.upload_lists import COLLECTION
from sightline.v1 import dataset_service_pb2 as service

app = typer.Typer(
    help="List and delete uploads. `datasets create` makes them; those that no dataset names expire.",
    no_args_is_help=True,
)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the uploads."""
    with session() as client:
        uploads = client.uploads.list()
    if json:
        print_json(service.ListUploadsResponse(uploads=[upload.message for upload in uploads]))
        return
    rows = table("NAME", "OWNER", "FILES", "SIZE", "LAST USED", right=("FILES", "SIZE"))
    for upload in uploads:
        rows.add_row(
            escape(bare_name(upload.name)),
            escape(upload.owner),
            str(upload.file_count),
            size(upload.size_bytes),
            "is being deleted" if upload.is_deleting else moment(upload.update_time),
        )
    output().print(rows)


@app.command("delete")
def delete(name: Annotated[str, typer.Argument(metavar="NAME", help="The upload's name.")], json: Json = False) -> None:
    """Delete an upload and its files, but no dataset."""
    with session() as client:
        client.uploads.delete(name)
    if json:
        print_json(Empty())
    else:
        output().print(f"deleted {escape(full_name(COLLECTION, name))}")
