"""`sightline backup` and `sightline restore`: a suite's records and blobs in a folder, and back."""

import asyncio
import json as jsonlib
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from sightline.cli.console import notes, output, print_document
from sightline.cli.installed import environment, local_folder, require
from sightline.cli.reporting import CommandError
from sightline.cli.session import session
from sightline.local import signing
from sightline.plurals import counted

NEEDED = "services", "nats", "minio", "pydantic_settings"  # packages
SUMMARY = "backup.json"  # written last
Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The folder of a suite started by `sightline up`; .sightline if it exists."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the copy.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Copy all records and blobs into a folder, with a digest of each, while the suite works.

    It uses this machine's network and environment, with NATS's user `admin` and keys that read the whole store.
    """
    with session():
        found, local = _run("save", folder, data), local_folder(data)
        if local is not None:
            signing.copy(local, folder)
    if json:
        return print_document(found)
    output().print(f"{_counted(found)} are in [bold]{escape(str(folder))}[/]", soft_wrap=True)
    if changing := found["unsettled"]:
        records = counted(changing, "record")
        notes().print(f"{records} of running work changed until the end; that work may go on from an older state")
    return None


def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `sightline backup` made.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Write a backup into an empty suite, once every byte of it has been compared with its digest.

    Nats-server and the store have to run, the services must not; of a local suite, nothing may run.
    An interrupted restore can be repeated.
    """
    local = local_folder(data)
    with session():
        if local is not None:
            if not (folder / SUMMARY).is_file():  # before anything of a suite is made
                raise CommandError(f"{folder} is no complete backup: it has no {SUMMARY}")
            if signing.differ(folder, local):
                raise CommandError(f"{local} has keys that did not sign the models of this backup; use a new folder")
            signing.copy(folder, local)
        with _nats_alone(local):
            found = _run("restore", folder, data)
    if json:
        return print_document(found)
    output().print(f"{_counted(found)} of {found['time'][:19]} UTC are restored", soft_wrap=True)
    return None


@contextmanager
def _nats_alone(data: Path | None) -> Generator[None]:
    """Runs the nats-server of a local suite, without services that would act on half of the records; CommandError."""
    if data is None:
        yield
        return
    require(*NEEDED)
    from sightline.local.claims import StackError  # noqa: PLC0415 - needs packages that callers lack
    from sightline.local.stack import Stack  # noqa: PLC0415 - needs packages that callers lack

    stack = Stack(data, base_port=0, with_services=False)
    with asyncio.Runner() as runner:
        try:
            runner.run(stack.start())
        except StackError as error:
            raise CommandError(str(error)) from error
        try:
            yield
        finally:
            runner.run(stack.stop())


def _counted(found: dict[str, Any]) -> str:
    records, blobs = counted(found["records"], "record"), counted(found["blobs"], "blob")
    return f"{records} and {blobs} ({found['size_bytes'] / 1e6:.1f} MB)"


def _run(action: str, folder: Path, data: Path | None) -> dict[str, Any]:
    """The document that the services' program prints; CommandError if it failed."""
    require(*NEEDED)
    command = [sys.executable, "-m", "services.infra.backup", action, str(folder)]
    done = subprocess.run(command, env=environment(data), stdout=subprocess.PIPE, text=True, check=False)
    document: dict[str, Any] = jsonlib.loads(done.stdout or "{}")
    if "error" in document:
        raise CommandError(document["error"])
    if not document:
        raise CommandError("the program that copies died; what it printed is above")
    return document
