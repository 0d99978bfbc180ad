"""The clients against fake services in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from PIL import Image

from sightline import Addresses, AsyncClient, Client, Credentials
from tests.unit.cli.fakes import Fakes, serving


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def addresses(fakes: Fakes) -> Iterator[Addresses]:
    with serving(fakes) as address:
        yield Addresses(address, address, address)


@pytest.fixture
def client(addresses: Addresses) -> Iterator[Client]:
    with Client(addresses, Credentials(), progress=False) as one:
        yield one


@pytest.fixture
async def aio(addresses: Addresses) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(addresses, Credentials(), progress=False) as one:
        yield one


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def coco(photo: Path) -> Path:
    """A COCO file with one image and one tag."""
    content = {
        "images": [{"id": 1, "file_name": photo.name}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    file = photo.with_name("coco.json")
    file.write_text(json.dumps(content))
    return file
