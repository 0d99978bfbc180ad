"""Reading and checking large COCO files, against `json.load` and pycocotools' `COCO(file)` of the same file.

`python bench/bench_coco.py [--images N ...]`. By default: classification files of 1,000 to 1,000,000 images with one
annotation each, and a detection file of a fifth of the images with ten boxes each. Each measurement is a process of its
own: CPU seconds, and memory beyond that of the imports. What the dataset worker does includes every check of the file,
and cutting it into chunks of work, all in a folder.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from pycocotools.coco import COCO

from bench import support
from services.dataset.context import WorkerContext
from services.dataset.domain import DatasetRecord
from services.dataset.findings import FindingLog
from services.dataset.plan import Reading, make_plan
from services.dataset.settings import DatasetSettings
from services.infra.files import FolderBlobs
from services.vision.snapshot import AnnotationKind

CATEGORIES = 100
GOALS = "goals: 0.4 of json.load's CPU, 0.25 of pycocotools' memory"


def main() -> None:
    """Prints CPU and memory of each reader, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="*", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--measure", nargs=2, metavar=("READER", "FILE"), help="used by the benchmark itself")
    given = parser.parse_args()
    if given.measure:
        measure(given.measure[0], Path(given.measure[1]))
        return
    print(f"{support.machine()}; {GOALS}")
    with tempfile.TemporaryDirectory() as scratch:
        for count, boxes in [*((count, 0) for count in given.images), (max(given.images) // 5, 10)]:
            kind = AnnotationKind.OBJECT_DETECTION if boxes else AnnotationKind.IMAGE_CLASSIFICATION
            file = Path(scratch) / "uploads" / "u" / f"{kind}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, count, boxes)
            compare(file, f"{count:,} images, {boxes * count or count:,} {'boxes' if boxes else 'labels'}")


def write(file: Path, count: int, boxes: int) -> None:
    """A COCO file; with no boxes, one label for each image."""
    rng = random.Random(0)
    images = [{"id": i, "width": 640, "height": 480, "file_name": f"images/{i:08}.jpg"} for i in range(1, count + 1)]
    annotations: list[dict[str, object]] = []
    for image in images:
        for _ in range(boxes or 1):
            entry: dict[str, object] = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": rng.randint(1, CATEGORIES),
            }
            if boxes:
                box = [rng.randint(0, 500), rng.randint(0, 350), rng.randint(5, 140), rng.randint(5, 130)]
                entry |= {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append(entry)
    categories = [{"id": i, "name": f"category {i}"} for i in range(1, CATEGORIES + 1)]
    with file.open("w") as target:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, target)


def compare(file: Path, title: str) -> None:
    """Measures every reader on the file."""
    found: dict[str, tuple[float, float]] = {}
    for reader in READERS:
        command = [sys.executable, __file__, "--measure", reader, str(file)]
        cpu, memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
        found[reader] = float(cpu), float(memory)
    us, them, tool = (found[reader] for reader in READERS)
    print(f"{title}, {file.stat().st_size / 2**20:.0f} MiB")
    print(f"  CPU: {us[0]:.2f} s, json.load {them[0]:.2f}, pycocotools {tool[0]:.2f}; ratio {us[0] / them[0]:.2f}")
    print(f"  MiB: {us[1]:.0f}, json.load {them[1]:.0f}, pycocotools {tool[1]:.0f}; ratio {us[1] / tool[1]:.2f}")


def measure(reader: str, file: Path) -> None:
    """Prints the CPU seconds and the MiB that reading takes."""
    before, start = _peak_mib(), time.process_time()
    READERS[reader](file)
    print(time.process_time() - start, _peak_mib() - before)


def ours(file: Path) -> None:
    """What the dataset worker does with the file."""
    store, kind = file.parent.parent.parent, AnnotationKind[file.stem]
    key, now, unused = f"uploads/u/{file.name}", datetime.now(UTC), cast("Any", None)
    record = DatasetRecord("datasets/d", "u", kind, (f"s3://sightline/{key}",), now, now)

    async def plan() -> None:
        settings, blobs = DatasetSettings(scratch_directory=file.parent), FolderBlobs(store)
        with ThreadPoolExecutor(1) as executor:
            context = WorkerContext(unused, blobs, unused, unused, unused, executor, unused, unused, unused, "bench")
            await make_plan(context, settings, record, Reading(FindingLog(settings.findings_per_code)))

    asyncio.run(plan())


def plain(file: Path) -> None:
    """The standard library."""
    with file.open() as source:
        json.load(source)


def tools(file: Path) -> None:
    """What most training scripts use."""
    COCO(str(file))


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


READERS = {"ours": ours, "json": plain, "pycocotools": tools}

if __name__ == "__main__":
    main()
