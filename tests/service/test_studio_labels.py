"""Labels corrected in the studio, with the real dataset service behind it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from services.gateway.settings import GatewaySettings
from services.gateway.studio.app import Studio
from services.gateway.studio.cookies import PREFIX
from services.vision.thumbnail import thumbnail
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import dataset_service_pb2 as service_pb
from sightline.v1.project_pb2 import Project
from tests.support import gateway
from tests.support.datasets import World, coco, make_image, rotated, running, tagged
from tests.support.decoders import InlineDecoders
from tests.support.studio import Browser


@asynccontextmanager
async def at_studio() -> AsyncGenerator[tuple[World, Browser]]:
    """A browser at the studio of a real dataset service."""
    settings, seen = GatewaySettings(), list[gateway.Seen]()
    stub = gateway.Stub(seen, {"GetProject": lambda request: Project(project_id="default")})
    async with running(World()) as world:
        services = replace(gateway.services_of(stub), datasets=world.stub)
        studio = Studio(services, settings, partial(thumbnail, InlineDecoders()))
        async with gateway.served(studio, settings) as client:
            browser = Browser(client, seen)
            await browser.open(f"{PREFIX}/new")
            yield world, browser


async def register(world: World, browser: Browser, described: bytes, files: dict[str, bytes], kind: str) -> pb.Dataset:
    """Uploads and registers a dataset, as the studio does."""
    for path, content in files.items():
        await browser.send(f"{PREFIX}/uploads/u1/file?path={quote(path)}", content)
    answer = await browser.send(f"{PREFIX}/uploads/u1/file?path=set/labels.json", described)
    response = await browser.post(f"{PREFIX}/datasets", id="pets", kind=kind, uri=answer.json()["uri"])
    assert response.status_code == 303
    await world.work()
    return await world.get()


def corrected(given: str) -> bytes:
    """The COCO file that the page would upload."""
    command = [shutil.which("node") or "node", Path(__file__).with_name("correct_labels.mjs")]
    return subprocess.run(command, input=given.encode(), capture_output=True, check=True, timeout=60).stdout


async def correct(world: World, browser: Browser, *changes: dict[str, Any], detection: bool) -> pb.Dataset:
    """Makes the changes in a new version, as the page does."""
    assert (await browser.open(f"{PREFIX}/datasets/pets/labels")).text.count('data-folder="set/"') == 1
    records = (await browser("GET", f"{PREFIX}/datasets/pets/records")).text
    annotations = (await browser("GET", f"{PREFIX}/datasets/pets/annotations")).text
    given = {"records": records, "annotations": annotations, "detection": detection, "changes": changes}
    content = await asyncio.to_thread(corrected, json.dumps(given))
    answer = await browser.send(f"{PREFIX}/uploads/u1/file?path=set/labels-2.json", content)
    digest = json.loads(records.splitlines()[0])["digest"]
    response = await browser.post(f"{PREFIX}/datasets/pets/versions", uri=answer.json()["uri"], digest=digest)
    assert response.status_code == 303
    await world.work()
    return await world.get(view=pb.Dataset.FULL)


async def images(world: World, version: int) -> dict[str, service_pb.SnapshotImage]:
    """The images of a version by file name."""
    request = service_pb.ReadImagesRequest(parent="datasets/pets", version=version, annotations_only=True)
    return {one.file_name: one async for answer in world.stub.ReadImages(request) for one in answer.images}


async def test_a_label_is_corrected_and_categories_are_merged_without_sending_an_image_again() -> None:
    described, files = tagged(9, 3)
    async with at_studio() as (world, browser):
        named = {f"set/{path}": content for path, content in files.items()}
        first = await register(world, browser, described, named, "classification")
        changes = {"image": 1, "name": "c2"}, {"from": "c3", "name": "c2"}
        second = await correct(world, browser, *changes, detection=False)
        before, after = await images(world, 1), await images(world, 2)
    assert (first.version, second.version, second.state) == (1, 2, pb.Dataset.READY)
    assert {one.name: one.image_count for one in second.stats.categories} == {"c1": 2, "c2": 7}
    assert {name: one.sha256 for name, one in before.items()} == {name: one.sha256 for name, one in after.items()}


async def test_boxes_stay_where_they_are_whatever_their_file_looked_like_and_a_new_one_is_added() -> None:
    """Fractions, an image that its EXIF turns, and a name that is written otherwise than the file."""
    described = coco(
        [
            {"id": 1, "file_name": "a.jpg", "width": 128, "height": 64},
            {"id": 2, "file_name": "b c.png", "width": 80, "height": 160},
        ],
        [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.25, 0.25, 0.5, 0.25]},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": [0.1, 0.2, 0.3, 0.4], "iscrowd": 1},
        ],
    )
    files = {"set/a.jpg": rotated(128, 64, 6), "set/B c.png": make_image(80, 160)}
    async with at_studio() as (world, browser):
        first = await register(world, browser, described, files, "detection")
        box = {"x": 1, "y": 2, "w": 20, "h": 30, "crowd": 0}
        second = await correct(world, browser, {"image": 1, "name": "bird", "box": box}, detection=True)
        before, after = await images(world, 1), await images(world, 2)
    assert first.stats.image_count == 2
    assert (second.version, second.state, second.stats.annotation_count) == (2, pb.Dataset.READY, 3)
    assert list(after["a.jpg"].boxes)[:1] == list(before["a.jpg"].boxes)
    added = after["a.jpg"].boxes[1]
    assert (added.x, added.y, added.width, added.height) == (1, 2, 20, 30)
    assert list(after["b c.png"].boxes) == list(before["b c.png"].boxes)
    assert [one.name for one in second.stats.categories] == ["cat", "dog", "bird"]


async def test_an_image_that_was_put_aside_joins_the_dataset() -> None:
    described, files = tagged(4)
    async with at_studio() as (world, browser):
        named = {f"set/{path}": content for path, content in files.items()}
        await register(world, browser, described, named, "classification")
        content = make_image(90, 60, (1, 200, 3))
        await browser.send(f"{PREFIX}/uploads/u1/file?path=set/feedback-1.png", content)
        draft = {"file": "new.png", "path": "feedback-1.png", "width": 90, "height": 60, "boxes": []}
        second = await correct(world, browser, {"add": draft, "name": "c2"}, detection=False)
        after = await images(world, 2)
    assert second.stats.image_count == 5
    assert {one.name: one.image_count for one in second.stats.categories} == {"c1": 2, "c2": 3}
    assert (after["feedback-1.png"].width, after["feedback-1.png"].height) == (90, 60)
