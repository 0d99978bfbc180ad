"""Makes the fixtures of this release by running its suite: `python -m tests.releases [FOLDER]`.

    backup.tar.xz     `sightline backup` of a suite with finished work of every kind, and a training that no worker has
    jobs.jsonl        every message that was on the queue until then: subject and body
    contract.binpb    the protos
    answers.jsonl     what the suite answered to reading calls and to an image
    image.png         that image

The images are generated, and the weights are the seed's. Ids, times and the order of the search are not.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from services.infra.jetstream import connected
from sightline.client.client import Client
from sightline.client.results.model import Hyperparameters
from tests.e2e.conftest import Command, RunningStack
from tests.releases import images, weights
from tests.releases.fixtures import FOLDER, PROTOS, QUEUED, write_lines
from tests.releases.old_client import OldClient


def main() -> None:
    target = Path(sys.argv[1]) if sys.argv[1:] else FOLDER / version("sightline")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(PROTOS, target / "contract.binpb")
    with tempfile.TemporaryDirectory() as made:
        _make(Path(made), target)
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:9,} {file.name}")  # noqa: T201 - what it made


def _make(folder: Path, target: Path) -> None:
    weights.write(folder / "weights")
    sets = {
        "shapes": images.write(folder / "shapes", count=15, shapes=1, seed=weights.SEED),
        "held-out": images.write(folder / "held-out", count=6, shapes=1, seed=weights.SEED + 1),
        "scenes": images.write(folder / "scenes", count=9, shapes=3, seed=weights.SEED + 2),
    }
    environment = {"SIGHTLINE_WEIGHTS_DIR": str(folder / "weights"), "SIGHTLINE_DOWNLOAD_WEIGHTS": "false"}
    with RunningStack(folder / "suite", environment=environment) as running, Client(running.stack.addresses) as client:
        jobs = Jobs(running.stack.nats_url)
        _work(client, sets)
        os.kill(running.stack.pids["trainer-worker-1"], signal.SIGSTOP)
        try:
            _train(client, QUEUED, "shapes", weights.BACKBONE)
            jobs.wait_for(f"models/{QUEUED}/trials/t000")
            sightline = Command(running.stack.addresses, folder)
            sightline("backup", folder / "backup", "--data", folder / "suite")
            image = (folder / "held-out" / "000.png").read_bytes()
            with OldClient(target / "contract.binpb", running.stack.addresses) as ask:
                answers = [{"rpc": rpc, "request": words, "answer": ask(rpc, words)} for rpc, words in _calls(image)]
        finally:
            os.kill(running.stack.pids["trainer-worker-1"], signal.SIGCONT)
    (target / "image.png").write_bytes(image)
    write_lines(target / "jobs.jsonl", jobs.distinct)
    write_lines(target / "answers.jsonl", answers)
    with tarfile.open(target / "backup.tar.xz", "w:xz", preset=9) as tar:
        tar.add(folder / "backup", "backup")


def _work(client: Client, sets: dict[str, Path]) -> None:
    """Finished work of every kind."""
    for name, coco in sets.items():
        client.datasets.register(name, coco=coco, kind="detection" if name == "scenes" else "classification")
    _train(client, "m", "shapes", weights.BACKBONE).wait()
    _train(client, "d", "scenes", weights.DETECTOR).wait()
    client.evaluations.create("m", "held-out", dataset="held-out", wait=True)
    client.aliases.set("m@production", "m")
    client.batch_predictions.create("m", "b", dataset="held-out")


def _train(client: Client, name: str, dataset: str, network: str) -> Any:
    narrowed = Hyperparameters(seed=weights.SEED, backbones=(network,), max_rung=0, max_trials=1)
    return client.models.train(name, dataset=dataset, budget="60s", hyperparameters=narrowed)


class Jobs:
    """Hears every job that is published, in a thread of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._heard: list[dict[str, Any]] = []
        listening = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._hear(listening)), daemon=True).start()
        assert listening.wait(60), "nats-server does not answer"

    @property
    def distinct(self) -> list[dict[str, Any]]:
        """Each once, in the order of the first."""
        return [job for index, job in enumerate(self._heard) if job not in self._heard[:index]]

    def wait_for(self, name: str) -> None:
        """Returns once a job of the name was heard."""
        deadline = time.monotonic() + 60
        while not any(job["body"]["name"] == name for job in self._heard):
            assert time.monotonic() < deadline, f"no job for {name}"
            time.sleep(0.1)

    async def _hear(self, listening: threading.Event) -> None:
        async with connected(self._url, "fixtures") as connection:
            subscription = await connection.subscribe("jobs.>")
            await connection.flush()
            listening.set()
            async for message in subscription.messages:
                self._heard.append({"subject": message.subject, "body": json.loads(message.data)})


def _calls(image: bytes) -> list[tuple[str, dict[str, Any]]]:
    picture = base64.b64encode(image).decode()
    read: list[tuple[str, dict[str, Any]]] = [
        ("DatasetService/ListDatasets", {}),
        ("DatasetService/ListUploads", {}),
        ("ModelService/ListModels", {}),
        ("ModelAliasService/ListModelAliases", {}),
        ("EvaluationService/ListEvaluations", {"parent": "models/m"}),
        ("EvaluationService/GetEvaluation", {"name": "models/m/evaluations/held-out", "view": "FULL"}),
        ("PredictionService/GetBatchPrediction", {"name": "batchPredictions/b"}),
        ("PredictionService/ListBatchPredictions", {}),
    ]
    for name in ("shapes", "held-out", "scenes"):
        read += [("DatasetService/GetDataset", {"name": f"datasets/{name}"})]
        read += [("DatasetService/ListFindings", {"parent": f"datasets/{name}"})]
        read += [("DatasetService/ReadImages", {"parent": f"datasets/{name}"})]
    for name in ("m", "d", "m@production"):
        read += [("ModelService/GetModel", {"name": f"models/{name}", "view": "FULL"})]
        read += [
            (
                "PredictionService/AnalyzeImage",
                {"modelName": f"models/{name}", "image": picture, "scoreThreshold": 0.01},
            )
        ]
    for name in ("m", "d"):
        read += [("ModelService/ListTrials", {"parent": f"models/{name}"})]
    return read


if __name__ == "__main__":
    main()
