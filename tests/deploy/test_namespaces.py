"""A suite in another namespace: every address follows, and nothing in the manifests deletes a namespace."""

import re

import pytest
import yaml

from tests.support.manifests import (
    CLUSTER_WIDE,
    K8S,
    NAMES,
    NAMESPACE,
    OVERLAYS,
    of_kind,
    resources,
    text_in,
    text_of,
    title,
)

OTHER = "team-a"
rendering = pytest.mark.parametrize("name", NAMES)


@rendering
def test_in_another_namespace_no_address_of_the_default_one_is_left(name: str) -> None:
    text = text_in(name, OTHER)
    assert not re.search(
        rf"\b{NAMESPACE}\.(svc|cluster)\b|namespace: {NAMESPACE}\b|metadata\.name: {NAMESPACE}\b", text
    )
    hosts = set(re.findall(r"[\w.-]+\.svc\b[\w.]*", text))
    assert {host.split(".")[1] for host in hosts} <= {OTHER}
    assert text.replace(OTHER, NAMESPACE) == text_of(name), "only the namespace may differ"


@rendering
def test_two_suites_share_no_cluster_wide_resource(name: str) -> None:
    def wide(text: str) -> set[str]:
        return {title(one) for one in yaml.safe_load_all(text) if one and one["kind"] in CLUSTER_WIDE}

    ours = wide(text_of(name))
    assert not ours & wide(text_in(name, OTHER))
    assert bool(ours) == bool(of_kind(name, "ClusterQueue"))


def test_the_queue_takes_jobs_of_its_own_namespace_only() -> None:
    found = {one["kind"]: one for one in yaml.safe_load_all(text_in("kueue", OTHER)) if one}
    queue, local, flavor = (found[kind] for kind in ("ClusterQueue", "LocalQueue", "ResourceFlavor"))
    assert queue["spec"]["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": OTHER}}
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    assert local["metadata"]["namespace"] == OTHER
    (group,) = queue["spec"]["resourceGroups"]
    assert [one["name"] for one in group["flavors"]] == [flavor["metadata"]["name"]]


@rendering
def test_deleting_an_overlay_deletes_neither_a_namespace_nor_a_volume(name: str) -> None:
    assert not of_kind(name, "Namespace", "PersistentVolumeClaim", "PersistentVolume")
    for workload in of_kind(name, "StatefulSet"):
        assert workload["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }, title(workload)


def test_every_overlay_sets_the_namespace_in_one_place() -> None:
    assert OVERLAYS
    for name in OVERLAYS:
        path = K8S / "overlays" / name / "kustomization.yaml"
        overlay = yaml.safe_load(path.read_text())
        assert (overlay["namespace"], overlay["transformers"]) == (NAMESPACE, ["../../namespace"]), path
    assert all(one["metadata"].get("namespace") == NAMESPACE for one in resources("overlay local"))
