"""Reads an export that was sent to the studio, in a process of its own: `python -m services.gateway.studio.reading`.

Files from callers are parsed here, where they can neither exhaust the gateway nor read what is not in their folder.
"""

import json
import os
import resource
import sys
from collections.abc import Collection, Mapping, Sequence
from errno import EPERM
from pathlib import Path
from typing import Any

from services.kit import landlock
from sightline.importers.coco_merge import merged
from sightline.importers.files import read_json, subfolders
from sightline.importers.image_files import ImagesUnresolved
from sightline.importers.model import BoxForm, Format, ImportFault, objects, split_of
from sightline.importers.package import Package, pack
from sightline.importers.read import read

ADDRESS_BYTES = 1024**3
CPU_SECONDS = 60
ANSWER_BYTES = 256 * 1024**2
LISTED = 50  # faults
CODE = (".py", ".pyc", ".so")
Json = dict[str, Any]


def main() -> None:
    """Answers the order on standard input, a JSON object, with another one on standard output."""
    order = json.load(sys.stdin)
    folder = Path(os.path.realpath(order["folder"]))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    confine(folder)
    try:
        answer = json.dumps(answered(order, folder), ensure_ascii=True)
    except (MemoryError, RecursionError):
        answer = ""
    if not answer or len(answer) > ANSWER_BYTES:
        answer = json.dumps({"problem": {"reason": "too_large"}})
    sys.stdout.write(answer)


def confine(folder: Path) -> None:
    """From now on, only files below the folder and Python's own modules are opened, whatever an export names.

    Landlock keeps libraries to that, too, and from the network; the hook's error is the one that names the file.
    """
    modules = [os.path.realpath(path) for path in sys.path if path]

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.listdir", "os.scandir") or isinstance(arguments[0], int):
            return
        path = Path(os.path.realpath(os.fsdecode(arguments[0] or ".")))
        is_module = any(map(path.is_relative_to, modules)) and (event != "open" or path.suffix in CODE)
        if not path.is_relative_to(folder) and not is_module:
            raise PermissionError(EPERM, "it is not among the files that were sent", str(path))

    landlock.keep_to([folder], [], network=False)
    sys.addaudithook(check)


def answered(order: Mapping[str, Any], folder: Path) -> Json:
    """What was understood; or `problem`, what is wrong with the export, in the importers' words."""
    source = top_of(folder)
    try:
        form = Format(order["form"]) if order.get("form") else None
        imported = read(source, form=form)
        splits = imported.splits
        if order.get("splits"):
            imported = imported.only(order["splits"])
        package = pack(imported, boxes=BoxForm(order["boxes"]) if order.get("boxes") else None)
        return understood(package, folder, order["max_image_bytes"]) | {"splits": splits}
    except ImagesUnresolved as error:
        faults = [f"{image.name}: {image.problem}" for image in error.images]
        return _problem(folder, order["name"], error.message, faults, "", reason="images")
    except ImportFault as error:
        return _problem(folder, order["name"], error.message, error.faults, error.fix)


def top_of(folder: Path) -> Path:
    """The innermost folder that has everything: archives often hold one folder with all else."""
    while True:
        below = list(folder.iterdir())
        if len(below) != 1 or subfolders(folder) != below or split_of(below[0].name):
            return folder
        folder = below[0]


def understood(package: Package, folder: Path, max_image_bytes: int) -> Json:
    """What to upload, by the paths in the folder, and what it is."""
    imported = package.imported
    files = {one.path: one.file for one in package.included}
    large = {path for path, file in files.items() if file.stat().st_size > max_image_bytes}
    return {
        "format": imported.format.value,
        "kind": "detection" if imported.detection else "classification",
        "images": [[_within(folder, file), path] for path, file in files.items() if path not in large],
        "large": [_within(folder, files[path]) for path in large],
        "max_image_bytes": max_image_bytes,
        "annotations": _annotations(folder, package, large),
        "categories": [[name, *counts] for name, counts in imported.counts.items() if counts[1]],
        "unlabelled": sum(not image.labels and not image.boxes for image in imported.images),
        "unused": [] if imported.documents else [name for name, counts in imported.counts.items() if not counts[1]],
        "notes": imported.notes,
    }


def _annotations(folder: Path, package: Package, left_out: Collection[str]) -> Json:
    """The COCO file to upload: its content, or which file it is.

    It is one, with numbers as ids, because the studio corrects labels in no others.
    """
    files, documents = package.annotation_files(left_out), package.imported.documents
    one, entries = files[0], [entry for document in documents for entry in objects(document.content.get("images"))]
    if len(files) > 1 or not all(_is_id(entry.get("id")) for entry in entries):
        contents = (json.loads(file.content) if file.content else read_json(file.file or folder) for file in files)
        return {"path": "annotations.json", "content": json.dumps(merged(contents), ensure_ascii=False)}
    if one.content is None:
        return {"path": one.path, "file": _within(folder, one.file or package.imported.source)}
    return {"path": one.path, "content": one.content.decode("utf-8", "surrogatepass")}


def _is_id(value: object) -> bool:
    return type(value) is int and value >= 0


def _within(folder: Path, file: Path) -> str:
    """The path below the folder; ImportFault if the export names a file elsewhere."""
    path = Path(os.path.normpath(file))  # there are no links below the folder
    if not path.is_relative_to(folder):
        raise ImportFault(f"{file} is not among the files that were sent")
    return path.relative_to(folder).as_posix()


def _problem(folder: Path, name: str, message: str, faults: Sequence[str], fix: str, reason: str = "") -> Json:
    def said(text: str) -> str:
        return text.replace(f"{folder}/", "").replace(str(folder), name)

    listed = [said(fault) for fault in faults]
    more = max(0, len(listed) - LISTED)
    return {
        "problem": {
            "message": said(message),
            "faults": listed[:LISTED],
            "more": more,
            "fix": said(fix),
            "reason": reason,
        }
    }


if __name__ == "__main__":
    main()
