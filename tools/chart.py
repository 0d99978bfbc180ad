"""Writes the templates of the Helm charts from the manifests of deploy/k8s; with --check, compares them.

kustomize renders base alone and with components. What is only in some of these renderings, a resource, a key or an item
of a list, gets the condition that tells those from the others; tools/chart_values.py says which texts are values of the
chart. What only the chart has, such as node selectors, is in templates/_helpers.tpl, written by hand like values.yaml.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from itertools import combinations, groupby, product
from pathlib import Path
from typing import Any

import yaml

from tools.chart_values import ADDED, BLOCKS, CHANGED_BY, CONDITIONS, DEFINED, KEYS, NEEDS, TEXTS

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "deploy/k8s"
CHART = ROOT / "deploy/helm/sightline"
CLUSTER_CHART = ROOT / "deploy/helm/sightline-cluster"
BY_HAND = {"_helpers.tpl", "NOTES.txt", "operator-namespaces.yaml"}
HEAD = "{{/* Made from deploy/k8s by `make manifests`: change the manifests or tools/chart_values.py instead. */ -}}\n"
NAMESPACE = "release-namespace"  # in renderings, and nowhere else
GENERATED_NAME = re.compile(r"\b(sightline-settings|nats-config|seaweedfs)-[a-z0-9]{10}\b")

Rendering = frozenset[str]  # the components beside base
Variants = Mapping[Rendering, Any]  # a value in each rendering that has it


class Ambiguous(Exception):
    """Renderings that no condition tells from the others; says which, and where."""


def main() -> int:
    """Write what differs, and remove what is no more; with --check, name it and return 1."""
    made = files()
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    kept = {*made, *(CHART / "templates" / name for name in BY_HAND)}
    stale += [path for chart in (CHART, CLUSTER_CHART) for path in chart.glob("templates/*") if path not in kept]
    for path in stale:
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is out of date: run `make manifests`")
        elif path in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path])
        else:
            path.unlink()
    return 1 if stale and "--check" in sys.argv[1:] else 0


def files() -> dict[Path, str]:
    """What both charts have from elsewhere, by path."""
    copies = {
        "files/rules.yaml": ROOT / "deploy/prometheus/rules.yaml",
        "files/sightline.json": ROOT / "deploy/grafana/sightline.json",
    }
    made = {CHART / "templates" / name: HEAD + text for name, text in templates(rendered()).items()}
    made |= {CHART / name: path.read_text() for name, path in copies.items()}
    return made | {CLUSTER_CHART / "templates" / name: HEAD + text for name, text in cluster_templates().items()}


def rendered() -> dict[Rendering, list[Any]]:
    """The resources of base, of base with each component, and of the pairs in CHANGED_BY."""
    wanted = {frozenset[str](), *(_needed(one) for one in CONDITIONS)}
    wanted |= {_needed(one) | _needed(other) for one, others in CHANGED_BY.items() for other in others}
    with tempfile.TemporaryDirectory(prefix="chart-") as folder, ThreadPoolExecutor(2) as pool:
        copy = shutil.copytree(K8S, Path(folder) / "k8s")
        ordered = sorted(wanted, key=sorted)
        return dict(zip(ordered, pool.map(lambda one: _resources(copy, one), ordered), strict=True))


def _needed(component: str) -> Rendering:
    return frozenset({component}) | (_needed(NEEDS[component]) if component in NEEDS else frozenset())


def _resources(copy: Path, components: Rendering) -> list[Any]:
    brought = {name for one in components for name in _brought(one)}
    chosen = [one for one in CONDITIONS if one in components - brought]
    overlay = copy / "overlays" / "-".join(["made", *chosen])
    overlay.mkdir()
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": NAMESPACE}
    parts = {"resources": ["../../base"], "components": [f"../../components/{one}" for one in chosen]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(head | parts | {"transformers": ["../../namespace"]}))
    return _loaded(GENERATED_NAME.sub(r"\1", kustomized(overlay)))


def _brought(component: str) -> list[str]:
    """The components that a component has itself."""
    (file,) = _loaded((K8S / "components" / component / "kustomization.yaml").read_text())
    return [Path(one).name for one in file.get("components", [])]


def _loaded(text: str) -> list[Any]:
    return list(yaml.load_all(text, yaml.CSafeLoader))  # safe, and ten times as fast as in Python


def kustomized(folder: Path) -> str:
    """The output of `kubectl kustomize`; RuntimeError with its message if it fails."""
    program = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def cluster_templates() -> dict[str, str]:
    """What belongs to the cluster; `helm uninstall` keeps definitions, and so the resources of all teams."""
    made: dict[str, str] = {}
    for resource in [one for folder in ("crds", "priority-classes") for one in _loaded(kustomized(K8S / folder))]:
        head, kind = resource["metadata"], resource["kind"]
        head["labels"]["app.kubernetes.io/managed-by"] = "{{ .Release.Service }}"
        if kind == "CustomResourceDefinition":
            head.setdefault("annotations", {})["helm.sh/resource-policy"] = "keep"
        name = "priority-classes" if kind == "PriorityClass" else head["name"].removesuffix(".sightline.dev")
        text = yaml.safe_dump(resource, sort_keys=False, width=120)
        made[f"{name}.yaml"] = f"{made.get(f'{name}.yaml', '')}---\n{text}"
    return made


def templates(renderings: Mapping[Rendering, list[Any]]) -> dict[str, str]:
    """The chart's templates by file name."""
    found: dict[str, dict[Rendering, Any]] = {}
    for rendering, resources in renderings.items():
        for resource in map(_prepared, resources):
            title = f"{resource['kind']}/{resource['metadata']['name']}".replace(NAMESPACE, "{{ .Release.Namespace }}")
            found.setdefault(title, {})[rendering] = resource
    parts: dict[str, list[tuple[str, list[str]]]] = {}
    for title, variants in sorted(found.items()):
        part = condition(title, variants, renderings), ["---", *block(title, variants, 0)]
        parts.setdefault(_file(title, variants), []).append(part)
    made = {name: "".join(f"{line}\n" for line in guarded(of_file)) for name, of_file in parts.items()}
    for title, key in DEFINED.items():
        name, file = title.partition("/")[2], _file(title, found[title])
        defined = block(f"{title}/generated", _of_key(found[title], key), 0)
        head = f'{{{{- define "sightline.generated.{name}" -}}}}'
        made[file] = "\n".join([head, *defined, "{{- end }}", made[file]])
    return made


