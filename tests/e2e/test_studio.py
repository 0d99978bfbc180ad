"""A person at the studio, in a real browser: from a folder of images to predictions, by mouse."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from sightline.demo.digits import DigitSet
from sightline.local.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = 240
Sets = tuple[DigitSet, DigitSet]


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a browser. The test fails if a page of it breaks its own policy, or a script of it fails."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        opened = browser.new_page()
        opened.set_default_timeout(SECONDS * 1000)
        faults: list[str] = []
        opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: faults.append(str(error)))
        yield opened
        browser.close()
        assert not faults


def by_class(made: DigitSet, to: Path) -> Path:
    """The images in a folder for each class."""
    content = json.loads(made.coco.read_text())
    files = {one["id"]: made.coco.parent / one["file_name"] for one in content["images"]}
    names = {one["id"]: f"digit-{one['name']}" for one in content["categories"]}
    for one in content["annotations"]:
        folder = to / names[one["category_id"]]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[one["image_id"]], folder)
    return to


def test_a_folder_becomes_a_model_that_names_what_is_on_a_picture(
    page: Page, suite: Stack, images: Sets, tmp_path: Path
) -> None:
    folder = by_class(images[0], tmp_path / "digits")
    page.goto(f"{suite.gateway}/studio/datasets")
    page.get_by_role("link", name="New dataset").first.click()
    page.set_input_files("#folder", folder)
    count = len(list(folder.rglob("*.png")))
    page.get_by_text(f"{count} images in 3 classes").wait_for()
    page.get_by_label("Name of the dataset").fill("studio")
    page.get_by_role("button", name="Upload and check").click()

    page.get_by_role("link", name="Train a model").click()  # there once the check, followed live, has ended
    page.get_by_label("Name of the model").fill("studio-model")
    page.locator("#minutes").fill("1")
    page.get_by_role("button", name="Start training").click()
    page.get_by_role("link", name="Try it").click()  # there once training, followed live, has ended

    picture = next(folder.rglob("*.png"))
    page.set_input_files("#choose", picture)
    page.get_by_role("img", name=f"{picture.name}: digit-").wait_for()
    page.goto(f"{suite.gateway}/studio/models/studio-model")
    assert page.get_by_role("heading", name="What is taken for what").is_visible()


def test_a_zip_with_a_coco_file_is_registered_looked_through_and_deleted(
    page: Page, suite: Stack, images: Sets, tmp_path: Path
) -> None:
    made = images[1]
    with zipfile.ZipFile(tmp_path / "digits.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(made.coco, "digits/labels.json")
        for one in json.loads(made.coco.read_text())["images"]:
            archive.write(made.coco.parent / one["file_name"], f"digits/{one['file_name']}")
    page.goto(f"{suite.gateway}/studio/new")
    page.set_input_files("#zip", tmp_path / "digits.zip")
    page.get_by_text("A COCO file (digits/labels.json)").wait_for()
    page.get_by_label("Name of the dataset").fill("zipped")
    page.get_by_role("button", name="Upload and check").click()

    page.get_by_role("link", name="Look at the images").click()
    page.locator(".pictures img").first.evaluate("(image) => image.decode()")  # rejects if it is none
    page.goto(f"{suite.gateway}/studio/datasets/zipped")
    page.get_by_text("Delete dataset…").click()
    page.get_by_label("Type zipped to confirm").fill("zipped")
    page.get_by_role("button", name="Delete for good").click()
    page.wait_for_url("**/studio/datasets")
