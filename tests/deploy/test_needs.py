"""Every manifest says in its head what it needs of the cluster, and that is what it contains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from tests.support.manifests import K8S

HEAD = "Needs of the cluster: "
# What a manifest contains, and what its head must then name.
SIGNS = {
    r"apiVersion: keda\.sh": "KEDA",
    r"apiVersion: kueue\.x-k8s\.io": "Kueue",
    r"apiVersion: monitoring\.coreos\.com": "Prometheus operator",
    r"kind: HorizontalPodAutoscaler": "metrics-server",
    r"kind: NetworkPolicy": "network plugin",
    r"volumeClaimTemplates:": "storage class",
    r"nvidia\.com/gpu: ": "device plugin",
}


def manifests() -> list[Path]:
    """Each manifest of the base, and each kustomization."""
    return sorted({*(K8S / "base").glob("*.yaml"), *K8S.rglob("kustomization.yaml")})


def head(path: Path) -> str:
    lines = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return " ".join(line.removeprefix("# ") for line in lines)


def content(path: Path) -> Iterator[str]:
    """The text of the manifest without comments; of a kustomization, also that of the files beside it."""
    of_base = path.parent.name == "base"
    for file in path.parent.glob("*.yaml") if path.name == "kustomization.yaml" and not of_base else [path]:
        yield re.sub(r"(^|\s)#.*", "", file.read_text())


@pytest.mark.parametrize("path", manifests(), ids=lambda path: str(path.relative_to(K8S)))
def test_a_manifest_states_what_it_needs_of_the_cluster(path: Path) -> None:
    _, found, needs = head(path).partition(HEAD)
    assert found, f"{path} has no line `# {HEAD}...` in its head"
    assert len(needs) > 5
    text = "\n".join(content(path))
    for sign, name in SIGNS.items():
        if re.search(sign, text):
            assert name in needs, f"{path} has {sign}, and does not say that it needs {name}"
    secrets = {*re.findall(r"secretName: (\S+)", text), *re.findall(r"secretKeyRef:\s+name: (\S+)", text)}
    secrets |= set(re.findall(r"secretKeyRef:\s+key: \S+\s+name: (\S+)", text))
    assert {one for one in secrets if f"`{one}`" not in needs} == set()
