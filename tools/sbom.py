"""Write a software bill of materials of each image (CycloneDX 1.6) into a folder: `python -m tools.sbom FOLDER`.

It lists the Python packages that the image's extras install, with the versions and hashes of constraints.txt, by the
metadata of the running environment, which must have those versions. What the base image has, its own says.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Mapping
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
# The extras of `sightline-services` in each target of deploy/Dockerfile.
IMAGES = {
    "dataset": ("tracing",),
    "trainer-api": ("tracing",),
    "gateway": ("tracing",),
    "operator": ("operator", "tracing"),
    "predictor": ("serve", "tracing"),
    "predictor-torch": ("torch", "tracing"),
    "trainer-worker": ("torch", "tracing"),
}
OURS = ("sightline", "sightline-services")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)[^\n]*\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)*)", re.MULTILINE)

Graph = dict[str, set[str]]
Locked = Mapping[str, tuple[str, tuple[str, ...]]]


class NotLocked(Exception):
    """The environment differs from constraints.txt."""


def main() -> int:
    """Write the files; return 1 if the environment is not the locked one."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    pins = locked((ROOT / "constraints.txt").read_text())
    try:
        for image, extras in IMAGES.items():
            path = folder / f"{image}.cdx.json"
            path.write_text(json.dumps(bill(image, installed(*extras), pins), indent=1) + "\n")
            print(path)
    except NotLocked as error:
        print(error)
        return 1
    return 0


def locked(text: str) -> Locked:
    """Version and hashes of each package in the lock."""
    found = {}
    for name, version, hashes in _PIN.findall(text):
        found[normal(name)] = version, tuple(re.findall(r"sha256:([0-9a-f]{64})", hashes))
    return found


def normal(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(*extras: str) -> Graph:
    """What `sightline-services[extras]` needs on this platform, and what each of these needs."""
    graph: Graph = {}
    waiting = [("sightline-services", extra) for extra in ("", *extras)]
    seen = set[tuple[str, str]]()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        needs = graph.setdefault(name, set())
        for requirement in map(Requirement, metadata.distribution(name).requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                needs.add(normal(requirement.name))
                waiting += [(normal(requirement.name), other) for other in ("", *sorted(requirement.extras))]
    return graph


def bill(image: str, graph: Graph, pins: Locked) -> dict[str, Any]:
    """The document, the same for the same packages; NotLocked."""
    components = [component(name, pins) for name in sorted(graph)]
    refs = {one["name"]: one["bom-ref"] for one in components}
    top = {
        "type": "container",
        "bom-ref": image,
        "name": f"sightline-{image}",
        "version": metadata.version("sightline"),
    }
    depends = [{"ref": image, "dependsOn": [refs["sightline-services"]]}]
    depends += [{"ref": refs[name], "dependsOn": sorted(refs[one] for one in graph[name])} for name in sorted(graph)]
    content = {"metadata": {"component": top}, "components": components, "dependencies": depends}
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    return {**head, **content}


def component(name: str, pins: Locked) -> dict[str, Any]:
    """One package; NotLocked if it is not installed in the locked version."""
    found = metadata.distribution(name)
    made: dict[str, Any] = {"type": "library", "name": name, "version": found.version}
    made["purl"] = made["bom-ref"] = f"pkg:pypi/{name}@{found.version.replace('+', '%2B')}"
    described = cast("Message", found.metadata)
    if expression := described["License-Expression"]:
        made["licenses"] = [{"expression": expression}]
    elif (text := (described["License"] or "").strip()) and len(text) < 80 and "\n" not in text:
        made["licenses"] = [{"license": {"name": text}}]
    if name in OURS:
        return made
    version, hashes = pins.get(name, ("", ()))
    if found.version != version:
        raise NotLocked(
            f"{name} {found.version} is installed, and constraints.txt has {version or 'none'}: run `make setup`"
        )
    page = f"https://pypi.org/project/{name}/{version}/"
    digests = [{"alg": "SHA-256", "content": one} for one in hashes]
    return made | {"externalReferences": [{"type": "distribution", "url": page, "hashes": digests}]}


if __name__ == "__main__":
    sys.exit(main())
