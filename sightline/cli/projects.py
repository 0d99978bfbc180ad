"""`sightline projects`: what projects have in use, and their quotas."""

from datetime import UTC
from typing import Annotated

import typer
from rich.markup import escape

from sightline.cli.console import Json, facts, output, print_json, table
from sightline.cli.session import session
from sightline.client.quantities import duration, size
from sightline.client.results.project import ComputeQuota, CountQuota, Project, StorageQuota
from sightline.v1 import project_service_pb2 as service

app = typer.Typer(help="List and show projects: what they have in use, and their quotas.", no_args_is_help=True)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the projects that your token is valid for. If that is all of them, those that own anything."""
    with session() as client:
        projects = client.projects.list()
    if json:
        print_json(service.ListProjectsResponse(projects=[project.message for project in projects]))
        return
    rows = table("PROJECT", "DATASETS", "MODELS", "STORAGE", "COMPUTE THIS MONTH")
    for project in projects:
        counts = _count(project.datasets), _count(project.models)
        rows.add_row(escape(project.project_id), *counts, _storage(project.storage), _compute(project.compute))
    output().print(rows)


@app.command("show")
def show(
    project: Annotated[
        str, typer.Argument(metavar="PROJECT", help="The project; by default, the one in which commands act.")
    ] = "",
    json: Json = False,
) -> None:
    """Show a project: its quotas, what is used of them, and your roles in it."""
    with session(project) as client:
        found = client.projects.get()
    if json:
        print_json(found.message)
    else:
        output().print(facts(_facts(found)))


def _facts(project: Project) -> list[tuple[str, str]]:
    storage, compute = project.storage, project.compute
    parts = f"uploads {size(storage.upload_bytes)}, datasets {size(storage.dataset_bytes)}"
    parts += f", models {size(storage.model_bytes)}, batch predictions {size(storage.prediction_bytes)}"
    resets = compute.period_end_time
    return [
        ("project", escape(project.project_id)),
        ("your roles", ", ".join(project.roles)),
        ("datasets", _count(project.datasets)),
        ("models", _count(project.models)),
        ("storage", f"{_storage(storage)} ({parts})"),
        ("compute this month", _compute(compute)),
        ("left for new models", "" if compute.left is None else duration(compute.left)),
        ("month ends", f"{resets.astimezone(UTC):%Y-%m-%d} (UTC)" if resets else ""),
    ]


def _count(quota: CountQuota) -> str:
    return f"{quota.used}" if quota.limit is None else f"{quota.used} of {quota.limit}"


def _storage(quota: StorageQuota) -> str:
    limit = "" if quota.limit_bytes is None else f" of {size(quota.limit_bytes)}"
    return size(quota.used_bytes) + limit


def _compute(quota: ComputeQuota) -> str:
    reserved = f" and {duration(quota.reserved)} reserved" if quota.reserved else ""
    limit = "" if quota.limit is None else f" of {duration(quota.limit)}"
    return f"{duration(quota.used)}{reserved}{limit}"
