"""Check the docs: the README is short, relative links work, tables have headings, every `make` task named exists."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

README_LINES = 150
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"^(?!\|).*\n(\|[-:| ]*-[-:| ]*\|)$", re.MULTILINE)  # without a heading right above its rule
TASK = re.compile(r"(?:^|[`;&$]\s*|\n\s*)make((?: +[A-Za-z][\w=-]*)+)")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)


def main() -> int:
    """Print one line per fault; return 1 if there is any."""
    root = Path(__file__).resolve().parents[1]
    faults = list(check(root, _documents(root)))
    print("\n".join(faults) or "the docs are fine")
    return 1 if faults else 0


def check(root: Path, documents: list[Path]) -> Iterator[str]:
    """The faults of these documents under `root`, each as `file: what is wrong`."""
    targets = set(TARGET.findall((root / "Makefile").read_text()))
    readme = root / "README.md"
    if not readme.exists():
        yield "README.md: is missing"
    elif (lines := len(readme.read_text().splitlines())) > README_LINES:
        yield f"README.md: has {lines} lines, at most {README_LINES} are allowed"
    for document in documents:
        text = document.read_text()
        name = document.relative_to(root)
        for link in LINK.findall(FENCE.sub("", text)):
            if fault := _broken(document, link):
                yield f"{name}: link to {link}: {fault}"
        for rule in TABLE.findall(FENCE.sub("", text)):
            yield f"{name}: the table with the rule {rule} has no heading right above it"
        for task in sorted(_tasks(text) - targets):
            yield f"{name}: names `make {task}`, which the Makefile does not have"


def _documents(root: Path) -> list[Path]:
    """Every Markdown file that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(path for name in set(listed) if (path := root / name).exists())


def _broken(document: Path, link: str) -> str | None:
    """Why a relative link is broken, or None. Links to other hosts are not checked."""
    if re.match(r"[a-z][a-z+.-]*:", link):
        return None
    path, _, anchor = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    if not target.exists():
        return "no such file"
    if anchor and target.suffix == ".md" and anchor not in _anchors(target.read_text()):
        return "no such heading"
    return None


def _anchors(text: str) -> set[str]:
    """The anchors that a forge generates for headings: lower case, no punctuation, dashes for spaces."""
    headings = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _tasks(text: str) -> set[str]:
    """The tasks of every `make ...` in code; settings such as PYTHON=python3.12 are not tasks."""
    code = "\n".join(CODE.findall(text))
    words = {word for found in TASK.findall(code) for word in found.split()}
    return {word for word in words if "=" not in word}


if __name__ == "__main__":
    sys.exit(main())
