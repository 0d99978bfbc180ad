"""Folders in which a process writes."""

import tempfile
from pathlib import Path


def try_writing(folder: Path | None) -> None:
    """Makes the folder if it is missing, and writes into it; OSError if that is impossible. None: nothing is tried."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
