"""deploy/k8s/verify.sh against a fake cluster: what it asks for, in which order, and what it makes of the answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.manifests import ROOT, tool

SCRIPT = ROOT / "deploy" / "k8s" / "verify.sh"
# Each fake notes its call, and fails if the file `fails` has a line that the call begins with.
HEAD = """#!/usr/bin/env bash
name=${0##*/} said="$*"
said=${said//--namespace sightline /}
echo "$name $said" >> "$FAKE/calls"
while read -r start; do
  if [ -n "$start" ] && [[ "$name $said" == "$start"* ]]; then echo "refused: $start" && exit 1; fi
done < "$FAKE/fails"
"""
KUBECTL = (
    HEAD
    + """
case "$said" in
  version*) echo "Server Version: $(cat "$FAKE/version")" ;;
  kustomize*) cat "$FAKE/manifests" ;;
  "get storageclass"*) echo storageclass.storage.k8s.io/standard ;;
  "get deployment,statefulset"*) printf 'deployment.apps/predictor\\nstatefulset.apps/nats\\n' ;;
  "get pod"*jsonpath*) echo "predictor-1: Pending" ;;
  "get pod"*) [[ "$said" =~ name=([a-z-]+) ]] && echo "pod/${BASH_REMATCH[1]}-1" ;;
  exec*) echo "0 faults" ;;
  port-forward*) echo $$ >> "$FAKE/forwards"; exec tail -f /dev/null ;;
esac
exit 0
"""
)
HELM = HEAD + """[[ "$said" != template* ]] || printf 'kind: Deployment\\n  secretName: sightline-nats\\n'\n"""
MANIFESTS = """kind: Deployment
          secretName: sightline-s3
          secretName: sightline-nats
          secretName: nats-tls
          optional: true
          secretName: sightline-tls
---
kind: Certificate
  secretName: nats-tls
---
kind: StatefulSet
          secretName: sightline-s3
