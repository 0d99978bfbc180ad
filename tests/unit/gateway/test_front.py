"""The gateway's APIs as pages in a browser reach them."""

from __future__ import annotations

from typing import Any

import pytest

from sightline.v1.dataset_service_pb2 import ListDatasetsResponse, UploadFilesResponse
from tests.support.studio import browser

PROJECTS = "/customvision/v3.3/training/projects"
ANSWERS: dict[str, Any] = {
    "ListDatasets": lambda request: ListDatasetsResponse(),
    "UploadFiles": lambda request: UploadFilesResponse(),
}


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.test"},
        {"origin": "http://gateway.test:8080"},
        {"origin": "null"},
        {"origin": "https://["},
        {"origin": "https://evil.test", "authorization": "Basic c2VudCBieSBicm93c2Vycw=="},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_another_sites_page_changes_nothing_without_a_token(method: str, headers: dict[str, str]):
    """The stub has no answers: a call that reached it would fail the test."""
    async with browser({}) as one:
        for path in (f"{PROJECTS}?name=x", "/computervision/models/m", "//computervision/models/m:cancel"):
            response = await one(method, path, headers=headers)
            assert (response.status_code, "page of another site" in response.text) == (403, True)
    assert not one.seen


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin", "origin": "http://gateway.test"},
        {"origin": "https://ours.test", "training-key": "slk_given"},
    ],
)
async def test_programs_own_pages_and_whoever_has_a_token_make_changes(headers: dict[str, str]):
    async with browser(ANSWERS) as one:
        response = await one("POST", f"{PROJECTS}?name=x", headers=headers)
    assert response.status_code == 200
    assert one.requests("UploadFiles")


async def test_another_sites_page_may_ask_for_what_it_cannot_read():
    async with browser(ANSWERS) as one:
        response = await one("GET", "/computervision/datasets", headers={"sec-fetch-site": "cross-site"})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control-")]
