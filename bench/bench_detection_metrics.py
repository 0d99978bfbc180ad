"""The cost of the detection metrics against pycocotools: CPU seconds and memory on the same boxes.

`python bench/bench_detection_metrics.py [--images N] [--boxes N] [--categories N] [--pairs N]`. Each measurement has
its own process, which loads the columns from a file. CPU time starts with the loaded columns; ours ends with the whole
report and its intervals, theirs covers building the COCO objects up to the accumulated precisions. Memory is the peak
resident size of the process, columns included, less that of a process that only imports the same modules.
"""

import argparse
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bench.support import machine
from services.vision.detection_matching import DetectionTable, GroundTruth
from services.vision.detection_metrics import detection_report

WIDTH, HEIGHT = 640, 480
FOUND_SHARE = 0.8  # of the truths; there are as many false detections as missed truths
CROWD_SHARE = 0.01
SIDES = ("sightline", "pycocotools")
Columns = dict[str, NDArray[Any]]


def columns(images: int, boxes: int, categories: int) -> Columns:
    """Truths, and detections, most of which are truths with slightly moved sides."""
    random = np.random.default_rng(0)
    count = images * boxes
    size = random.uniform(16, 200, (count, 2))
    corner = random.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - size)
    truths = np.hstack([corner, size])
    labels = random.integers(0, categories, count)
    found = random.random(count) < FOUND_SHARE
    moved = truths + random.normal(0, 0.08, truths.shape) * np.hstack([size, size])
    other = np.hstack([random.permutation(corner), random.permutation(size)])
    detected = np.where(found[:, None], moved, other)
    detected[:, 2:] = np.maximum(detected[:, 2:], 1)
    return {
        "images": np.repeat(np.arange(images), boxes),
        "labels": labels,
        "truths": truths,
        "crowds": random.random(count) < CROWD_SHARE,
        "found_labels": np.where(found, labels, random.integers(0, categories, count)),
        "found": detected,
        "scores": np.where(found, random.beta(4, 2, count), random.beta(2, 4, count)),
    }


def by_sightline(data: Columns, images: int, categories: int) -> list[float]:
    """The mean average precisions of the whole report."""
    report = detection_report(
        GroundTruth(data["images"], data["labels"], data["truths"], data["crowds"]),
        DetectionTable(data["images"], data["found_labels"], data["found"], data["scores"]),
        images,
        categories,
    )
    means = (report.mean_average_precision_30, report.mean_average_precision_50, report.mean_average_precision_75)
    return [mean or 0.0 for mean in means]


def by_pycocotools(data: Columns, images: int, categories: int) -> list[float]:
    """The mean average precisions, over categories with ground truth, of COCO objects built from the columns."""
    truth: Any = COCO()
    truth.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": category} for category in range(categories)],
        "annotations": [
            {"id": row, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for row, (image, label, box, crowd) in enumerate(
                zip(
                    data["images"].tolist(),
                    data["labels"].tolist(),
                    data["truths"].tolist(),
                    data["crowds"].astype(int).tolist(),
                    strict=True,
                ),
                start=1,
            )
        ],
    }
    truth.createIndex()
    rows = np.column_stack([data["images"], data["found"], data["scores"], data["found_labels"]])
    evaluation: Any = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.params.iouThrs = np.array([0.30, 0.50, 0.75])
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [100]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return [float(one[one >= 0].mean()) for one in precision]


def measure(side: str, path: Path, images: int, categories: int) -> None:
    """Prints CPU seconds, peak resident MB and the means; without images it only imports. Needs its own process."""
    means: list[float] = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    if images:
        with np.load(path) as file:
            data = {name: file[name] for name in file.files}
        before = resource.getrusage(resource.RUSAGE_SELF)
        evaluate = by_sightline if side == "sightline" else by_pycocotools
        with contextlib.redirect_stdout(io.StringIO()):
            means = evaluate(data, images, categories)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps([seconds, peak_resident_megabytes(), means]))


def peak_resident_megabytes() -> float:
    """The peak of this program alone; getrusage may report that of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def measured(side: str, path: Path, images: int, categories: int) -> tuple[float, float, list[float]]:
    """What `measure` prints in a new process."""
    command = [sys.executable, __file__, "--measure", side, "--file", str(path)]
    command += ["--images", str(images), "--categories", str(categories)]
    seconds, megabytes, means = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return seconds, megabytes, means


def compare(path: Path, images: int, categories: int, pairs: int) -> None:
    """Prints pairs of runs, in alternating order, and the spread of their ratios."""
    idle = measured(SIDES[0], path, 0, 0)[1]
    runs: list[dict[str, tuple[float, float, list[float]]]] = []
    for pair in range(pairs):
        order = SIDES if pair % 2 == 0 else SIDES[::-1]
        runs.append({side: measured(side, path, images, categories) for side in order})
        for side, (seconds, megabytes, _) in runs[-1].items():
            print(f"  {side:12} {seconds:7.2f} s CPU, {megabytes - idle:6.0f} MB over imports", flush=True)
    ours, theirs = ([run[side] for run in runs] for side in SIDES)
    difference = max(abs(a - b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x[2], y[2], strict=True))
    print(f"mAP at .30, .50, .75: {', '.join(f'{mean:.4f}' for mean in ours[0][2])}; difference {difference:.1e}")
    for what, unit, values in (
        ("CPU", "s", [(a[0], b[0]) for a, b in zip(ours, theirs, strict=True)]),
        ("memory", "MB", [(a[1] - idle, b[1] - idle) for a, b in zip(ours, theirs, strict=True)]),
    ):
        own, other = zip(*values, strict=True)
        ratios = [a / b for a, b in values]
        print(f"{what}: {statistics.median(own):.1f} {unit} to {statistics.median(other):.1f} {unit}, ", end="")
        print(f"ratio {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})", flush=True)


def main() -> None:
    """Runs the comparison, or in a child process one measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=10, help="truths in each image, and as many detections")
    parser.add_argument("--categories", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        measure(chosen.measure, chosen.file, chosen.images, chosen.categories)
        return
    print(f"{machine()}; {chosen.images} images, {chosen.boxes} boxes each, {chosen.categories} categories", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "columns.npz"
        np.savez(path, allow_pickle=False, **columns(chosen.images, chosen.boxes, chosen.categories))
        compare(path, chosen.images, chosen.categories, chosen.pairs)


if __name__ == "__main__":
    main()
