"""A person at the studio, in a real browser: from a folder of images to predictions, by mouse or by keys."""

from __future__ import annotations

import json
import shutil
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from sightline.demo import scenes
from sightline.demo.digits import DigitSet
from sightline.local.stack import Stack
from tests.unit.importers import exports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = 120
ARGUMENTS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
CLIPBOARD = ("clipboard-read", "clipboard-write")
COPY = """async (content) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  await navigator.clipboard.write([new ClipboardItem({"image/png": new Blob([bytes], {type: "image/png"})})]);
}"""
WORST = ("serious", "critical")
AXE = Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"
PAGES = (
    "sign-in",
    "models",
    "models/{model}",
    "models/{model}/try",
    "models/{model}/compare",
    "models/{model}/compare?with={model}",
    "datasets",
    "datasets/{dataset}",
    "datasets/{dataset}/images",
    "datasets/{dataset}/labels",
    "datasets/{dataset}/train",
    "new",
    "admin",
)
Sets = tuple[DigitSet, DigitSet]


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a browser. The test fails if a page of it breaks its own policy, or a script of it fails."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
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


def drag(page: Page, *paths: Path) -> None:
    """Drags files and folders from outside of the browser onto the page."""
    page.wait_for_load_state("networkidle")  # the page's scripts take the drop
    page.locator("#drop").scroll_into_view_if_needed()
    place = page.locator("#drop").bounding_box()
    assert place
    devices = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": place["x"] + 9, "y": place["y"] + 9, "data": data}
        devices.send("Input.dispatchDragEvent", event)


def tab_to(page: Page, wanted: Locator, most: int = 60) -> None:
    """Presses Tab until the element has the focus."""
    wanted.wait_for()
    for _ in range(most):
        if wanted.evaluate("(element) => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} is not reached by {most} tabs")


def choose_by_key(page: Page, button: Locator, files: Path) -> None:
    """Chooses the files by Enter on the button, again if the page was not ready for the key."""
    for _ in range(10):
        tab_to(page, button)
        try:
            with page.expect_file_chooser(timeout=5_000) as chooser:
                page.keyboard.press("Enter")
        except PlaywrightTimeout:
            continue
        return chooser.value.set_files(files)
    raise AssertionError(f"{button} opens no chooser")


def look_through(page: Page, base: str, model: str, dataset: str) -> None:
    """Every page is accessible, in light and in dark, and fits a narrow screen."""
    axe = AXE.read_text()
    for path in PAGES:
        page.goto(f"{base}/studio/{path.format(model=model, dataset=dataset)}", wait_until="networkidle")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no colour on its way to another
            page.evaluate(axe)
            found = page.evaluate("axe.run(document).then(({violations}) => violations)")
            worst = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found if one["impact"] in WORST]
            assert not worst, (path, scheme, worst)
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
        page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(color_scheme=None)


def test_a_folder_becomes_a_model_that_names_what_is_on_a_picture(
    page: Page, suite: Stack, images: Sets, tmp_path: Path
) -> None:
    folder = by_class(images[0], tmp_path / "digits")
    page.goto(f"{suite.gateway}/studio/datasets")
    page.get_by_role("link", name="New dataset").first.click()
    drag(page, folder)
    page.get_by_text("A folder for each class: one category for each image").wait_for()
    assert page.locator("#fact-images").inner_text() == str(len(list(folder.rglob("*.png"))))
    assert page.get_by_label("Name of the dataset").input_value() == "digits"
    page.get_by_label("Name of the dataset").fill("studio")
    page.get_by_role("button", name="Upload and check").click()

    page.get_by_role("link", name="Train a model").click()  # there once the check, followed live, has ended
    page.get_by_label("Name of the model").fill("studio-model")
    page.locator("#minutes").fill("1")
    page.get_by_role("button", name="Start training").click()
    page.get_by_role("link", name="Try it").click()  # there once training, followed live, has ended

    picture = next(folder.rglob("*.png"))
    drag(page, picture)
    page.get_by_role("img", name=f"{picture.name}: digit-").wait_for()
    page.context.grant_permissions(CLIPBOARD)
    page.evaluate(COPY, b64encode(picture.read_bytes()).decode())
    page.keyboard.press("Control+v")
    page.get_by_role("img", name="image.png: digit-").wait_for()
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    page.get_by_role("img", name="camera.jpg: digit-").wait_for()
    page.get_by_role("button", name="Turn the camera off").click()
    assert page.locator("#view").is_hidden()
    page.goto(f"{suite.gateway}/studio/models/studio-model")
    assert page.get_by_role("heading", name="What is taken for what").is_visible()
    with page.expect_download() as archive:
        page.get_by_role("button", name="Download").click()
    assert zipfile.is_zipfile(archive.value.path())
    page.get_by_label("Alias, such as").fill("studio@production")
    page.get_by_role("button", name="Let it stand for this model").click()
    page.get_by_role("heading", name="studio@production").wait_for()
    look_through(page, suite.gateway, "studio-model", "studio")

    page.goto(f"{suite.gateway}/studio/models/studio-model/try")
    page.set_input_files("#choose", picture)
    page.get_by_role("button", name="This is wrong").click()
    page.get_by_label("What it should be").fill("a new class")
    page.get_by_role("button", name="Put aside for the dataset").click()
    page.get_by_role("link", name="Correct and save them").click()
    page.get_by_role("button", name="Save as a new version").click()
    page.get_by_text("version 2").wait_for()
    page.get_by_role("link", name="a new class").wait_for()  # the class balance, once the check has ended


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
    page.get_by_text("COCO: one category for each image").wait_for()
    page.get_by_label("Name of the dataset").fill("zipped")
    page.get_by_role("button", name="Upload and check").click()

    page.get_by_role("link", name="Look at the images").click()
    page.locator(".pictures img").first.evaluate("(image) => image.decode()")  # rejects if it is none
    page.goto(f"{suite.gateway}/studio/datasets/zipped")
    page.get_by_text("Delete dataset…").click()
    page.get_by_label("Type zipped to confirm").fill("zipped")
    page.get_by_role("button", name="Delete for good").click()
    page.wait_for_url("**/studio/datasets")


