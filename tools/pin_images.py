"""Set the images of manifests and charts to digests: `python -m tools.pin_images deploy/k8s < DIGESTS`.

DIGESTS has a line per image: its name in the manifests, and what to run instead, such as
`sightline-dataset ghcr.io/acme/sightline-dataset@sha256:...`. Every image of every kustomization and every values.yaml
below the folder must be there.
With `--list` it prints the images that have a tag instead, as `NAME REPOSITORY:TAG`. The release does both.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

LINE = re.compile(r"(\S+)\s+(\S+)@(sha256:[0-9a-f]{64})")
# An entry of a kustomization's `images`, as our files write it or as this script does.
ENTRY = re.compile(r"^(  - name: (\S+)\n)((?:    (?:newName|newTag|digest): \S+\n)+)", re.MULTILINE)

# An image of a chart's values.yaml, as ours is written.
VALUE = re.compile(r"""^(  \w+: )\{registry: "", repository: (\S+), tag: (\S+), digest: ""\}$""", re.MULTILINE)


class Unpinned(Exception):
    """An image without a digest, or a line that is none; says which."""


def main() -> int:
    """Rewrite the files; return 1, with nothing written, if an image has no digest."""
    if sys.argv[2:] == ["--list"]:
        print("\n".join(f"{name} {name}:{tag}" for name, tag in sorted(tagged(Path(sys.argv[1])).items())))
        return 0
    try:
        images = parsed(sys.stdin.read())
        for path, text in pinned(Path(sys.argv[1]), images).items():
            path.write_text(text)
            print(path)
    except Unpinned as error:
        print(error)
        return 1
    return 0


def parsed(text: str) -> dict[str, tuple[str, str]]:
    """Repository and digest by name; Unpinned."""
    found: dict[str, tuple[str, str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        match = LINE.fullmatch(line)
        if match is None:
            raise Unpinned(f"{line!r} is not `NAME REPOSITORY@sha256:...`")
        name, repository, digest = match.groups()
        if found.setdefault(name, (repository, digest)) != (repository, digest):
            raise Unpinned(f"{name} has two digests")
    return found


def tagged(folder: Path) -> dict[str, str]:
    """The tag of each image below the folder that has one."""
    text = "".join(path.read_text() for path in folder.rglob("kustomization.yaml"))
    return {name: tag for _, name, rest in ENTRY.findall(text) for tag in re.findall(r"newTag: (\S+)", rest)}


def pinned(folder: Path, images: Mapping[str, tuple[str, str]]) -> dict[Path, str]:
    """Each file below the folder that has images, with their digests; Unpinned that names all missing ones."""
    missing: set[str] = set()

    def entry(match: re.Match[str]) -> str:
        if match[2] not in images:
            missing.add(match[2])
            return match[0]
        repository, digest = images[match[2]]
        return f"{match[1]}    newName: {repository}\n    digest: {digest}\n"

    def value(match: re.Match[str]) -> str:
        if match[2] not in images:
            missing.add(match[2])
            return match[0]
        repository, digest = images[match[2]]
        first, slash, rest = repository.partition("/")
        registry, rest = (first, rest) if slash and re.search(r"[.:]", first) else ("", repository)
        return f'{match[1]}{{registry: "{registry}", repository: {rest}, tag: {match[3]}, digest: "{digest}"}}'

    made = {path: ENTRY.sub(entry, path.read_text()) for path in sorted(folder.rglob("kustomization.yaml"))}
    made |= {path: VALUE.sub(value, path.read_text()) for path in sorted(folder.rglob("values.yaml"))}
    if missing:
        raise Unpinned(f"no digest of: {', '.join(sorted(missing))}")
    return {path: text for path, text in made.items() if text != path.read_text()}


if __name__ == "__main__":
    sys.exit(main())
