"""`sightline projects`."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from sightline.v1.project_pb2 import ComputeQuota, CountQuota, Project, StorageQuota
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes

DECEMBER = Timestamp(seconds=1796083200)  # 2026-12-01


def filled(fakes: Fakes) -> None:
    fakes.projects["default"] = Project(project_id="default", compute=ComputeQuota(period_end_time=DECEMBER))
    fakes.projects["acme"] = Project(
        project_id="acme",
        roles=["trainer", "viewer"],
        datasets=CountQuota(used=3, limit=10),
        models=CountQuota(used=2),
        storage=StorageQuota(used_bytes=6_000_000, limit_bytes=10**9, upload_bytes=3_000_000, model_bytes=3_000_000),
        compute=ComputeQuota(
            used=Duration(seconds=600),
            reserved=Duration(seconds=300),
            limit=Duration(seconds=3600),
            period_end_time=DECEMBER,
        ),
    )


def test_projects_are_listed_with_what_is_used_and_the_limits(sightline: Command, fakes: Fakes) -> None:
    filled(fakes)
    shown = sightline("projects", "list")
    assert shown.code == 0, shown.err
    line = next(line for line in shown.out.splitlines() if "acme" in line)
    assert " ".join(line.split()) == "acme 3 of 10 2 6 MB of 1 GB 10m and 5m reserved of 1h00m"
    projects = sightline("projects", "list", "--json").json["projects"]
    assert isinstance(projects, list)
    assert [project["projectId"] for project in projects] == ["default", "acme"]


def test_a_project_is_shown_with_its_parts_the_roles_and_what_is_left(
    sightline: Command, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_PROJECT", "")  # which --project sets
    filled(fakes)
    shown = sightline("projects", "show", "acme")
    assert shown.code == 0, shown.err
    for fact in (
        "trainer, viewer",
        "6 MB of 1 GB (uploads 3 MB, datasets 0 B, models 3 MB, batch predictions 0 B)",
        "10m and 5m reserved of 1h00m",
        "left for new models  45m",
        "2026-12-01 (UTC)",
    ):
        assert fact in shown.out
    assert sightline("--project", "acme", "projects", "show", "--json").json["projectId"] == "acme"


def test_without_an_argument_the_current_project_is_shown_and_limits_that_do_not_exist_are_not(
    sightline: Command, fakes: Fakes
) -> None:
    filled(fakes)
    shown = sightline("projects", "show")
    assert "default" in shown.out
    assert " of " not in shown.out
    assert "left for" not in shown.out