def test_an_export_of_another_tool_is_corrected_where_the_page_says_and_registered(
    page: Page, suite: Stack, tmp_path: Path
) -> None:
    folder = exports.yolo(tmp_path / "pets")
    (folder / "labels/train/train1.txt").write_text("0 0.5 half 0.2 0.2\n")
    page.goto(f"{suite.gateway}/studio/new")
    drag(page, folder)
    page.get_by_text("labels/train/train1.txt, line 1: 'half' is not a number").wait_for()
    (folder / "labels/train/train1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    drag(page, folder)
    page.get_by_text("YOLO: boxes around objects").wait_for()
    page.get_by_label("validation (3)").uncheck()
    page.locator("#fact-images", has_text="3").wait_for()
    page.get_by_label("training (3)").click()
    page.get_by_text("Tick at least one of the parts.").wait_for()
    page.locator("#fact-images", has_text="3").wait_for()
    page.get_by_label("Name of the dataset").fill("yolo")
    page.get_by_role("button", name="Upload and check").click()
    page.get_by_role("link", name="Look at the images").wait_for()
    assert page.locator(".fact", has_text="images").locator("dd").first.inner_text().startswith("3")


def test_keys_alone_lead_from_a_folder_to_a_prediction(page: Page, suite: Stack, images: Sets, tmp_path: Path) -> None:
    page.goto(f"{suite.gateway}/studio/datasets")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the link that skips to the content
    tab_to(page, page.get_by_role("link", name="New dataset").first)
    page.keyboard.press("Enter")
    choose_by_key(page, page.locator("#folder"), by_class(images[0], tmp_path / "keys"))
    tab_to(page, page.get_by_label("Name of the dataset"))
    page.keyboard.press("Enter")

    tab_to(page, page.get_by_role("link", name="Correct labels"))
    page.keyboard.press("Enter")
    tab_to(page, page.locator(".picture").first)
    page.keyboard.press("Enter")
    tab_to(page, page.locator("#category"))
    page.keyboard.press("Control+a")
    page.keyboard.type("a new class")
    page.keyboard.press("Tab")
    page.get_by_text("Changes that are not saved: 1").wait_for()
    page.keyboard.press("Control+z")
    page.get_by_text("No changes yet.").wait_for()

    page.go_back()
    tab_to(page, page.get_by_role("link", name="Train a model"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_label("Name of the model"))
    page.keyboard.type("by-keys")
    tab_to(page, page.locator("#minutes"))
    page.keyboard.press("ArrowRight")
    tab_to(page, page.get_by_role("button", name="Start training"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("link", name="Try it"))  # there once training, followed live, has ended
    page.keyboard.press("Enter")
    picture = next((tmp_path / "keys").rglob("*.png"))
    choose_by_key(page, page.locator("#choose"), picture)
    page.get_by_role("img", name=f"{picture.name}: digit-").wait_for()


def test_boxes_are_drawn_moved_and_deleted_and_saved_as_a_new_version(page: Page, suite: Stack, tmp_path: Path) -> None:
    made, _ = scenes.write(tmp_path / "scenes", names=2, train=12, test=2)
    content = json.loads(made.coco.read_text())
    files = {one["id"]: one["file_name"] for one in content["images"]}
    with zipfile.ZipFile(tmp_path / "scenes.zip", "w") as archive:
        archive.write(made.coco, "labels.json")
        for name in files.values():
            archive.write(made.coco.parent / name, name)
    page.goto(f"{suite.gateway}/studio/new")
    page.set_input_files("#zip", tmp_path / "scenes.zip")
    page.get_by_label("Name of the dataset").fill("boxes")
    page.get_by_role("button", name="Upload and check").click()
    page.get_by_role("link", name="Correct labels").click()

    page.locator(".picture").first.click()
    boxes, before = page.locator("#boxes li"), len(content["annotations"])
    own = boxes.count()
    canvas = page.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    assert place
    page.mouse.move(place["x"] + 2, place["y"] + place["height"] - 4)
    page.mouse.down()
    page.mouse.move(place["x"] + 30, place["y"] + place["height"] - 40, steps=4)
    page.mouse.up()
    if boxes.count() == own:  # it began on another box, which was moved
        page.keyboard.press("Control+z")
        page.get_by_role("button", name="Add a box").click()
    assert boxes.count() == own + 1
    page.locator("#category").fill("drawn")
    page.locator("#category").press("Tab")
    drawn = page.locator("#boxes button", has_text="drawn")
    canvas.focus()
    sides = drawn.inner_text()
    page.keyboard.press("ArrowUp")
    assert drawn.inner_text() != sides
    page.keyboard.press("Control+z")
    assert drawn.inner_text() == sides
    page.get_by_role("combobox", name="zero", exact=True).fill("nought")
    page.get_by_role("combobox", name="zero", exact=True).press("Tab")
    page.get_by_role("button", name="Save as a new version").click()
    page.get_by_text("version 2").wait_for()
    page.get_by_role("link", name="nought").wait_for()
    assert page.locator(".fact", has_text="annotations").locator("dd").inner_text() == str(before + 1)
