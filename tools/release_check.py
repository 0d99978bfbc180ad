"""Check that this tree can be released as the version that pyproject.toml states."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools import wheels

ROOT = wheels.ROOT
BUF = ROOT / "node_modules/.bin/buf"
LOCK = ROOT / "protos/lock.binpb"
FIXTURES = "tests/fixtures/releases"
IMAGES = r"- name: sightline-[\w-]+\n +newTag: (\S+)"
# Other files that state the version, and how.
STATED = {
    "package.json": r'^  "version": "(.*)"',
    "package-lock.json": r'^  "version": "(.*)"',
    "deploy/Dockerfile": r"(?:sightline-[\w-]+:|^ARG VERSION=)([\w.]+)",
    "deploy/compose.yaml": r"image: sightline-[\w-]+:(\S+)",
    **{
        file.relative_to(ROOT).as_posix(): IMAGES
        for file in sorted((ROOT / "deploy/k8s").rglob("kustomization.yaml"))
        if re.search(IMAGES, file.read_text())
    },
    "deploy/helm/sightline/Chart.yaml": r"^(?:version|appVersion): (\S+)",
    "deploy/helm/sightline/values.yaml": r"repository: sightline-[\w-]+, tag: ([^,]+)",
    "deploy/helm/sightline-cluster/Chart.yaml": r"^(?:version|appVersion): (\S+)",
    "docs/kubernetes.md": r"sightline-\$\w+:([\w.]+)",
}


def main() -> int:
    """Print one line per fault; return 1 if there is any."""
    version = wheels.version()
    faults = [
        *versions(ROOT, version),
        *fixtures(ROOT, version),
        *changelog((ROOT / "CHANGELOG.md").read_text(), version),
        *contract(),
        *built(),
    ]
    print("\n".join(faults) or f"{version} can be released")
    return 1 if faults else 0


def versions(root: Path, version: str) -> Iterator[str]:
    """Where the version differs from pyproject.toml's, or is not one that a release may have."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield f"pyproject.toml: {version} is not MAJOR.MINOR.PATCH"
    for name, pattern in STATED.items():
        stated = set(re.findall(pattern, (root / name).read_text(), re.MULTILINE))
        yield from (f"{name}: says {other}, pyproject.toml says {version}" for other in sorted(stated - {version}))
        if not stated:
            yield f"{name}: does not state the version where tools/release_check.py looks for it"


def fixtures(root: Path, version: str) -> Iterator[str]:
    """Whether later releases can test that they read what this one stores."""
    if not (root / FIXTURES / version).is_dir():
        yield f"{FIXTURES}/{version}: is missing; run `python -m tests.releases`, and commit what it makes"


def changelog(text: str, version: str) -> Iterator[str]:
    """What is missing for the changelog's newest dated section to be this version's."""
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    released = [section for section in sections if not section.startswith("[Unreleased]")]
    heading = rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n"
    if not released or not re.match(heading, released[0]):
        yield f"CHANGELOG.md: give [Unreleased] the heading `## [{version}] - YYYY-MM-DD` and start a new one above it"
    elif "\n- " not in released[0]:
        yield f"CHANGELOG.md: says nothing of {version}"


def contract() -> Iterator[str]:
    """How the protos differ from what protos/lock.binpb promises to callers."""
    kept = subprocess.run([BUF, "breaking", "protos", "--against", LOCK], cwd=ROOT, capture_output=True, check=False)
    if kept.returncode:
        yield f"protos: incompatible with callers: {kept.stdout.decode().strip()}{kept.stderr.decode().strip()}"
    build = [BUF, "build", "protos", "--exclude-source-info", "-o", "-"]
    if subprocess.run(build, cwd=ROOT, capture_output=True, check=True).stdout != LOCK.read_bytes():
        yield "protos/lock.binpb: does not have the latest additions to the protos: run `make proto-lock`"


def built() -> Iterator[str]:
    """What is wrong with the wheels."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield from wheels.check(*wheels.build(Path(folder)))
        except RuntimeError as error:
            yield str(error)


if __name__ == "__main__":
    sys.exit(main())
