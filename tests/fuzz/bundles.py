"""Targets: bundles of models and packs of weights, which only the services write, in hostile forms.

Their digests are made to fit: what is tried is what a reader does once somebody could change the store.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

from services.kit.digests import file_digest
from services.kit.errors import BundleUnusable, Unavailable
from services.kit.memory import MemoryBlobs
from services.kit.telemetry import MemoryTelemetry
from services.predictor.bundles import BundleSource
from services.predictor.domain import Bundle
from services.predictor.engines import load
from services.vision import bundle, graph_tracing
from services.vision.backbones import build
from services.vision.card import CARD_FILE, DIGESTS_FILE, WEIGHTS_FILE
from services.vision.packs import PackUnusable, description_of, read_pack, require_fit
from services.vision.sealing import digest_of, seal
from services.vision.signatures import SignatureRule
from services.vision.signing import Verifier
from services.vision.weights import load_strictly, read_tensors
from tests.fuzz.mutations import mutated, mutated_json
from tests.fuzz.target import Execute, outcome_of, target
from tests.support.classifiers import classifier_of
from tests.support.packs import SQUEEZENET, add_description, write_weights
from tests.unit.predictor.support import card


async def _at_once(run: Callable[[], object]) -> object:
    return run()


def with_header(data: bytes, random: Random) -> bytes:
    """A safetensors file with another header, or with another length of it."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    changed = mutated_json(json.loads(header), random) if random.random() < 0.6 else mutated(header, random)
    size = (
        len(changed) if random.random() < 0.8 else random.choice((0, 1, length, len(data), 2**32, 2**63 - 1, 2**64 - 1))
    )
    return size.to_bytes(8, "little") + changed + rest[: random.choice((0, 100, len(rest), len(rest)))]


@target
async def bundles(folder: Path) -> AsyncGenerator[Execute]:
    """Bundles with one file changed, as the predictor loads them, in ONNX Runtime and in torch."""
    graph_tracing.add(SQUEEZENET.name, folder / "graphs")
    names, model, uri = ("cat", "dog", "owl"), folder / "model", "s3://sightline/models/m/v/"
    bundle.write(model, classifier_of(card(), build(SQUEEZENET.name, len(names), seed=1)), folder / "graphs")
    whole = {file.name: file.read_bytes() for file in model.iterdir()}
    blobs = MemoryBlobs()
    with ThreadPoolExecutor(1) as workers:
        loader = partial(load, device="cpu", threads=1)
        source = BundleSource(
            blobs, folder / "cache", loader, workers, _at_once, Verifier((), SignatureRule.OFF, MemoryTelemetry())
        )

        async def execute(random: Random) -> str:
            files = whole | {}
            name = random.choice((CARD_FILE, CARD_FILE, DIGESTS_FILE, WEIGHTS_FILE, "network-0.onnx"))
            if name == WEIGHTS_FILE:
                files[name] = with_header(files[name], random)
            elif name == "network-0.onnx":
                files[name] = mutated(files[name], random)
            else:
                files[name] = mutated_json(json.loads(files[name]), random)
            if random.random() < 0.2:
                del files["network-0.onnx"]
            for file in model.iterdir():
                file.unlink()
            for file, data in files.items():
                (model / file).write_bytes(data)
                await blobs.put(f"models/m/v/{file}", data)
            digest = digest_of(model) if name == DIGESTS_FILE else seal(model)
            await blobs.put(f"models/m/v/{DIGESTS_FILE}", (model / DIGESTS_FILE).read_bytes())
            try:
                loaded = await source.load(Bundle("models/m", "v", uri, digest, ""))
            except (BundleUnusable, Unavailable) as error:
                return type(error).__name__
            source.discard(loaded)
            return "accepted"

        yield execute


@target
async def weights(folder: Path) -> AsyncGenerator[Execute]:
    """Files of weights and their descriptions, as `sightline weights` and workers read them."""
    path = write_weights(folder / SQUEEZENET.file_name, 0.5)
    add_description(path)
    data, described = path.read_bytes(), description_of(path).read_bytes()

    async def execute(random: Random) -> str:
        file = with_header(data, random) if random.random() < 0.7 else mutated(data[: 1 << 14], random)
        path.write_bytes(file)
        changed = mutated_json(json.loads(described), random) if random.random() < 0.5 else described
        description_of(path).write_bytes(changed)

        def parse() -> None:
            if pack := read_pack(path):
                require_fit(pack, path, pack.sha256 if random.random() < 0.5 else file_digest(path), SQUEEZENET)
            load_strictly(SQUEEZENET, read_tensors(path, SQUEEZENET))

        return outcome_of(parse, PackUnusable, ValueError, RuntimeError)

    yield execute
