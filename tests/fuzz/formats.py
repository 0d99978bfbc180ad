"""Targets: files and messages that are parsed in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from services.dataset.domain import DatasetRecord
from services.dataset.findings import FindingLog
from services.dataset.plan import Reading, make_plan
from services.gateway.media import medium
from services.kit.errors import SightlineError
from services.predictor.inference_tensors import check_outputs
from services.predictor.inference_wire import parameters_of, queries_of
from services.vision.card import ModelKind
from services.vision.snapshot import (
    AnnotationKind,
    Box,
    Category,
    Entry,
    Groups,
    Manifest,
    Shard,
    pack_into_bytes,
    read_groups,
    read_index,
    read_manifest,
    read_record,
    write_groups,
    write_index,
)
from sightline.inference import open_inference_pb2 as inference
from tests.fuzz.mutations import mutated, mutated_json, name
from tests.fuzz.target import Execute, outcome_of, target
from tests.support.datasets import COCO, URI, World, coco, tagged


@target
async def coco_files(_folder: Path) -> AsyncGenerator[Execute]:
    """COCO files of both kinds, up to the plan that workers follow."""
    image = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48, "coco_url": None}
    box = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [1, 2, 3.5, 4],
        "iscrowd": 0,
        "area": 14.0,
        "segmentation": [],
    }
    seeds: list[Any] = [
        json.loads(tagged(3)[0]),
        json.loads(coco([image, image | {"id": 2, "file_name": "b/c.png"}], [box, box | {"id": 2, "image_id": 2}])),
        {"info": {}, "licenses": [], "images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]},
    ]
    world = World()
    now = world.clock.now()

    with ThreadPoolExecutor(1) as executor:
        context = world.context(executor)

        async def execute(random: Random) -> str:
            seed, kind = random.choice(seeds), random.choice(list(AnnotationKind))
            plain = random.random() < 0.3
            await world.blobs.put(
                COCO, mutated(json.dumps(seed).encode(), random) if plain else mutated_json(seed, random)
            )
            record = DatasetRecord("datasets/d", "u", kind, (URI,), now, now)
            try:
                await make_plan(context, world.settings, record, Reading(FindingLog(10)))
            except SightlineError as error:
                return type(error).__name__
            return "accepted"

        yield execute


@target
async def shards(_folder: Path) -> AsyncGenerator[Execute]:
    """What a training reads of a snapshot: its manifest, the indexes and tars of its shards, its groups."""
    boxes = (Box(1, 2, 3.5, 4, 0), Box(0, 0, 9, 9, 1, True))
    entries = [Entry(image_id=n, file_name=f"{n}.jpg", width=80, height=60, labels=(0,), boxes=boxes) for n in range(3)]
    tar, index = pack_into_bytes([(entry, b"image" * 50, "jpg") for entry in entries])
    shard = Shard(key="p/0.tar", index_key="p/0.json", sha256=index.sha256, size_bytes=len(tar), record_count=3)
    category = Category(id=7, name="cat", image_count=3, annotation_count=6)
    kind = AnnotationKind.OBJECT_DETECTION
    manifest = Manifest(kind=kind, categories=(category,), shards=(shard,), image_count=3, digest="sha256:0")
    written = {
        "manifest": manifest.encode(),
        "index": write_index(index),
        "groups": write_groups(Groups(((0, 1),))),
    }
    readers = {"manifest": read_manifest, "index": read_index, "groups": read_groups}

    async def execute(random: Random) -> str:
        part = random.choice((*readers, "tar"))

        def parse() -> None:
            if part == "tar":
                pack = mutated(tar, random)
                for record in index.records:
                    read_record(pack, record, verify=True)
                return
            data = written[part]
            data = mutated(data, random) if random.random() < 0.5 else mutated_json(json.loads(data), random)
            found = readers[part](data)
            for record in getattr(found, "records", ()):
                read_record(tar, record, verify=True)

        return outcome_of(parse, ValueError)

    yield execute


@target
async def forms(_folder: Path) -> AsyncGenerator[Execute]:
    """Bodies of requests to the gateway: multipart forms, JSON, images."""
    kinds = [
        b"multipart/form-data; boundary=b0",
        b"multipart/form-data",
        b"application/json",
        b"image/png",
        b"",
        b"text/plain",
    ]
    disposition = b'Content-Disposition: form-data; name="a"; filename="a.png"\r\nContent-Type: image/png\r\n'
    form = b"--b0\r\n" + disposition + b"\r\n\x89PNG\r\n--b0--\r\n"
    seeds = [
        form,
        form.replace(b"--b0--", b"") * 3 + form,
        b'{"url": "https://x/y.png", "Ids": ["a"]}',
        b"\x89PNG\r\n",
        b"",
    ]
    tokens = [
        b"--b0",
        b"\r\n",
        b"\r\n\r\n",
        b"--",
        b"Content-Disposition:",
        b'name="',
        b"boundary=",
        b";",
        b"*=utf-8''%",
    ]

    async def execute(random: Random) -> str:
        kind = random.choice(kinds)
        kind = mutated(kind, random, kinds, tokens) if random.random() < 0.4 else kind
        body = mutated(random.choice(seeds), random, seeds, tokens)

        def parse() -> None:
            media = medium(kind.decode("latin-1"), body)
            if media.json is None:
                _ = media.image
            else:
                _ = (
                    media.json.text("url"),
                    media.json.texts("ids"),
                    media.json.mapping("url"),
                    media.json.objects("ids"),
                )

        return outcome_of(parse)

    yield execute


@target
async def tensors(_folder: Path) -> AsyncGenerator[Execute]:
    """Requests of the Open Inference Protocol, as bytes and as tensors."""
    image = inference.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    whole = inference.ModelInferRequest(model_name="m", id="1", inputs=[image], raw_input_contents=[b"\4\0\0\0abcd"])
    whole.parameters["score_threshold"].double_param = 0.5
    whole.outputs.add(name="labels").parameters["binary_data"].bool_param = True
    inner = inference.ModelInferRequest(model_name="models/m", inputs=[image])
    inner.inputs[0].contents.bytes_contents.append(b"abcd")
    seeds = [one.SerializeToString() for one in (whole, inner)]

    async def execute(random: Random) -> str:
        request = inference.ModelInferRequest.FromString(random.choice(seeds))
        if random.random() < 0.5:
            try:
                request = inference.ModelInferRequest.FromString(mutated(random.choice(seeds), random, seeds))
            except DecodeError as error:
                return type(error).__name__
        if request.raw_input_contents and random.random() < 0.5:
            request.raw_input_contents[0] = mutated(request.raw_input_contents[0], random)
        if request.inputs and random.random() < 0.3:
            request.inputs[0].shape[:] = [random.choice((-1, 0, 1, 2, 2**62)) for _ in range(random.randrange(4))]
        if random.random() < 0.3:
            number = random.choice((float("nan"), float("inf"), -1.0, 1e308, 0.0))
            request.parameters[
                random.choice(
                    ("timeout", "max_results", "score_threshold", name(random).encode(errors="replace").decode())
                )
            ].double_param = number

        def parse() -> None:
            queries_of(request, parameters_of(request))
            check_outputs(request, random.choice(list(ModelKind)))

        return outcome_of(parse)

    yield execute
