"""What a release is made of: images by digest, bills of materials, audited packages, and a workflow that signs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.environments import distributions
from tests.support.manifests import CHART, K8S, OVERLAYS, ROOT, chart_text, render_text
from tools import audit, pin_images, sbom

WORKFLOWS = ROOT / ".github" / "workflows"
TODAY = date(2026, 12, 1)


def digests() -> str:
    """A line for each image that the manifests name."""
    return "".join(f"{name} registry.example/{name}@sha256:{'ab' * 32}\n" for name in pin_images.tagged(K8S))


def test_pinned_manifests_run_every_image_of_every_overlay_by_digest(tmp_path: Path) -> None:
    copy = shutil.copytree(K8S, tmp_path / "k8s")
    command = [sys.executable, "-m", "tools.pin_images", str(copy)]
    done = subprocess.run(command, cwd=ROOT, input=digests(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    extra = copy / "overlays" / "extra"
    extra.mkdir()
    (extra / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../cpu]\n"
        "components: [../../components/store-seaweedfs, ../../components/predictor-torch]\n"
    )
    images: list[str] = []
    for overlay in (*OVERLAYS, "extra"):
        images = re.findall(r"image: (\S+)", render_text(copy / "overlays" / overlay))
        assert images
        assert all(re.fullmatch(r"registry\.example/\S+@sha256:[0-9a-f]{64}", one) for one in images), images
    assert any("sightline-predictor-torch@" in one for one in images)
    assert pin_images.tagged(copy) == {}
    chart = shutil.copytree(CHART, copy / "chart")
    for path, text in pin_images.pinned(chart, pin_images.parsed(digests())).items():
        path.write_text(text)
    everything: dict[str, Any] = {one: {"enabled": True} for one in ("operator", "autoscaling")}
    for store in ("seaweedfs", "versitygw"):
        images = re.findall(r"image: (\S+)", chart_text(everything | {"store": {"kind": store}}, chart=chart))
        assert len(images) == 13
        assert all(re.fullmatch(r"registry\.example/\S+@sha256:[0-9a-f]{64}", one) for one in images), images
    assert pin_images.pinned(copy, pin_images.parsed(digests())) == {}, "again changes nothing"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda text: text.replace("nats registry", "gnats registry"), "no digest of: nats"),
        (lambda text: text.replace("@sha256:", ":", 1), "is not `NAME REPOSITORY@sha256:...`"),
        (lambda text: text + f"nats elsewhere/nats@sha256:{'cd' * 32}\n", "nats has two digests"),
    ],
)
def test_manifests_stay_as_they_are_unless_every_image_has_one_digest(tmp_path: Path, changed: Any, said: str) -> None:
    copy = shutil.copytree(K8S, tmp_path / "k8s")
    command = [sys.executable, "-m", "tools.pin_images", str(copy)]
    done = subprocess.run(command, cwd=ROOT, input=changed(digests()), capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stdout) == (1, True), done.stdout
    assert pin_images.tagged(copy) == pin_images.tagged(K8S)


def test_a_bill_of_materials_has_what_its_image_installs_with_locked_versions_and_hashes(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tools.sbom", tmp_path], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    pins = sbom.locked((ROOT / "constraints.txt").read_text())
    for image, extras in sbom.IMAGES.items():
        made = json.loads((tmp_path / f"{image}.cdx.json").read_text())
        assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
        listed = {one["name"]: one for one in made["components"]}
        assert listed.keys() == {sbom.normal(one) for e in extras for one in distributions("sightline-services", e)}
        for name in listed.keys() - set(sbom.OURS):
            (file,) = listed[name]["externalReferences"]
            version, hashes = pins[name]
            assert listed[name]["version"] == version
            assert hashes
            assert tuple(one["content"] for one in file["hashes"]) == hashes
        graph = {one["ref"]: one["dependsOn"] for one in made["dependencies"]}
        assert graph.keys() == {image, *(one["bom-ref"] for one in listed.values())}
        assert {one for needs in graph.values() for one in needs} <= graph.keys()


def test_every_image_has_a_bill_of_materials_and_is_released() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    images = set(re.findall(r"--target (\S+)", dockerfile))
    assert sbom.IMAGES.keys() == images
    assert set(workflow("release")["jobs"]["images"]["strategy"]["matrix"]["target"]) == images


def test_a_bill_of_materials_of_another_version_is_refused() -> None:
    with pytest.raises(
        sbom.NotLocked, match=r"msgspec .* is installed, and constraints\.txt has 0\.0\.1: run `make setup`"
    ):
        sbom.bill("dataset", {"sightline-services": {"msgspec"}, "msgspec": set()}, {"msgspec": ("0.0.1", ("ab",))})


def report(*vulnerabilities: dict[str, Any]) -> dict[str, Any]:
    """What pip-audit prints about two packages, the first with these vulnerabilities."""
    first = {"name": "torch", "version": "2.0", "vulns": list(vulnerabilities)}
    return {"dependencies": [first, {"name": "numpy", "version": "2.0", "vulns": []}], "fixes": []}


FLAW = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1", "GHSA-1"], "fix_versions": ["2.1"], "description": "..."}


def accepted(id_: str = "GHSA-1", package: str = "torch", until: date = date(2026, 12, 31)) -> audit.Accepted:
    return audit.Accepted(id_, package, until, "we never call it")


def test_a_vulnerability_fails_the_audit_unless_it_is_accepted_for_now() -> None:
    (fault,) = audit.faults(report(FLAW), [], TODAY)
    assert "torch 2.0: PYSEC-2026-1, CVE-2026-1, GHSA-1" in fault
    assert 'make lock UPGRADE="torch"' in fault
    assert not list(audit.faults(report(FLAW), [accepted()], TODAY))
    assert not list(audit.faults(report(FLAW), [accepted(until=TODAY)], TODAY)), "its last day"
    assert not list(audit.faults(report(), [], TODAY))


@pytest.mark.parametrize(
    ("exception", "said"),
    [
        (accepted(until=date(2026, 11, 30)), "was accepted until 2026-11-30"),
        (accepted(until=date(2027, 6, 1)), "more than 90 days away"),
        (accepted("GHSA-2"), "torch no longer has GHSA-2"),
        (accepted(package="numpy"), "numpy no longer has GHSA-1"),
    ],
)
def test_an_exception_that_has_ended_is_too_long_or_fits_nothing_fails_the_audit(
    exception: audit.Accepted, said: str
) -> None:
    assert said in "\n".join(audit.faults(report(FLAW), [exception], TODAY))


def test_a_package_that_could_not_be_audited_fails_the_audit() -> None:
    made = {"dependencies": [{"name": "odd", "skip_reason": "not on PyPI"}]}
    assert list(audit.faults(made, [], TODAY)) == ["odd was not audited: not on PyPI"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[exception]]\nid = "A"\npackage = "b"\nreason = "c"\n', "needs id, package, until and reason"),
        ('[[exception]]\nid = "A"\npackage = "b"\nreason = "c"\nuntil = "2027-01-01"\n', "until must be a date"),
        ('[[exception]]\nid = "A"\npackage = "b"\nreason = " "\nuntil = 2027-01-01\n', "has no reason"),
    ],
)
def test_an_exception_without_a_date_or_a_reason_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        audit.exceptions(text)


def test_the_exceptions_of_this_tree_are_well_formed() -> None:
    packages = sbom.locked((ROOT / "constraints.txt").read_text())
    assert all(one.package in packages for one in audit.exceptions(audit.FILE.read_text()))


def test_the_audit_installs_itself_by_hash() -> None:
    pins = sbom.locked((ROOT / "tools" / "pip-audit.txt").read_text())
    assert "pip-audit" in pins
    assert all(hashes for _, hashes in pins.values())
    assert "--require-hashes -r tools/pip-audit.txt" in (WORKFLOWS / "audit.yml").read_text()


def workflow(name: str) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text())
    return made


@pytest.mark.parametrize("name", sorted(path.stem for path in WORKFLOWS.glob("*.yml")))
def test_a_workflow_runs_only_actions_of_a_fixed_commit_and_may_read_only_by_default(name: str) -> None:
    made = workflow(name)
    assert made["permissions"] == {"contents": "read"}
    steps = [step for job in made["jobs"].values() for step in job.get("steps", [])]
    for step in steps:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step.get("uses", f"none@{'0' * 40}")), step
        assert "${{" not in step.get("run", ""), "what an expression holds would run as a script"
        if "actions/checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
    for job in made["jobs"].values():
        assert "uses" not in job or job["uses"].startswith("./")


def test_a_release_is_audited_and_its_images_are_signed_and_attested_by_digest() -> None:
    jobs = workflow("release")["jobs"]
    assert jobs["audit"] == {"uses": "./.github/workflows/audit.yml"}
    images, release = jobs["images"], jobs["release"]
    assert (images["needs"], release["needs"]) == (["audit", "packages"], "images")
    assert images["permissions"].items() >= {"id-token": "write", "attestations": "write", "packages": "write"}.items()
    text = "\n".join(step.get("run", "") for step in images["steps"])
    (signing,) = [step for step in images["steps"] if "cosign sign" in step.get("run", "")]
    assert signing["env"]["SUBJECT"].endswith("@${{ steps.build.outputs.digest }}")
    assert "--type cyclonedx" in signing["run"]
    assert "--provenance mode=max --sbom true" in text
    (attested,) = [step["with"] for step in images["steps"] if "attest-build-provenance" in step.get("uses", "")]
    assert attested["subject-digest"] == "${{ steps.build.outputs.digest }}"
    (published,) = [step for step in release["steps"] if "attest-build-provenance" in step.get("uses", "")]
    assert published["with"]["subject-path"] == "release/*"
    text = "\n".join(step.get("run", "") for step in release["steps"])
    assert all(f"tools.pin_images deploy/{one} < digests.txt" in text for one in ("k8s", "helm"))
    assert text.index("tools.pin_images deploy/helm") < text.index("helm package") < text.index("helm push")
    assert 'cosign sign --yes "$charts/$chart@${digest' in text
