"""The archive of an exported model: the same files give the same bytes."""

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL

from services.vision.exports import predict
from services.vision.exports.formats import ExportFormat
from sightline.images import upright

_MOMENT = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can name
_MODE = 0o644 << 16
_PACKAGE = '"""A part of Sightline (Apache-2.0): how image files are decoded."""\n'


def write(path: Path, folder: Path) -> None:
    """Stores the folder's files, uncompressed and by name."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _MOMENT)
            entry.external_attr, entry.file_size = _MODE, file.stat().st_size
            with file.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def add_script(folder: Path, form: ExportFormat, version: str) -> None:
    """Adds the script that predicts, the modules with which it decodes images, and what to install for it."""
    shutil.copyfile(Path(predict.__file__), folder / "predict.py")
    modules = folder / "sightline" / "images"
    modules.mkdir(parents=True)
    (modules.parent / "__init__.py").write_text(_PACKAGE)
    for module in _modules():
        shutil.copyfile(module, modules / module.name)
    needed = (f"{form.needs}=={version}", f"numpy=={np.__version__}", f"pillow=={PIL.__version__}")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in needed))


def _modules() -> Iterable[Path]:
    """The files of `sightline.images`, which needs Pillow only."""
    return sorted(Path(upright.__file__).parent.glob("*.py"))
