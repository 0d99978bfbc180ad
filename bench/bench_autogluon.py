"""Sightline beside AutoGluon MultiModal: the same images, network, weights, threads and time on the same test images.

`make bench-autogluon` installs AutoGluon into an environment of its own and runs this. Reads SIGHTLINE_TEST_DATA and
SIGHTLINE_WEIGHTS_DIR. `python bench/bench_autogluon.py SET=SECONDS ... --python PATH [--network NAME]`, where PATH is a
Python that has autogluon.multimodal. Prints top-1 of both, and the images per second of their fine-tunings.
"""

import argparse
import json
import os
import subprocess
import tempfile
from datetime import timedelta
from pathlib import Path

import safetensors.torch
import torch

from bench import support
from bench.snapshots import pack
from bench.throughput import engine_pace
from services.trainer.engine.classification.task import start
from services.trainer.messages import TrainTask
from services.trainer.recipe import Recipe
from services.vision.catalogue import BACKBONES, Library
from services.vision.snapshot import AnnotationKind
from sightline.client.stubs import Stubs

SETS = ("trash=300", "grocery=360")
BATCH = 8
EPOCHS = 2  # of our fine-tuning, which only measures throughput
SCRIPT = Path(__file__).with_name("autogluon_fit.py")


def main() -> None:
    """Prints a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET=SECONDS")
    parser.add_argument("--python", type=Path, default=Path("build/autogluon/bin/python"))
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if BACKBONES[arguments.network].library is not Library.TIMM:
        raise SystemExit(f"{arguments.network} is not one of timm's, and AutoGluon takes no others.")
    threads = os.cpu_count() or 1
    print(f"{arguments.network}; {support.machine()}, {threads} threads", flush=True)
    for one in arguments.sets:
        name, _, seconds = one.partition("=")
        with tempfile.TemporaryDirectory() as scratch:
            theirs = autogluon(arguments, name, int(seconds), threads, Path(scratch))
            pace = our_pace(arguments.network, name, threads, Path(scratch))
        ours = our_top1(name, int(seconds), arguments.seed)
        print(
            f"{name}, {seconds} s: top-1 {ours:.3f}, AutoGluon {theirs['top1']:.3f}; fine-tuning {pace:.2f} images/s,"
            f" AutoGluon {theirs['images_per_second']:.2f}, ratio {pace / theirs['images_per_second']:.2f}",
            flush=True,
        )


def autogluon(arguments: argparse.Namespace, name: str, seconds: int, threads: int, scratch: Path) -> dict[str, float]:
    """Its answer, see `autogluon_fit`; it starts from the same weights as we do."""
    data = support.folder("SIGHTLINE_TEST_DATA") / name
    job = {
        "train": table(data / "train.json"),
        "test": table(data / "test.json"),
        "checkpoint": str(checkpoint(arguments.network, scratch / "weights")),
        "output": str(scratch / "autogluon"),
        "seconds": seconds,
        "threads": threads,
        "seed": arguments.seed,
        "batch_size": BATCH,
    }
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | offline
    command = [str(arguments.python.absolute()), str(SCRIPT)]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"AutoGluon failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(annotations: Path) -> dict[str, list[str]]:
    """Columns of image paths and labels; images without a label are left out."""
    coco = json.loads(annotations.read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    labels = {one["image_id"]: names[one["category_id"]] for one in coco["annotations"]}
    kept = [image for image in coco["images"] if image["id"] in labels]
    return {
        "image": [str(annotations.parent / image["file_name"]) for image in kept],
        "label": [labels[image["id"]] for image in kept],
    }


def checkpoint(network: str, folder: Path) -> Path:
    """Our weights as AutoGluon reads a local checkpoint of timm: config.json and pytorch_model.bin, without a head."""
    backbone = BACKBONES[network]
    folder.mkdir(parents=True)
    state = safetensors.torch.load_file(support.folder("SIGHTLINE_WEIGHTS_DIR") / backbone.file_name)
    torch.save(
        {name: value for name, value in state.items() if not name.startswith("classifier.")},
        folder / "pytorch_model.bin",
    )
    side = backbone.rule.size
    config = {
        "architecture": backbone.architecture,
        "num_features": backbone.feature_dim,
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "mean": list(backbone.rule.mean),
            "std": list(backbone.rule.std),
            "interpolation": "bicubic",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def our_top1(name: str, seconds: int, seed: int) -> float:
    """Of a suite's model, trained within the budget."""
    found: list[float] = []

    def measure(client: Stubs) -> None:
        data = support.folder("SIGHTLINE_TEST_DATA") / name
        for part in ("train", "test"):
            support.register(client, f"{name}-{part}", data / f"{part}.json")
        model = support.create_model(client, name, f"{name}-train", f"{name}-test", seconds, seed)
        *_, last = client.watch_model(model)
        found.append(last.performance.accuracy_top1)

    support.run(measure)
    return found[0]


def our_pace(network: str, name: str, threads: int, scratch: Path) -> float:
    """Images per second of our fine-tuning, all of the network at its own size."""
    coco = support.folder("SIGHTLINE_TEST_DATA") / name / "train.json"
    snapshot = pack(coco, scratch / "snapshot", AnnotationKind.IMAGE_CLASSIFICATION)
    recipe = Recipe(
        name="bench", rung=1, backbones=(network,), batch_size=BATCH, max_epochs=EPOCHS, learning_rate=1e-4,
        resolution=BACKBONES[network].rule.size, linear_head=False,
    )  # fmt: skip
    task = TrainTask(
        trial="bench", dataset=name, directory=str(snapshot), recipe=recipe, allowance=timedelta(days=1),
        output_directory=str(scratch / "out"), cache_directory=str(scratch / "cache"), threads=threads,
        weights_directory=str(support.folder("SIGHTLINE_WEIGHTS_DIR")),
    )  # fmt: skip
    torch.set_num_threads(threads)
    return engine_pace(task, start).pace


if __name__ == "__main__":
    main()
