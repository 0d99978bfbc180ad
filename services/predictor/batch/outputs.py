"""Writes the result files, in the order of the images; they depend on the record and its chunks' results alone."""

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from services.kit.blobs import Blobs
from services.predictor.batch import blobs as stored
from services.predictor.batch.blobs import Category, Found, ImageResult
from services.predictor.batch.domain import BatchRecord, Output

NAMES = RESULTS, IMAGES, FAILURES, LINES = "results.json", "images.json", "failures.json", "results.jsonl"
Entry = dict[str, Any]  # of a JSON file


async def write_outputs(blobs: Blobs, record: BatchRecord) -> tuple[Output, ...]:
    """Stores the files with the results of all finished chunks, in bounded memory; none before there is a plan.

    Repeating it, even by two workers at once, writes the same bytes.
    """
    if record.plan is None:
        return ()
    plan = await stored.get_plan(blobs, record.plan.prefix)
    with tempfile.TemporaryDirectory(prefix="sightline-batch-") as folder:
        files = _Files(Path(folder), plan.categories)
        try:
            for number in sorted(record.results):
                results = await stored.get_results(blobs, record, number)
                await asyncio.to_thread(files.add, results)
        finally:
            digests = files.close()
        outputs = list[Output]()
        for name, (size_bytes, sha256) in digests.items():
            await blobs.put_file(record.output + name, Path(folder) / name)
            outputs.append(Output(name, record.output + name, size_bytes, sha256))
    return tuple(outputs)


class _Files:
    """The four files, which grow as results are added."""

    def __init__(self, folder: Path, categories: Sequence[Category]) -> None:
        self._categories = categories
        named = ", ".join(_json({"id": one.id, "name": one.name}) for one in categories)
        self._files = {
            RESULTS: _Digested(folder / RESULTS, "[", "]\n"),
            IMAGES: _Digested(folder / IMAGES, f'{{"categories": [{named}], "images": [', "]}\n"),
            FAILURES: _Digested(folder / FAILURES, "[", "]\n"),
            LINES: _Digested(folder / LINES, "", "", between=""),
        }

    def add(self, results: Iterable[ImageResult]) -> None:
        """Appends the results."""
        for one in results:
            image: Entry = {"id": one.image_id, "file_name": one.file_name}
            image |= {"uri": one.uri} if one.uri else {}
            if one.reason:
                error = {"reason": one.reason, "message": one.message}
                self._files[FAILURES].add(_json({"image_id": one.image_id, **_without_id(image), **error}))
                self._files[LINES].add(_json({**image, "error": error}))
                continue
            image |= {"width": one.width, "height": one.height}
            self._files[IMAGES].add(_json(image))
            for found in one.found:
                self._files[RESULTS].add(_json({"image_id": one.image_id, **self._entry(found)}))
            named = [{**self._entry(found), "name": self._categories[found.label].name} for found in one.found]
            self._files[LINES].add(_json({**image, "results": named}))

    def _entry(self, found: Found) -> Entry:
        """A result as COCO has it; a classifier's has no box."""
        box = {"bbox": list(found.box)} if found.box else {}
        return {"category_id": self._categories[found.label].id, **box, "score": found.score}

    def close(self) -> dict[str, tuple[int, str]]:
        """Ends the files; size and digest of each."""
        return {name: file.close() for name, file in self._files.items()}


class _Digested:
    """A file of entries, a line each, and its digest."""

    def __init__(self, path: Path, head: str, tail: str, between: str = ",") -> None:
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0
        self._tail, self._between, self._empty = tail, between, True
        self._write(head)

    def add(self, entry: str) -> None:
        """Appends an entry."""
        first = "\n" if self._between else ""
        self._write((first if self._empty else f"{self._between}\n") + entry)
        self._empty = False

    def close(self) -> tuple[int, str]:
        """Ends the file; its size and digest."""
        self._write(("" if self._empty else "\n") + self._tail)
        self._file.close()
        return self._size, self._digest.hexdigest()

    def _write(self, text: str) -> None:
        data = text.encode()
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


def _without_id(image: Entry) -> Entry:
    return {key: value for key, value in image.items() if key != "id"}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
