"""The examples of deploy/k8s that are not custom resources of ours: routes, an ingress, the namespace of a team."""

import importlib
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.test_schemas import KUBERNETES
from tests.support.manifests import K8S, ROOT, Resource, of_kind, quantity, render_text, template, workloads

EXAMPLES = {
    path.name: list(yaml.safe_load_all(render_text(path))) for path in (K8S / "examples").iterdir() if path.is_dir()
}
BUILTIN = ("ingress", "team")
PORTS = {(one["metadata"]["name"], port["port"]) for one in of_kind("tls", "Service") for port in one["spec"]["ports"]}


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("version", KUBERNETES)
def test_an_example_is_valid_for_kubernetes(name: str, version: str) -> None:
    assert EXAMPLES[name]
    for resource in EXAMPLES[name]:
        kubernetes_validate.validate(resource, version, strict=True)


def test_every_example_is_tested() -> None:
    assert EXAMPLES.keys() == {*BUILTIN, "routes"}


def backends(name: str) -> set[tuple[str, int]]:
    """The services and ports that an example leads to."""
    found: set[tuple[str, int]] = set()
    for resource in EXAMPLES[name]:
        rules = resource["spec"].get("rules", [])
        found |= {(one["name"], one["port"]) for rule in rules for one in rule.get("backendRefs", [])}
        paths = [path["backend"]["service"] for rule in rules for path in rule.get("http", {}).get("paths", [])]
        found |= {(one["name"], one["port"]["number"]) for one in paths}
    return found


@pytest.mark.parametrize("name", ["routes", "ingress"])
def test_callers_outside_reach_every_service_and_the_gateway(name: str) -> None:
    assert backends(name) == {("dataset", 50051), ("trainer", 50052), ("predictor", 50053), ("gateway", 50054)}
    assert backends(name) <= PORTS


def served() -> dict[str, set[str]]:
    """The full names of the gRPC services that each process registers, by its Kubernetes service."""
    found: dict[str, set[str]] = {}
    for name in ("dataset", "trainer", "predictor"):
        text = (ROOT / "services" / name / "__main__.py").read_text()
        modules = {line.split()[1] for line in text.splitlines() if "_pb2_grpc import add_" in line}
        descriptors: list[Any] = [importlib.import_module(one.removesuffix("_grpc")).DESCRIPTOR for one in modules]
        found[name] = {service.full_name for one in descriptors for service in one.services_by_name.values()}
    return found


def test_a_route_leads_every_rpc_to_the_process_that_serves_it() -> None:
    (route,) = [one for one in EXAMPLES["routes"] if one["kind"] == "GRPCRoute"]
    routed = {
        rule["backendRefs"][0]["name"]: {match["method"]["service"] for match in rule["matches"]}
        for rule in route["spec"]["rules"]
    }
    routed["dataset"].remove("sightline.v1.AuditService")  # of infra; its process is the dataset api
    assert routed == served()


def test_the_way_from_the_route_to_a_service_is_encrypted_and_checked() -> None:
    policies = [one["spec"] for one in EXAMPLES["routes"] if one["kind"] == "BackendTLSPolicy"]
    checked = {one["targetRefs"][0]["name"]: one["validation"]["hostname"] for one in policies}
    assert checked == {name: name for name, _ in backends("routes")}
    (certificate,) = [
        one for one in of_kind("certificates", "Certificate") if one["spec"]["secretName"] == "sightline-tls"
    ]
    assert checked.keys() <= set(certificate["spec"]["dnsNames"])


def test_the_quota_of_a_team_fits_the_production_overlay_with_four_trainings() -> None:
    (hard,) = [one["spec"]["hard"] for one in EXAMPLES["team"] if one["kind"] == "ResourceQuota"]
    least = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]
        for one in of_kind("overlay production", "HorizontalPodAutoscaler")
    }

    def count(workload: Resource) -> int:
        name = workload["metadata"]["name"]
        return (
            4
            if name == "trainer-worker"
            else least[name]["maxReplicas"] // 2
            if name in least
            else workload["spec"]["replicas"]
        )

    for resource in ("cpu", "memory", "ephemeral-storage"):
        needed = sum(
            count(one)
            * sum(quantity(c["resources"]["requests"][resource]) for c in template(one)["spec"]["containers"])
            for one in workloads("overlay production")
        )
        assert needed <= quantity(hard[f"requests.{resource}"]), resource
    assert hard["requests.nvidia.com/gpu"] == "4"