def _file(title: str, variants: Variants) -> str:
    """Where a resource is: with its workload, or with others of its kind."""
    kind, name = title.split("/", 1)
    by_kind = {"NetworkPolicy": "network-policies", "ServiceAccount": "service-accounts"}
    by_kind |= dict.fromkeys(("ServiceMonitor", "PodMonitor", "PrometheusRule"), "monitoring")
    by_kind |= dict.fromkeys(("Certificate", "Issuer"), "certificates")
    by_kind |= dict.fromkeys(("ClusterQueue", "LocalQueue", "ResourceFlavor"), "kueue")
    by_name = {"sightline-dashboards": "monitoring", "sightline-operator": "operator"}
    labels = next(iter(variants.values()))["metadata"]["labels"]
    return (by_name.get(name) or by_kind.get(kind) or labels.get("app.kubernetes.io/name") or name) + ".yaml"


def _prepared(resource: Any) -> Any:
    """The resource with what the chart adds to every one: labels, and digests that restart pods of other settings.

    A finished Job stays, as Helm would wait for it in vain if it were gone; each revision has one of another name.
    """
    resource["metadata"]["labels"] |= {
        "helm.sh/chart": '{{ include "sightline.chart" . }}',
        "app.kubernetes.io/instance": "{{ .Release.Name }}",
    }
    spec = resource.get("spec", {})
    spec.pop("ttlSecondsAfterFinished", None)
    template = spec.get("template") or spec.get("jobTargetRef", {}).get("template")
    if template:
        pod = template["spec"]
        pod.pop("tolerations", None)  # with those of values, in _helpers.tpl
        annotations = template["metadata"].setdefault("annotations", {})
        for source in [source for one in pod["containers"] for source in one.get("envFrom", [])]:
            annotations[f"checksum/{source['configMapRef']['name'].removeprefix('sightline-')}"] = ""
        if any("configMap" in one for one in pod["volumes"]):
            annotations["checksum/nats-config"] = ""
        if not annotations:
            del template["metadata"]["annotations"]
    return resource


def block(path: str, variants: Variants, indent: int) -> list[str]:
    """The lines of a map or a list, as the renderings have it."""
    if text := _matching(BLOCKS, path):
        return _filled(text, path, indent).splitlines()
    a_map = isinstance(next(iter(variants.values())), dict)
    parts = list(_entries(path, variants, indent) if a_map else _items(path, variants, indent))
    if text := _matching(ADDED, path):
        parts.append(("", _filled(text, path, indent).splitlines()))
    return guarded(parts)


def _entries(path: str, variants: Variants, indent: int) -> Iterator[tuple[str, list[str]]]:
    for key in sorted(_union(variants.values()), key=lambda key: key != "name"):
        present, place = _of_key(variants, key), f"{path}/{key}"
        name = KEYS.get(key) or _scalar(key)
        yield condition(place, present, variants), _valued(f"{name}:", place, present, indent)


def _items(path: str, variants: Variants, indent: int) -> Iterator[tuple[str, list[str]]]:
    named = {rendering: {_identity(item): item for item in items} for rendering, items in variants.items()}
    for name in _union(named.values()):
        present, place = _of_key(named, name), f"{path}/{name}"
        if isinstance(next(iter(present.values())), dict):
            first, *rest = block(place, present, indent + 2)
            lines = [f"- {first}", *(f"  {line}" for line in rest)]
        else:
            lines = _valued("-", place, present, indent)
        yield condition(place, present, named), lines