"""
CURL = HEAD + 'cat "$FAKE/alerts"\n'


class Cluster:
    """A folder with fakes of what the script calls."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = folder / "bin"
        self._bin.mkdir()
        fakes = {"helm": HELM, "kubectl": KUBECTL, "curl": CURL, "sightline": HEAD, "sleep": HEAD}
        for name, text in fakes.items():
            (self._bin / name).write_text(text)
            (self._bin / name).chmod(0o755)
        for name in ("coco.json", "image.png"):
            (folder / name).write_text("")
        (folder / "manifests").write_text(MANIFESTS)
        self.version("v1.33.1")
        self.fails()
        self.alerts()

    def version(self, text: str) -> None:
        (self._folder / "version").write_text(text)

    def fails(self, *starts: str) -> None:
        """Calls that begin like this fail."""
        (self._folder / "fails").write_text("".join(f"{one}\n" for one in starts))

    def alerts(self, **severities: str) -> None:
        """What fires, besides an alert of somebody else and one that is pending."""
        firing = [
            *({"labels": {"alertname": name, "severity": one}, "state": "firing"} for name, one in severities.items()),
            {"labels": {"alertname": "Watchdog", "severity": "critical"}, "state": "firing"},
            {"labels": {"alertname": "SightlineWorkWaits", "severity": "critical"}, "state": "pending"},
        ]
        (self._folder / "alerts").write_text(json.dumps({"data": {"alerts": firing}}))

    def verify(self, *words: str, what: str = "--overlay") -> tuple[int, dict[str, tuple[str, str]]]:
        """The exit status, and outcome and detail of each step."""
        files = (what, self._folder, "--coco", self._folder / "coco.json", "--image", self._folder / "image.png")
        command = ["bash", str(SCRIPT), *map(str, files), *words]
        environment = os.environ | {"FAKE": str(self._folder), "PATH": f"{self._bin}:{os.environ['PATH']}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        rows = re.findall(r"^(\w+) +(ok|FAILED|skipped) +\d+  (.*)$", done.stdout, re.MULTILINE)
        return done.returncode, {name: (outcome, detail) for name, outcome, detail in rows}

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def forwards(self) -> list[int]:
        """The processes that forwarded ports."""
        return [int(pid) for pid in (self._folder / "forwards").read_text().split()]

    @property
    def calls(self) -> list[str]:
        return (self._folder / "calls").read_text().splitlines()

    def order(self, *starts: str) -> list[int]:
        """Where the first call is that begins like each of these."""
        return [next(i for i, call in enumerate(self.calls) if call.startswith(one)) for one in starts]


def runs(pid: int) -> bool:
    """Whether the process is there, or ended only now."""
    try:
        return "tail" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run([tool("shellcheck"), str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_chart_is_installed_upgraded_and_rolled_back(cluster: Cluster) -> None:
    code, rows = cluster.verify("--values", "values.yaml", what="--chart")
    assert code == 0, rows
    assert rows["rollback"] == ("ok", "2 workloads are ready")
    folder = cluster.folder
    install = f"helm upgrade --install sightline {folder} --values values.yaml"
    story = (
        f"helm template sightline {folder} --values values.yaml",
        "kubectl get secret sightline-nats",
        f"{install} --dry-run=server",
        f"{install} --set settings.SIGHTLINE_LOG_LEVEL=DEBUG",
        "helm rollback sightline",
        "sightline datasets create",
    )
    assert cluster.order(*story) == sorted(cluster.order(*story))
    assert install in cluster.calls
    cluster.fails("helm rollback")
    assert cluster.verify(what="--chart")[1]["rollback"][0] == "FAILED"


def test_a_cluster_that_does_all_passes_and_pods_are_killed_while_it_trains(cluster: Cluster) -> None:
    code, rows = cluster.verify("--alerts", "http://prometheus:9090/")
    assert code == 0, rows
    of_chart = {"upgrade", "rollback"}
    assert {name for name, (outcome, _) in rows.items() if outcome == "ok"} == rows.keys() - {"drain", *of_chart}
    assert {rows[one][0] for one in of_chart} == {"skipped"}
    assert rows["drain"] == ("skipped", "no --drain NODE")
    assert rows["kill"] == ("ok", "3 pods were killed, and replaced")
    assert rows["alerts"] == ("ok", "firing: none")
    story = (
        "kubectl apply --dry-run=server",
        "kubectl apply -k",
        "kubectl exec trainer-worker-1 -- python -m services.infra.doctor --inside",
        "sightline datasets create",
        "sightline models train",
        "kubectl delete pod/",
        "sightline models watch",
        "sightline predict",
        "curl",
        "sightline datasets delete",
    )
    assert cluster.order(*story) == sorted(cluster.order(*story))
    killed = [call.split()[2] for call in cluster.calls if call.startswith("kubectl delete")]
    assert killed == ["pod/nats-1", "pod/predictor-1", "pod/trainer-worker-1"]
    forwarded = {call.split()[2] for call in cluster.calls if call.startswith("kubectl port-forward")}
    assert forwarded == {"service/dataset", "service/trainer", "service/predictor"}
    assert len(cluster.forwards) == 3
    assert not [pid for pid in cluster.forwards if runs(pid)]


def test_what_the_cluster_lacks_is_named_and_the_rest_is_skipped(cluster: Cluster) -> None:
    cluster.fails("kubectl get secret ")
    code, rows = cluster.verify()
    assert code == 1
    assert rows["needs"] == ("FAILED", "create the secrets: sightline-nats sightline-s3")
    assert {outcome for name, (outcome, _) in rows.items() if name not in ("tools", "needs")} == {"skipped"}
    assert rows["predict"][1] == "after needs failed"
    assert not [call for call in cluster.calls if call.startswith(("kubectl apply", "sightline"))]


@pytest.mark.parametrize(
    ("fault", "step", "said"),
    [
        ("kubectl get namespace", "needs", "create the namespace sightline"),
        ("kubectl get storageclass", "needs", "no storage class"),
        ("kubectl apply --dry-run", "needs", "lacks its operator"),
        ("kubectl rollout", "apply", "is not ready: predictor-1: Pending"),
        ("kubectl exec", "doctor", "refused: kubectl exec"),
        ("kubectl delete", "kill", "refused: kubectl delete"),
        ("sightline datasets list", "reach", "cannot be called"),
        ("sightline datasets create", "register", "refused"),
        ("sightline models watch", "trained", "refused"),
        ("sightline predict", "predict", ""),
    ],
)
def test_a_step_that_fails_fails_the_whole(cluster: Cluster, fault: str, step: str, said: str) -> None:
    cluster.fails(fault)
    code, rows = cluster.verify()
    assert (code, rows[step][0], said in rows[step][1]) == (1, "FAILED", True), rows


def test_a_kubernetes_that_is_too_old_is_named(cluster: Cluster) -> None:
    cluster.version("v1.29.14")
    code, rows = cluster.verify()
    assert (code, rows["tools"]) == (1, ("FAILED", "Kubernetes 1.29.14 is older than 1.30"))


@pytest.mark.parametrize("fault", ["", "kubectl drain"])
def test_a_node_is_drained_during_a_training_and_always_uncordoned(cluster: Cluster, fault: str) -> None:
    cluster.fails(fault)
    code, rows = cluster.verify("--drain", "node-7")
    assert (code, rows["drain"][0]) == ((1, "FAILED") if fault else (0, "ok"))
    trainings = [call for call in cluster.calls if call.startswith("sightline models train")]
    assert len(trainings) == 2
    order = [cluster.calls.index(trainings[1]), *cluster.order("kubectl drain node-7", "kubectl uncordon node-7")]
    assert order == sorted(order)


def test_a_critical_alert_fails_and_a_warning_is_told(cluster: Cluster) -> None:
    cluster.alerts(SightlineModelLoadSlow="warning")
    code, rows = cluster.verify("--alerts", "http://prometheus:9090")
    assert (code, rows["alerts"]) == (0, ("ok", "firing: SightlineModelLoadSlow (warning)"))
    cluster.alerts(SightlineServiceDown="critical")
    code, rows = cluster.verify("--alerts", "http://prometheus:9090")
    assert (code, rows["alerts"]) == (1, ("FAILED", "firing: SightlineServiceDown (critical)"))


def test_options_leave_out_what_they_say(cluster: Cluster) -> None:
    code, rows = cluster.verify("--no-apply", "--no-kill", "--keep")
    assert code == 0
    skipped = {name: detail for name, (outcome, detail) in rows.items() if outcome == "skipped"}
    assert skipped == {
        "apply": "--no-apply",
        "kill": "--no-kill",
        "clear": "--keep",
        "upgrade": "no --chart to upgrade",
        "rollback": "no --chart to roll back",
        "drain": "no --drain NODE",
        "alerts": "no --alerts URL",
    }
    assert not [call for call in cluster.calls if call.startswith(("kubectl apply -k", "kubectl delete"))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--overlay is missing"),
        (("--overlay", "/nowhere"), "/nowhere does not exist"),
        (("--colour",), "--colour is not an option"),
        (("--coco",), "--coco needs a value"),
    ],
)
def test_wrong_words_are_refused_before_anything_happens(words: tuple[str, ...], said: str) -> None:
    done = subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
