"""`sightline audit`: who asked for what, as the services store it or write it into files."""

import json as jsonlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.markup import escape

from sightline.cli.console import Json, notes, output, print_document, print_json, table
from sightline.cli.formats import moment, parse_duration
from sightline.cli.reporting import CommandError, report
from sightline.cli.session import session
from sightline.cli.up import DATA
from sightline.v1 import audit_service_pb2 as service

DENIED = ("UNAUTHENTICATED", "PERMISSION_DENIED")
VERSION = 1  # of the entries that this command reads


app = typer.Typer(
    help="Show who called what, and with what result: calls that change something, use a model, or were refused.",
    no_args_is_help=True,
)
Since = Annotated[
    timedelta | None, typer.Option(parser=parse_duration, metavar="DURATION", help="Only the last 1h, 30m, ...")
]
Caller = Annotated[str, typer.Option(metavar="SUBJECT", help="Only calls of this subject, or `issuer:subject`.")]
About = Annotated[str, typer.Option(metavar="NAME", help="Only calls about this resource or what is below it.")]
Denied = Annotated[bool, typer.Option("--denied", help="Only calls that were refused for their token.")]


@app.command("list")
def list_(
    since: Since = None,
    caller: Caller = "",
    of_project: Annotated[
        str,
        typer.Option("--in", metavar="PROJECT", help="Only calls in this project."),
    ] = "",
    rpc: Annotated[str, typer.Option(metavar="RPC", help="Only calls of this rpc, such as DeleteModel.")] = "",
    resource: About = "",
    denied: Denied = False,
    json: Json = False,
) -> None:
    """List the calls that the services have stored, oldest first; for admins.

    The services store them if SIGHTLINE_AUDIT has `nats`.
    """
    with session() as client:
        events = client.audit.list(
            start=_start(since),
            subject=caller,
            project=of_project,
            rpc=rpc,
            resource=resource,
            codes=DENIED if denied else (),
        )
    if json:
        print_json(service.ListAuditEventsResponse(events=[event.message for event in events]))
    else:
        _print([{**asdict(event), "time": event.time.isoformat() if event.time else ""} for event in events])


@app.command("read")
def read(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", help="Audit files or logs; - is standard input. By default those of the local suite."
        ),
    ] = None,
    since: Since = None,
    caller: Caller = "",
    resource: About = "",
    denied: Denied = False,
    json: Json = False,
) -> None:
    """List the calls in files or logs, oldest first. Lines that are not entries, as in a pod's log, are passed over.

    In Kubernetes: kubectl logs --prefix=false -l app.kubernetes.io/component=api --tail=-1 | sightline audit read -
    """
    try:
        start = _start(since)
        found = [
            entry
            for entry in _entries(files or sorted((DATA / "audit").glob("*.jsonl")))
            if (start is None or _time(entry) >= start)
            and caller in ("", entry["subject"], f"{entry['issuer']}:{entry['subject']}")
            and _is_about(entry["resource"], resource)
            and (not denied or entry["code"] in DENIED)
        ]
    except CommandError as error:
        raise typer.Exit(report(error, notes())) from None
    found.sort(key=_time)
    if json:
        print_document({"entries": found})
    else:
        _print(found)


def _start(since: timedelta | None) -> datetime | None:
    return datetime.now(UTC) - since if since is not None else None


def _entries(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        try:
            if str(file) == "-":
                yield from _in(sys.stdin)
            else:
                with file.open(encoding="utf-8", errors="replace") as lines:
                    yield from _in(lines)
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}") from error


def _in(lines: IO[str]) -> Iterator[dict[str, Any]]:
    """The entries among the lines; the last line of a file may be incomplete."""
    for line in lines:
        try:
            entry = jsonlib.loads(line)
            if entry["audit"] == VERSION and _time(entry):
                yield entry
        except (ValueError, KeyError, TypeError):
            continue


def _time(entry: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["time"])


def _is_about(found: str, wanted: str) -> bool:
    return not wanted or found == wanted or found.startswith(f"{wanted}/")


def _print(entries: list[dict[str, Any]]) -> None:
    rows = table("TIME", "CALLER", "PROJECT", "RPC", "RESOURCE", "OUTCOME", "REQUEST")
    for entry in entries:
        who = f"{entry['issuer']}:{entry['subject']}" if entry["subject"] else f"({entry['peer']})"
        outcome = entry["code"] if entry["code"] == "OK" else f"[red]{escape(entry['code'])}[/]"
        texts = (who, entry["project"], entry["rpc"], entry["resource"])
        rows.add_row(moment(_time(entry)), *map(escape, texts), outcome, escape(entry["request_id"]))
    output().print(rows)