def _identity(item: Any) -> str:
    """What tells an item from the others in its list."""
    if not isinstance(item, dict):
        return str(item)
    name = item.get("mountPath") or item.get("name") or item.get("metadata", {}).get("name")
    return str(name or json.dumps(item))


def _valued(key: str, path: str, variants: Variants, indent: int) -> list[str]:
    """A key with its value; alternatives if renderings differ in a text."""
    if all(isinstance(value, dict | list) and value for value in variants.values()):
        return [key, *(f"  {line}" for line in block(path, variants, indent + 2))]
    texts = {rendering: _text(path, value) for rendering, value in variants.items()}
    groups = {text: {one: text for one in texts if texts[one] == text} for text in dict.fromkeys(texts.values())}
    parts = [(condition(path, group, texts), f"{key} {text}".splitlines()) for text, group in groups.items()]
    return guarded(parts)


def _text(path: str, value: Any) -> str:
    """A scalar as YAML, or the value of the chart in its place."""
    if text := _matching(TEXTS, path):
        return _filled(text, path, 0, value)
    if isinstance(value, str) and value.startswith("{{"):
        return value
    if not isinstance(value, str) or "\n" not in value:
        return _scalar(value).replace(NAMESPACE, "{{ .Release.Namespace }}")
    head = "|" if value.endswith("\n") else "|-"
    return "\n".join([head, *(f"  {line}".rstrip() for line in value.splitlines())])


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, width=10**9).removesuffix("...\n").strip()
    if "{{" in text:
        raise ValueError(f"{text}: Helm would take this for a template; put it into files/")
    return text


def _matching(table: Mapping[str, str], path: str) -> str | None:
    return next((text for pattern, text in table.items() if fnmatchcase(path, pattern)), None)


def _filled(text: str, path: str, indent: int, value: Any = "") -> str:
    name = path.split("/")[1]
    named = str(value).partition(":")[0].rpartition("/")[2].removeprefix("sightline-")
    words = {"key": camel(name), "name": name, "item": path.rpartition("/")[2], "value": str(value)}
    words |= {"named": camel(named), "indent": str(indent)}
    return re.sub(r"<(\w+)>", lambda found: words[found[1]], text)


def camel(name: str) -> str:
    """`dataset-api` as `datasetApi`."""
    first, *rest = name.split("-")
    return first + "".join(map(str.title, rest))


def condition(path: str, present: Collection[Rendering], within: Collection[Rendering]) -> str:
    """What holds in the renderings that are present, and in no others; empty if that is all. Ambiguous."""
    if set(present) == set(within):
        return ""
    for count, word, joined in ((1, "", all), (2, "and", all), (2, "or", any)):
        for names, signs in product(combinations(CONDITIONS, count), product((True, False), repeat=count)):
            literals = dict(zip(names, signs, strict=True))
            chosen = {one for one in within if joined((name in one) is sign for name, sign in literals.items())}
            if chosen == set(present):
                return _expression(word, literals)
    raise Ambiguous(f"{path}: only in {[sorted(one) for one in present]}")


def _expression(word: str, literals: Mapping[str, bool]) -> str:
    texts = [CONDITIONS[name] if sign else _opposite(CONDITIONS[name]) for name, sign in literals.items()]
    if len(texts) == 1:
        return texts[0]
    return f"{word} " + " ".join(f"({text})" if " " in text and not text.startswith("(") else text for text in texts)


def guarded(parts: Iterable[tuple[str, list[str]]]) -> list[str]:
    """The lines, neighbours of the same condition within one `if`, and opposites as its `else`."""
    made: list[str] = []
    for text, group in groupby(parts, key=lambda part: part[0]):
        lines = [line for _, lines in group for line in lines]
        if not text:
            made += lines
        elif made and made[-1] == "{{- end }}" and text == _opposite(_opened(made)):
            made[-1:] = ["{{- else }}", *lines, "{{- end }}"]
        else:
            made += [f"{{{{- if {text} }}}}", *lines, "{{- end }}"]
    return made


def _opened(lines: list[str]) -> str:
    """The condition of the last unindented block, if that is an `if` without an `else`."""
    head = next(line for line in reversed(lines[:-1]) if line.startswith("{{- ") and line != "{{- end }}")
    return head.removeprefix("{{- if ").removesuffix(" }}") if head.startswith("{{- if ") else ""


def _opposite(text: str) -> str:
    if text.startswith(("(eq ", "(ne ")):
        return {"(eq": "(ne", "(ne": "(eq"}[text[:3]] + text[3:]
    return text.removeprefix("not ") if text.startswith("not ") else f"not {text}"


def _union(maps: Iterable[Mapping[str, Any]]) -> list[str]:
    """All keys, each after what precedes it in its own map."""
    made: list[str] = []
    for keys in map(list, maps):
        for index, key in enumerate(keys):
            if key not in made:
                made.insert(made.index(keys[index - 1]) + 1 if index else 0, key)
    return made


def _of_key(variants: Variants, key: str) -> dict[Rendering, Any]:
    return {rendering: value[key] for rendering, value in variants.items() if key in value}


if __name__ == "__main__":
    sys.exit(main())
